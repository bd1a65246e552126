"""Joins what came of shown ads to the impression log: a log to train on.

The same as `tfrec join_feedback`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("join_feedback")
