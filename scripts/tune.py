"""Searches for better hyperparameters of a stage on the validation split.

The same as `tfrec tune`.
"""

import launch

if __name__ == "__main__":
    launch.command("tune")
