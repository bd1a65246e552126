"""Commands on releases and running services."""
