"""Converts a log into TFRecords, an encoder and an ad catalog.

The same as `tfrec convert`.
"""

import launch

if __name__ == "__main__":
    launch.command("convert")
