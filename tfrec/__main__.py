"""Runs the command line: `python -m tfrec COMMAND`, the same as `tfrec COMMAND`."""

from serving import cli

if __name__ == "__main__":
    cli.main()
