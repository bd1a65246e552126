"""Sets of eligible catalogue rows."""
