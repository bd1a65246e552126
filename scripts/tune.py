"""The same as `tfrec tune`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
