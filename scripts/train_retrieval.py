"""Trains stage 1, the two-tower model, on a converted data set.

The same as `tfrec train_retrieval`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("train_retrieval")
