"""Resolves filters to sets of eligible catalog rows."""
