"""Commands from a log to a release."""
