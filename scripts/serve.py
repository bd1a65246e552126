"""The same as `tfrec serve`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
