"""Converts a log as tfrec convert does, on a cluster under Apache Beam.

The same as `tfrec convert_beam`.
"""

import launch

if __name__ == "__main__":
    launch.command("convert_beam")
