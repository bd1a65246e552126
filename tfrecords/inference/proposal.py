"""Proposes a schema for a log from its first rows.

The proposal is a beginning: it loads and converts as it is, and its notes say what was
decided and why, for a person to edit.
"""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from tfrecords import schema
from tfrecords.inference import column_roles, log_sample, proposed_fields

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
    fields = proposed_fields.propose(samples, roles, notes)
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
