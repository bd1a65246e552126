"""Rebuilds a user store from the impression log and the logs of events.

The same as `tfrec rebuild_users`.
"""

import launch

if __name__ == "__main__":
    launch.command("rebuild_users")
