"""Heat maps by any method, and how methods compare."""
