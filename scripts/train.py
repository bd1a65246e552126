"""Trains both stages on a log and exports a release bundle.

The same as `tfrec train`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("train")
