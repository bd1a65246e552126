"""Pieces of HTML that reports share; cells are escaped here."""

import html
from collections.abc import Sequence

from tfrecords.pages import style

KEY = '<span class="key">training</span><span class="key test">test</span>'


def escaped(text: str) -> str:
    """Returns text as HTML; a number and its % sign stay on one line."""
    return html.escape(text, quote=True).replace(" %", "&nbsp;%")


def html_cells(*texts: str, wide: Sequence[int] = ()) -> list[str]:
    """Returns texts as cells of a table; those at `wide` may wrap."""
    return [
        f'<td class="wide left">{escaped(text)}</td>'
        if index in wide
        else f"<td>{escaped(text)}</td>"
        for index, text in enumerate(texts)
    ]


def html_bar(share: float, kind: str = "") -> str:
    """Returns a cell with a bar of a share of its width."""
    width = 100 * min(max(share, 0.0), 1.0)
    return f'<td class="bar"><i class="{kind}" style="width:{width:.1f}%"></i></td>'


def html_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (), kind: str = ""
) -> str:
    """Returns a table, which scrolls by itself where it is wider than the page.

    Args:
        head: The columns' titles.
        rows: Cells, as HTML.
        left: Columns aligned to the left beside the first.
        kind: CSS class.
    """
    titles = "".join(
        f'<th scope="col"{" class=left" if index in left else ""}>{escaped(title)}</th>'
        for index, title in enumerate(head)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            cell.replace("<td>", '<td class="left">', 1) if index in left else cell
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def html_figure(svg: str, caption: str) -> str:
    """Returns a figure; the caption is HTML."""
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def html_page(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Returns a page that needs nothing else, not even scripts.

    Args:
        title: HTML.
        head: HTML below the title.
        sections: Anchor, heading and HTML of each.
    """
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>'
        for name, heading, content in sections
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style.CSS}</style></head><body>"
        f"<h1>{title}</h1>{head}<nav>{links}</nav>{body}</body></html>\n"
    )
