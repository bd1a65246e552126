"""Converts a log as scripts/convert.py does, on a cluster under Apache Beam.

The same as `tfrec convert_beam`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("convert_beam")
