"""Runs concurrent requests as one batch."""
