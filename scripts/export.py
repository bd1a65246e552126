"""Exports both trained stages as the next release bundle.

The same as `tfrec export`.
"""

import launch

if __name__ == "__main__":
    launch.command("export")
