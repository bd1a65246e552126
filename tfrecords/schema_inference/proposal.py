"""Proposes a schema for a log from its first rows.

The proposal is a beginning: it loads and converts as it is, and its notes say what was
decided and why, for a person to edit.
"""

import collections
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tfrecords import schema
from tfrecords.schema_inference import column_roles, kinds, leaks, log_sample, sides
from tfrecords.schema_inference.column_roles import Roles
from tfrecords.schema_inference.log_sample import ADS, LOG, USERS, Column, Sample

# Arguments of the exported signatures, which no field can be named as.
_RESERVED = {"self", "ad_features"}


def propose_fields(
    samples: Sequence[Sample], roles: Roles, notes: list[str]
) -> list[dict[str, Any]]:
    """Returns the fields as JSON values; says in `notes` what was decided.

    Args:
        samples: Of the log first, then of users and ads where there are tables of them.
        roles: The keys and labels.
        notes: Extended.
    """
    total_rows = samples[0].total_rows
    min_count = _min_count(total_rows)
    dropped: dict[str, list[str]] = {}
    chosen: dict[str, list[Column]] = collections.defaultdict(list)
    spare: list[Column] = []
    for sample, column in _candidates(samples, roles):
        why = leaks.reason(column, sample, roles)
        side, because = sides.side(column, samples, roles)
        if why is None and side is not None:
            chosen[f"{side.capitalize()} side, {because}"].append(column)
        else:
            dropped.setdefault(why or because, []).append(column.name)
            if why in leaks.HARMLESS and side == "query":
                spare.append(column)
    if spare and not any(key.startswith("Query") for key in chosen):
        chosen["Query side, for want of anything better"] = spare[:1]
        dropped = {why: [n for n in own if n != spare[0].name] for why, own in dropped.items()}
    notes += [f"{key}: {shown([c.name for c in own])}." for key, own in chosen.items()]
    notes += [f"Left out ({why}): {shown(names)}." for why, names in dropped.items() if names]
    notes += _shared(samples)
    fields: list[dict[str, Any]] = []
    for key, own in chosen.items():
        side = key.split()[0].lower()
        for column in own:
            notes += leaks.warnings(column)
            is_key = column.name in (roles.ad_key.name, getattr(roles.user_key, "name", None))
            kind = {"kind": "categorical"} if is_key else kinds.kind(column, notes)
            fields.append(_field(column, side, kind, min_count, fields))
    rare = f"a value seen fewer than {min_count} times counts as unknown"
    rare = rare if min_count > 1 else "every value counts, however rare"
    notes.append(f"About {total_rows:,} rows: {rare} (min_count {min_count}).")
    return fields


def _field(
    column: Column,
    side: str,
    kind: dict[str, Any],
    min_count: int,
    fields: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    name = _safe_name(column.plain_name, {field["name"].lower() for field in fields})
    field: dict[str, Any] = {"name": name, "side": side, **kind}
    if name != column.name:
        field["column"] = column.name
    if field["kind"] != "numeric":
        field["min_count"] = min_count
    return field


def _shared(samples: Sequence[Sample]) -> list[str]:
    """Says which columns of the table of ads cannot be read, as that of users has them too."""
    of_table = {sample.table: set(sample.columns) for sample in samples}
    shared = of_table.get(USERS, set()) & of_table.get(ADS, set()) - of_table[LOG]
    if not shared:
        return []
    return [
        f"The tables of users and ads both have {shown(sorted(shared))}, and the users' is read; "
        "rename the ads'."
    ]


def shown(names: Sequence[str], most: int = 12) -> str:
    """Returns the first names and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _candidates(samples: Sequence[Sample], roles: Roles) -> Iterator[tuple[Sample, Column]]:
    """Yields each column that may be a field; the log's comes before a table's."""
    in_roles = roles.names()
    # The log's own keys are fields too: the user and the ad that are known by their ids.
    keys = {key.name for key in (roles.user_key, roles.ad_key) if key is not None}
    seen: set[str] = set()
    for sample in samples:
        for column in sample.columns.values():
            if column.name in seen or column.name in in_roles - keys:
                continue
            seen.add(column.name)
            yield sample, column


def _min_count(total_rows: int) -> int:
    if total_rows < 10_000:
        return 1
    return 2 if total_rows < 500_000 else 5


def _safe_name(name: str, taken: set[str]) -> str:
    """Returns a name of letters, digits and `_` that no other is, in whatever case."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    if not re.match("[A-Za-z]", safe):
        safe = f"field_{safe}".rstrip("_")
    if safe in _RESERVED:
        safe = f"{safe}_field"
    names = (safe, *(f"{safe}_{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name.lower() not in taken)


_ROLES = ("engagement", "revenue", "request_key", "time", "position", "user_key", "split")


def propose(
    paths: Sequence[pathlib.Path],
    users: pathlib.Path | None = None,
    ads: pathlib.Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Proposes a schema.

    Args:
        paths: The log: CSV, TSV or Parquet files; the first rows of the first are looked at.
        users: Table of users, or None.
        ads: Table of ads, or None.

    Returns:
        The schema as JSON values that `schema.schema_from_json` reads, and notes in plain words.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be read, no column looks like the ad, a table shares no key
            with the log, or no column tells of the user or context.
    """
    tables = [(paths, log_sample.LOG)]
    tables += [([users], log_sample.USERS)] if users is not None else []
    tables += [([ads], log_sample.ADS)] if ads is not None else []
    samples = [log_sample.read(files, table) for files, table in tables]
    of_table = {sample.table: sample for sample in samples}
    notes = [note for sample in samples for note in sample.notes]
    roles = column_roles.find(
        samples[0], of_table.get(log_sample.USERS), of_table.get(log_sample.ADS), notes
    )
    fields = propose_fields(samples, roles, notes)
    if not any(field["side"] == "query" for field in fields):
        raise ValueError(
            f"{paths[0]}: no column tells of the user or context, so there is nothing to "
            "recommend by; add one, such as a user id, a country or an hour. " + " ".join(notes)
        )
    proposal: dict[str, Any] = {
        "name": _name(paths[0]),
        "fields": fields,
        "ad_key": [roles.ad_key.name],
        "click": None if roles.click is None else roles.click.name,
    }
    if roles.click_threshold is not None:
        proposal["click_threshold"] = roles.click_threshold
    for role in _ROLES:
        column = getattr(roles, role)
        if column is not None:
            proposal[role] = column.name
    schema.schema_from_json(proposal)
    return proposal, notes


def write_proposal(
    paths: Sequence[pathlib.Path],
    users: pathlib.Path | None,
    ads: pathlib.Path | None,
    target_path: pathlib.Path,
) -> str:
    """Writes a proposed schema file.

    Args:
        paths: The log's files.
        users: Table of users, or None.
        ads: Table of ads, or None.
        target_path: The schema file; it must not exist yet.

    Returns:
        What to tell the person who will edit it.

    Raises:
        FileExistsError: There is such a file, perhaps edited by hand.
        FileNotFoundError, ValueError: As `propose`.
    """
    if target_path.exists():
        raise FileExistsError(f"{target_path} exists; move it away, or name another file.")
    proposal, notes = propose(paths, users, ads)
    target_path.parent.mkdir(parents=True, exist_ok=True)
    target_path.write_text(_text(proposal), encoding="utf-8")
    points = "\n".join(f"  - {note}" for note in notes)
    return (
        f"Wrote a proposed schema of {len(proposal['fields'])} fields to {target_path}.\n"
        f"{points}\n"
        "Look it over, edit the file where this is wrong, then convert with "
        f"--format=tabular --schema_path={target_path}."
    )


def _text(proposal: dict[str, Any]) -> str:
    """Returns a proposal as JSON with a field on each line."""
    fields = ",\n    ".join(json.dumps(field, ensure_ascii=False) for field in proposal["fields"])
    lines = []
    for key, value in proposal.items():
        shown = (
            f"[\n    {fields}\n  ]" if key == "fields" else json.dumps(value, ensure_ascii=False)
        )
        lines.append(f"  {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _name(path: pathlib.Path) -> str:
    stem = path.name.removesuffix(".gz").split(".")[0]
    return re.sub(r"\W+", "_", stem).strip("_") or "log"
