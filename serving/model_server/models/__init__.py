"""Loaded models and their versions."""
