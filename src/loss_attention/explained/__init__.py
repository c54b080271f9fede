"""Image files explained: read, computed in batches, and written in the form that is asked for."""
