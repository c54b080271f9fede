"""What people read: tables, pictures, what is written of explained images, the page of a run."""
