"""Adds, changes and removes ads of a release that may be in use, without a rebuild.

The same as `tfrec update_index`.
"""

import launch

if __name__ == "__main__":
    launch.command("update_index")
