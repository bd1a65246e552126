"""The operations behind both APIs."""
