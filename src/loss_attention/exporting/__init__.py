"""Models as files that other programs run: written, checked, quantised, and run without torch."""
