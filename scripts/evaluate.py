"""The same as `tfrec evaluate`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
