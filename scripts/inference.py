"""Asks a release bundle, or a running service, for ranked ads.

The same as `tfrec inference`.
"""

import launch

if __name__ == "__main__":
    launch.command("inference")
