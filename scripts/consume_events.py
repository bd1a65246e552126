"""The same as `tfrec consume_events`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
