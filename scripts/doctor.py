"""The same as `tfrec doctor`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
