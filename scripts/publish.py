"""Publishes models of any framework, and a table of ads, as the next release.

The same as `tfrec publish`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("publish")
