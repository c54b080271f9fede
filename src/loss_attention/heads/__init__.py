"""What turns patch features into an image decision."""
