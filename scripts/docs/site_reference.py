"""Reference pages of the site: the commands, and the public API of the packages.

The page of a command has its docstring and a table of its flags.
"""

import html
import importlib
import multiprocessing
import pathlib
from collections.abc import Iterator

from absl import flags

# Most commands import the index: once here instead of in each process.
from serving import index  # noqa: F401
from serving.cli import entry

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PACKAGES = ("tfrecords", "tfrec", "serving")


def entries(folder: str) -> list[dict[str, str]]:
    """Returns the entries of the navigation, title and page, of a folder of the reference."""
    if folder == "commands":
        return [{f"tfrec {name}": f"commands/{name}.md"} for name in entry.MODULES]
    return [{name: f"reference/{name}.md"} for name in _modules(folder.removeprefix("reference/"))]


def pages() -> Iterator[tuple[str, str]]:
    """Yields the path and the text, in Markdown, of each page."""
    # Commands that define the same flag cannot be imported by one process.
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield from pool.imap(_command_page, entry.MODULES, chunksize=1)
    for name in (name for package in _PACKAGES for name in _modules(package)):
        yield f"reference/{name}.md", f"# `{name}`\n\n::: {name}\n"


def _command_page(name: str) -> tuple[str, str]:
    module = importlib.import_module(entry.MODULES[name])
    command_flags = flags.FLAGS.get_key_flags_for_module(module)
    rows = [
        f"| `--{flag.name}` | {_default(flag)} | {_meaning(flag)} |"
        for flag in sorted(command_flags, key=lambda flag: flag.name)
    ]
    table = ["| flag | default | meaning |", "| --- | --- | --- |", *rows]
    text = "\n".join([f"# tfrec {name}", "", module.__doc__ or "", "", *table, ""])
    return f"commands/{name}.md", text


def _default(flag: flags.Flag) -> str:
    if flag.default is None or flag.default == "":
        return ""
    return f"`{flag.default_as_str.strip(chr(39))}`"


def _meaning(flag: flags.Flag) -> str:
    text = " ".join(flag.help.split())
    known = getattr(flag.parser, "enum_values", None)
    if known:
        # absl puts the values before the help of an enum flag.
        text = f"{text.partition('>: ')[2]} One of {', '.join(known)}."
    return html.escape(text, quote=False).replace("|", "\\|")


def _modules(package: str) -> Iterator[str]:
    """Yields the public modules: a package, if it exports names, its sub-packages and modules."""
    if "__all__" in (_ROOT / package / "__init__.py").read_text(encoding="utf-8"):
        yield package
    for path in sorted((_ROOT / package).iterdir()):
        is_package = (path / "__init__.py").is_file()
        if is_package or (path.suffix == ".py" and not path.stem.startswith("_")):
            yield f"{package}.{path.stem}"
