"""Publishes, verifies, promotes, rolls back, canaries, lists and prunes releases.

The same as `tfrec release`.
"""

import launch

if __name__ == "__main__":
    launch.command("release")
