"""The same as `tfrec inspect_dataset`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
