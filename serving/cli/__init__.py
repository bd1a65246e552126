"""The commands of `tfrec` and their flags."""

from serving.cli.command_line import require_extra, run
from serving.cli.entry import main, run_command
from serving.cli.shared_flags import define_flags, from_flags

__all__ = [
    "define_flags",
    "from_flags",
    "main",
    "require_extra",
    "run",
    "run_command",
]
