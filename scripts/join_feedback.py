"""Joins feedback to the impression log, which gives the next training log.

The same as `tfrec join_feedback`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("join_feedback")
