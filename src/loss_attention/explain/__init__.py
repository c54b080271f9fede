"""Pictures and reports of what a model saw."""
