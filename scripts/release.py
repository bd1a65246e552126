"""Publishes, verifies, promotes, rolls back, canaries, lists and prunes releases.

The same as `tfrec release`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("release")
