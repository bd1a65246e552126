"""Trains stage 1, the two-tower model, on a converted data set.

The same as `tfrec train_retrieval`.
"""

import launch

if __name__ == "__main__":
    launch.command("train_retrieval")
