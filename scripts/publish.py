"""The same as `tfrec publish`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
