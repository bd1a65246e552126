"""Files of rows: delimited text, Parquet, and tables joined to a log."""
