"""The same as `tfrec rebuild_users`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
