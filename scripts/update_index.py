"""Adds, changes and removes ads of a release that may be in use, without a rebuild.

The same as `tfrec update_index`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("update_index")
