"""The releases of a base directory as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each row of `releases.list_releases`."""
    lines = [
        f"{'release':>7}  {'role':12} {'in use':6}  {'created (UTC)':19}  {'ads':>10}  {'MB':>7}  "
        f"{'click NE':>8}  notes"
    ]
    for row in rows:
        role = row["role"] or ""
        if row["share"] is not None:
            role = f"{role} {row['share']:.1%}"
        in_use = {True: "yes", False: "no", None: "?"}[row["in_use"]]
        start = f"{row['version']:7}  {role:12} {in_use:6}"
        if row["problem"] is not None:
            lines.append(f"{start}  {row['problem']}")
            continue
        figures = (row["validation"] or {}).get("click", {}).get("normalized_entropy")
        entropy = "–" if figures is None else f"{figures:.4f}"
        notes = "published by force" if row["forced"] else ""
        lines.append(
            f"{start}  {row['created'][:19].replace('T', ' '):19}  {row['num_ads']:10,}  "
            f"{row['bytes'] / 1e6:7,.1f}  {entropy:>8}  {notes}".rstrip()
        )
    return "\n".join(lines)
