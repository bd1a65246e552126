"""Serves a release bundle: REST in front, the model server behind.

The same as `tfrec serve`.
"""

import launch

if __name__ == "__main__":
    launch.command("serve")
