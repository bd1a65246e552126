"""Formats the releases of a base directory as a text table."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrecords import terminal


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns releases as a text table.

    Args:
        rows: Rows of `releases.list_releases`.
    """
    head = ("release", "role", "in use", "created (UTC)", "ads", "MB", "click NE", "notes")
    cells = []
    for row in rows:
        role = row["role"] or ""
        if row["share"] is not None:
            role = f"{role} {row['share']:.1%}"
        in_use = {True: "yes", False: "no", None: "?"}[row["in_use"]]
        start = [str(row["version"]), role, in_use]
        if row["problem"] is not None:
            cells.append([*start, "", "", "", "", row["problem"]])
            continue
        figures = (row["validation"] or {}).get("click", {}).get("normalized_entropy")
        cells.append(
            [
                *start,
                row["created"][:19].replace("T", " "),
                f"{row['num_ads']:,}",
                f"{row['bytes'] / 1e6:,.1f}",
                "–" if figures is None else f"{figures:.4f}",
                "published with --force" if row["forced"] else "",
            ]
        )
    return terminal.text_table(head, cells, left=(0, 1, 2, 3, 7))
