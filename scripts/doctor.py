"""Checks a running model server and service against a release bundle.

The same as `tfrec doctor`.
"""

import launch

if __name__ == "__main__":
    launch.command("doctor")
