"""The same as `tfrec train`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
