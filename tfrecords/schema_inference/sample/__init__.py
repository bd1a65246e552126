"""The sample of a log from which a schema is proposed: its files, columns and values."""
