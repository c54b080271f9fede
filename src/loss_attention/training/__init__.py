"""Recipes, the loop, and what it saves."""
