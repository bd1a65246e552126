"""Groups the rejected rows of a conversion by reason."""

import collections
import pathlib
import re
from typing import Any

_EXAMPLES = 5
_REASONS = 10
_RAW_CHARACTERS = 160
# A reason ends with the rejected value, which differs between rows.
_GOT = re.compile(r"\bgot\b.*", re.DOTALL)
_UNPARSED = "it cannot be parsed"
_QUOTED_OR_NUMBER = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


def describe(path: pathlib.Path, lines: int) -> dict[str, Any]:
    """Describes the rejected rows.

    Args:
        path: Path of `rejected.tsv`: file, line, reason and raw text of each row.
        lines: Number of all rows.

    Returns:
        JSON values: number and share of rejected rows, most common reasons and first examples.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line does not have these four columns.
    """
    reasons: collections.Counter[str] = collections.Counter()
    examples: list[dict[str, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip(b"\n").decode(errors="replace").split("\t", 3)
            if len(parts) != 4:
                raise ValueError(
                    f"{path}, line {number}: {len(parts)} columns; expected file, line, reason and "
                    "text. Convert the log again."
                )
            reasons[blanked(parts[2])] += 1
            if len(examples) < _EXAMPLES:
                names = ("file", "line", "reason", "text")
                examples.append(dict(zip(names, parts, strict=True)))
                examples[-1]["text"] = _shortened(parts[3])
    count = sum(reasons.values())
    return {
        "lines": lines,
        "count": count,
        "share": count / lines if lines else None,
        "distinct_reasons": len(reasons),
        "reasons": [{"reason": r, "count": c} for r, c in reasons.most_common(_REASONS)],
        "examples": examples,
    }


def blanked(reason: str) -> str:
    """Returns a reason without the rejected value, so that equal reasons are equal texts."""
    if reason.startswith(_UNPARSED):
        return _QUOTED_OR_NUMBER.sub("…", reason)
    return _GOT.sub("got …", reason)


def _shortened(text: str) -> str:
    return text if len(text) <= _RAW_CHARACTERS else text[:_RAW_CHARACTERS] + " …"
