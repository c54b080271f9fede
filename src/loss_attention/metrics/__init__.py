"""Metrics, as pure functions on tensors; docs/measures.md names them all."""
