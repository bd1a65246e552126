"""The same as `tfrec tune_index`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
