"""The same as `tfrec model_config`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
