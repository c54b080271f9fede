"""Images with labels and boxes, from wherever they come."""
