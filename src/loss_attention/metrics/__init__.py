"""Measures, as pure functions."""
