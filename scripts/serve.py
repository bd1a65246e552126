"""Serves a release bundle: REST in front, the model server behind.

The same as `tfrec serve`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("serve")
