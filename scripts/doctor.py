"""Checks a running model server and service against a release bundle.

The same as `tfrec doctor`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("doctor")
