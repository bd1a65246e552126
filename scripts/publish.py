"""Publishes models of any framework, and a table of ads, as the next release.

The same as `tfrec publish`.
"""

import launch

if __name__ == "__main__":
    launch.command("publish")
