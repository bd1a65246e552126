"""Joins feedback to the impression log, which gives the next training log.

The same as `tfrec join_feedback`.
"""

import launch

if __name__ == "__main__":
    launch.command("join_feedback")
