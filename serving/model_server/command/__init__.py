"""The model server as a command."""
