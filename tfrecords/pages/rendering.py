"""Tables, and HTML pages from templates; every value is escaped."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jinja2

from tfrecords.pages import number_format


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


def render_page(package: str, template: str, **values: Any) -> str:
    """Renders a page that loads nothing, neither scripts nor styles.

    Args:
        package: Package whose `templates` directory holds the template; the template extends
            `page.html.jinja`.
        template: File name.
        **values: Variables of the template: `title`, `sections` (id -> heading) and others.
    """
    return _environment(package).get_template(template).render(**values)


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    loaders = [jinja2.PackageLoader(name) for name in (package, "tfrecords.pages")]
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_without_break,
        keep_trailing_newline=True,
        loader=jinja2.ChoiceLoader(loaders),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        decimal=number_format.format_decimal,
        mean=number_format.format_mean,
        percent=number_format.format_percent,
        whole=number_format.format_count,
    )
    return environment


def _without_break(value: Any) -> Any:
    """Keeps a number and its % sign on one line."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value
