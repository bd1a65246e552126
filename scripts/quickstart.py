"""From a log to ten ranked ads in one command.

The same as `tfrec quickstart`.
"""

import launch

if __name__ == "__main__":
    launch.command("quickstart")
