"""Trains both stages on a log and exports a release bundle.

The same as `tfrec train`.
"""

import launch

if __name__ == "__main__":
    launch.command("train")
