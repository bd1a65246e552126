"""Trains stage 2, the multi-head-attention ranker, on a converted data set.

The same as `tfrec train_ranker`.
"""

import launch

if __name__ == "__main__":
    launch.command("train_ranker")
