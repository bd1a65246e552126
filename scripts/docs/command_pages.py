"""Reference pages of the commands: a command's docstring, and a table of its flags."""

import html
import importlib
import multiprocessing
from collections.abc import Iterator

from absl import flags

# Most commands import the index: once here instead of in each process.
from serving import index  # noqa: F401
from serving.cli import entry

COMMANDS = tuple(entry.MODULES)


def command_pages() -> Iterator[tuple[str, str]]:
    """Yields the name and the page, in Markdown, of each command."""
    # Commands that define the same flag cannot be imported by one process.
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield from zip(COMMANDS, pool.imap(_command_page, COMMANDS, chunksize=1), strict=True)


def _command_page(name: str) -> str:
    module = importlib.import_module(entry.MODULES[name])
    own = flags.FLAGS.get_key_flags_for_module(module)
    rows = [
        f"| `--{flag.name}` | {_default(flag)} | {_meaning(flag)} |"
        for flag in sorted(own, key=lambda flag: flag.name)
    ]
    table = ["| flag | default | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join([f"# tfrec {name}", "", module.__doc__ or "", "", *table, ""])


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
