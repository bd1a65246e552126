"""The commands of `tfrec` and their flags.

Flags that several commands share are in `serving.cli.flags`; importing one of its modules defines
them.
"""

from serving.cli.command_line import require_extra, run
from serving.cli.config_flags import define_flags, from_flags
from serving.cli.entry import main, run_command

__all__ = [
    "define_flags",
    "from_flags",
    "main",
    "require_extra",
    "run",
    "run_command",
]
