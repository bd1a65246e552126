"""A table that a page and the terminal show alike."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table; `show_table` of `macros.html.jinja` and `terminal.text_table` render it.

    Attributes:
        head: Titles of the columns.
        rows: Cells of each row.
        left: Indices of left-aligned columns other than the first one.
        wide: Indices of columns that may wrap.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: tuple[int, ...] = ()
    wide: tuple[int, ...] = ()
