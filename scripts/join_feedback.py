"""The same as `tfrec join_feedback`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
