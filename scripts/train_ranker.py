"""Trains stage 2, the multi-head-attention ranker, on a converted data set.

The same as `tfrec train_ranker`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("train_ranker")
