"""Asks a release bundle, or a running service, for ranked ads.

The same as `tfrec inference`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("inference")
