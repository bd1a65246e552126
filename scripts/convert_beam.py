"""Converts a log as tfrec convert does, on a cluster under Apache Beam.

The same as `tfrec convert_beam`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("convert_beam")
