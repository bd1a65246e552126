"""Searches better hyperparameters of a stage on the validation split.

The same as `tfrec tune`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("tune")
