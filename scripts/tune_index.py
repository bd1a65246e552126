"""Chooses the ad index for a recall target, a latency budget and a memory limit.

The same as `tfrec tune_index`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("tune_index")
