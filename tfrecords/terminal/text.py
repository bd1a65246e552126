"""Tables, lists and spelling suggestions as plain text."""

import difflib
import io
from collections.abc import Collection, Iterable, Sequence

from rich import console, table, text

# Wider than any table: nothing is wrapped or cut.
_MAX_WIDTH = 1_000


def cut_text(text: str, width: int) -> str:
    """Returns a text, or its start and an ellipsis if it is longer than `width` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def format_count(count: int, singular: str, plural: str | None = None) -> str:
    """Returns a number and its noun, such as "1 ad" or "2,000 ads".

    Args:
        count: The number.
        singular: The noun, with the rest of the clause if its verb has a number, too.
        plural: The same for numbers other than 1. None: `singular` with an s.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def format_list(items: Sequence[str], max_items: int = 8) -> str:
    """Joins up to `max_items` items, followed by the number of further ones."""
    more = f" and {len(items) - max_items} more" if len(items) > max_items else ""
    return ", ".join(items[:max_items]) + more


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """Returns aligned columns, two spaces apart.

    Args:
        head: Titles of the columns.
        rows: Cells of each row; missing ones at its end are empty.
        left: Indices of left-aligned columns.
    """
    columns = table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(head):
        columns.add_column(text.Text(title), justify="left" if index in left else "right")
    for row in rows:
        columns.add_row(*map(text.Text, row))
    output = io.StringIO()
    console.Console(file=output, width=_MAX_WIDTH, color_system=None).print(columns)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def suggestion_for(value: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the known name closest to `value`, or ""."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(value.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""
