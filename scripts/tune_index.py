"""Chooses the ad index for a recall target, a latency budget and a memory limit.

The same as `tfrec tune_index`.
"""

import launch

if __name__ == "__main__":
    launch.command("tune_index")
