"""The program `tfrec`, which runs the module of a command.

A command is a module with `main`, flags, and a docstring that --help shows. It imports slow modules
such as TensorFlow inside functions, so that help and flag errors appear immediately.
"""

import ast
import importlib
import importlib.util
import pathlib
import sys

import tfrec
from serving.cli import command_line

_OFFLINE = (
    "quickstart",
    "convert",
    "inspect_dataset",
    "train",
    "train_retrieval",
    "train_ranker",
    "tune",
    "evaluate",
    "export",
    "publish",
)
_ONLINE = (
    "inference",
    "serve",
    "release",
    "doctor",
    "update_index",
    "join_feedback",
)
MODULES = {
    **{name: f"serving.cli.offline.{name}" for name in _OFFLINE},
    **{name: f"serving.cli.online.{name}" for name in _ONLINE},
}


def main() -> None:
    """Runs `tfrec COMMAND --flag=value …`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in (*command_line.HELP, "help"):
        print(_help())
        return
    if name == "--version":
        print(f"tfrec {tfrec.__version__}")
        return
    command = name.replace("-", "_")
    if command not in MODULES:
        command_line.fail(f"Expected a command, got {name!r}. See tfrec --help.")
    sys.argv = [f"tfrec {name}", *sys.argv[2:]]
    run_command(command)


def run_command(name: str) -> None:
    """Runs a command, a key of `MODULES`, with the flags of the command line."""
    command = importlib.import_module(MODULES[name])
    command_line.run(command.main, getattr(command, "OTHER_FLAGS", None))


def _help() -> str:
    return "\n".join(
        [
            "tfrec: a two-stage ad recommender on TensorFlow.",
            "",
            "usage: tfrec COMMAND [--flag=value ...]",
            "       tfrec COMMAND --help explains a command, with examples and its flags.",
            "       tfrec --version",
            "",
            "From a log to a release:",
            *_summaries(_OFFLINE),
            "",
            "From a release to answers:",
            *_summaries(_ONLINE),
        ]
    )


def _summaries(names: tuple[str, ...]) -> list[str]:
    width = max(map(len, MODULES)) + 2
    return [f"  {name:{width}}{_summary(MODULES[name])}" for name in names]


def _summary(module: str) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]
