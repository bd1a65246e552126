"""Measures an index and chooses its kind and parameters."""
