"""Groups the rejected rows of a conversion by reason."""

import collections
import pathlib
import re

from tfrecords.card import model, statistics

_EXAMPLES = 5
_REASONS = 10
_RAW_CHARACTERS = 160
# A reason ends with the rejected value, which differs between rows.
_GOT = re.compile(r"\bgot\b.*", re.DOTALL)
_UNPARSED = "it cannot be parsed"
_QUOTED_OR_NUMBER = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


def describe(path: pathlib.Path, lines: int) -> model.RejectedRows:
    """Describes the rejected rows in `rejected.tsv`: file, line, reason and raw text of each.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line does not have these four columns.
    """
    reasons: collections.Counter[str] = collections.Counter()
    examples: list[model.RejectedRow] = []
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
                log_file, line_number, reason, text = parts
                text = text if len(text) <= _RAW_CHARACTERS else f"{text[:_RAW_CHARACTERS]} …"
                examples.append(
                    model.RejectedRow(file=log_file, line=line_number, reason=reason, text=text)
                )
    count = sum(reasons.values())
    return model.RejectedRows(
        lines=lines,
        count=count,
        share=statistics.share(count, lines),
        distinct_reasons=len(reasons),
        reasons=[
            model.RejectedReason(reason=reason, count=num_rows)
            for reason, num_rows in reasons.most_common(_REASONS)
        ],
        examples=examples,
    )


def blanked(reason: str) -> str:
    """Returns a reason without the rejected value, so that equal reasons are equal texts."""
    if reason.startswith(_UNPARSED):
        return _QUOTED_OR_NUMBER.sub("…", reason)
    return _GOT.sub("got …", reason)
