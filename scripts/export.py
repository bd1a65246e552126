"""The same as `tfrec export`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
