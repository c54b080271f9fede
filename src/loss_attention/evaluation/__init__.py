"""A model and data in, named metrics with their trivial baselines out."""
