"""Bags of instances that have a label together: the same head for sets, slides and tables."""
