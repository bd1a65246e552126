"""The same as `tfrec release`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
