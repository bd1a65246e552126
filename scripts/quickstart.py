"""The same as `tfrec quickstart`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
