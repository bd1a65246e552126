"""The same as `tfrec train_retrieval`."""

import launch

if __name__ == "__main__":
    launch.command(__file__)
