"""The command `tfrec`: finds the module of a subcommand and runs it."""

import ast
import importlib
import importlib.util
import pathlib
import sys

from serving.cli import command_line, flag_messages
from tfrecords import terminal

_OFFLINE = (
    "quickstart",
    "convert",
    "convert_beam",
    "inspect_dataset",
    "train",
    "train_retrieval",
    "train_ranker",
    "evaluate",
    "export",
)
_ONLINE = (
    "inference",
    "serve",
    "release",
    "doctor",
    "update_index",
    "tune_index",
    "model_config",
    "join_feedback",
)
MODULES = {
    **{name: f"serving.cli.offline.{name}" for name in _OFFLINE},
    **{name: f"serving.cli.online.{name}" for name in _ONLINE},
}


def main() -> None:
    """Runs `tfrec COMMAND --flag=value …`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-help", "-h", "help"):
        print(_help())
        return
    if name == "--version":
        import tfrec

        print(f"tfrec {tfrec.__version__}")
        return
    command = name.replace("-", "_")
    if command not in MODULES:
        hint = terminal.suggestion_for(command, MODULES)
        flag_messages.fail(f"Unknown command {name!r}.{hint} See tfrec --help.")
    sys.argv = [f"tfrec {name}", *sys.argv[2:]]
    run_command(command)


def run_command(name: str) -> None:
    """Runs a command with the flags of the command line.

    Args:
        name: One of `MODULES`.
    """
    module = importlib.import_module(MODULES[name])
    if hasattr(module, "own_arguments"):
        sys.argv[1:] = module.own_arguments(sys.argv[1:])
    command_line.run(module.main, module)


def _help() -> str:
    width = max(map(len, MODULES)) + 2
    lines = [f"  {name:{width}}{_summary(module)}" for name, module in MODULES.items()]
    return "\n".join(
        [
            "tfrec: a two-stage ad recommender on TensorFlow.",
            "",
            "usage: tfrec COMMAND [--flag=value ...]; tfrec COMMAND --help explains its flags.",
            "",
            *lines,
        ]
    )


def _summary(module: str) -> str:
    """Returns the first line of a module's docstring, without importing it."""
    spec = importlib.util.find_spec(module)
    path = pathlib.Path(spec.origin) if spec and spec.origin else None
    tree = ast.parse(path.read_text(encoding="utf-8") if path else "")
    return (ast.get_docstring(tree) or "").split("\n")[0]
