"""The same as `tfrec update_index`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
