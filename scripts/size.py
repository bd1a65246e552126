"""Estimates the machines, memory and network that a deployment needs.

The same as `tfrec size`.
"""

import launch

if __name__ == "__main__":
    launch.command("size")
