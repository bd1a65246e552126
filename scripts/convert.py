"""Converts a log into TFRecords, an encoder and an ad catalog.

The same as `tfrec convert`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("convert")
