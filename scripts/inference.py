"""The same as `tfrec inference`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
