"""The same as `tfrec size`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
