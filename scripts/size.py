"""Estimates machines, memory and network for numbers of ads, requests and users.

The same as `tfrec size`.
"""

import launch

if __name__ == "__main__":
    launch.command("size")
