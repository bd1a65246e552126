"""Runs the tfrec command that a script is named after.

If the interpreter lacks tfrec, it prints the command to type instead.
"""

import pathlib
import shlex
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(script: str) -> None:
    """Runs `tfrec NAME` with the flags of the command line.

    Args:
        script: `__file__` of the script, which has the name of the command.
    """
    try:
        from serving import cli
    except ModuleNotFoundError as error:
        sys.exit(f"error: {sys.executable} has no module {error.name!r}. Type:\n{_remedy()}")
    cli.run_command(pathlib.Path(script).stem)


def _remedy() -> str:
    """Returns the command lines that run the script in the environment of the repository."""
    python = _ROOT / ".venv" / "bin" / "python"
    lines = [] if python.exists() else [f"  make -C {shlex.quote(str(_ROOT))} .venv/.installed"]
    return "\n".join([*lines, f"  {shlex.join([str(python), *sys.argv])}"])
