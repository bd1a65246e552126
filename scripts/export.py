"""Exports both trained stages as the next release bundle.

The same as `tfrec export`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("export")
