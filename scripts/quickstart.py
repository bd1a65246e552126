"""From a log to ten ranked ads in one command.

The same as `tfrec quickstart`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("quickstart")
