"""The same as `tfrec convert`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
