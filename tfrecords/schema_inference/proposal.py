"""Proposes a schema for a log from the first rows of its files.

The proposal is a starting point: it can be used unchanged, and its notes explain the decisions, so
that a person can edit it.
"""

import collections
import dataclasses
import json
import pathlib
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tfrecords import files, formats, schema, terminal
from tfrecords.schema_inference import (
    column_roles,
    computed_fields,
    kinds,
    known_names,
    leaks,
    sides,
)
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import file_columns, log_sample
from tfrecords.schema_inference.sample.log_sample import ADS, LOG, USERS, Column, Sample

# If there are more notes of a kind than this, only the first few are shown.
_MAX_OF_A_KIND, _FIRST_OF_A_KIND = 6, 3
_COLUMN = re.compile(r"'[^']*'")
_VARYING = re.compile(r"'[^']*'|[\d.]+%?")
# Values of `min_count` for logs with fewer rows than this; it is 5 for larger logs.
_MIN_COUNTS = ((10_000, 1), (500_000, 2))
# Arguments of the exported signatures; fields cannot have these names.
_RESERVED = {"self", "ad_features"}


def propose_fields(
    samples: Sequence[Sample], roles: Roles, notes: list[str]
) -> list[dict[str, Any]]:
    """Returns the fields as JSON values."""
    total_rows = samples[0].total_rows
    min_count = next((count for rows, count in _MIN_COUNTS if total_rows < rows), 5)
    dropped: dict[str, list[str]] = {}
    chosen: dict[str, list[Column]] = collections.defaultdict(list)
    fallback: list[Column] = []
    for sample, column in _candidates(samples, roles):
        why = leaks.reason(column, sample, roles)
        side, because = sides.side(column, samples, roles)
        if why is None and side is not None:
            chosen[f"{side.capitalize()} side, {because}"].append(column)
        else:
            dropped.setdefault(why or because, []).append(column.name)
            if why in leaks.HARMLESS and side == "query":
                fallback.append(column)
    if fallback and not any(key.startswith("Query") for key in chosen):
        chosen["Query side, as a fallback"] = fallback[:1]
        dropped = {
            why: [n for n in names if n != fallback[0].name] for why, names in dropped.items()
        }
    notes += [f"{key}: {_quoted([c.name for c in members])}." for key, members in chosen.items()]
    notes += [f"Left out ({why}): {_quoted(names)}." for why, names in dropped.items() if names]
    outcomes = [n for n in dropped.get(leaks.BY_NAME, []) if _is_amount_of_log(samples[0], n)]
    if outcomes and roles.click is None and roles.events is None:
        notes.append(
            f"If rows are impressions, an outcome can be the click, with a click_threshold: "
            f"{_quoted(outcomes)}."
        )
    notes += _shared(samples)
    fields: list[dict[str, Any]] = []
    renamed: list[str] = []
    # A column whose name can stay keeps it.
    names = {column.plain_name for members in chosen.values() for column in members}
    kept = {name for name in names if _safe_name(name, set()) == name}
    for key, members in chosen.items():
        side = key.split()[0].lower()
        for column in members:
            notes += leaks.warnings(column)
            is_key = column.name in (roles.ad_key.name, getattr(roles.user_key, "name", None))
            is_id = is_key or kinds.has_ids_of(roles.ad_key, column)
            kind = {"kind": "categorical"} if is_id else kinds.kind(column, notes)
            notes += [] if is_key or kind["kind"] == "numeric" else kinds.placeholder_notes(column)
            fields.append(_field(column, side, kind, min_count, fields, kept))
            if fields[-1]["name"] != column.plain_name:
                renamed.append(f"{column.name!r} is {fields[-1]['name']!r}")
    if renamed:
        listed = terminal.format_list(renamed, 12)
        notes.append(f"Field names can have only letters, digits and _: {listed}.")
    rare = f"values seen fewer than {min_count} times are out of vocabulary"
    rare = rare if min_count > 1 else "all values are in the vocabulary, however rare"
    notes.append(f"About {total_rows:,} rows: {rare} (min_count {min_count}).")
    return fields


def _field(
    column: Column,
    side: str,
    kind: dict[str, Any],
    min_count: int,
    fields: Sequence[dict[str, Any]],
    kept: Collection[str],
) -> dict[str, Any]:
    taken = {field["name"].lower() for field in fields}
    if column.plain_name not in kept:
        taken |= {name.lower() for name in kept}
    name = _safe_name(column.plain_name, taken)
    field: dict[str, Any] = {"name": name, "side": side, **kind}
    if name != column.name:
        field["column"] = column.name
    if field["kind"] in ("categorical", "categorical_list"):
        field["min_count"] = min_count
    return field


def _is_amount_of_log(log: Sample, name: str) -> bool:
    """Returns whether a column of the log is numeric with several values."""
    column = log.columns.get(name)
    return column is not None and column.is_numeric and len(column.known) > 2


def _shared(samples: Sequence[Sample]) -> list[str]:
    """Returns a note on columns of both tables, which are read from the table of users."""
    names_by_table = {sample.table: set(sample.columns) for sample in samples}
    shared = names_by_table.get(USERS, set()) & names_by_table.get(ADS, set()) - names_by_table[LOG]
    if not shared:
        return []
    return [
        f"The tables of users and ads both have {_quoted(sorted(shared))}; the users' column is "
        "read. Rename the ads' to read it."
    ]


def _quoted(names: Sequence[str]) -> str:
    return terminal.format_list([repr(name) for name in names], 12)


def _candidates(samples: Sequence[Sample], roles: Roles) -> Iterator[tuple[Sample, Column]]:
    """Yields the columns that may be fields; the log's come before the tables'."""
    in_roles = roles.names()
    # The ids of users and ads are fields too.
    keys = {key.name for key in (roles.user_key, roles.ad_key) if key is not None}
    seen: set[str] = set()
    for sample in samples:
        for column in sample.columns.values():
            if column.in_folder or column.name in seen or column.name in in_roles - keys:
                continue
            seen.add(column.name)
            yield sample, column


def _safe_name(name: str, taken: set[str]) -> str:
    """Returns a unique name of letters, digits and `_`, independent of case."""
    # Without accents: Größe is Grosse.
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    safe = re.sub(r"[^A-Za-z0-9_]+", "_", plain).strip("_")
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
        paths: The log: CSV, TSV, JSON lines or Parquet files; see `log_sample.read`.
        users: Table of users, or None.
        ads: Table of ads, or None.

    Returns:
        The schema as JSON values for `schema.schema_from_json`, and notes.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be read, no column looks like an ad id, a table has no key in
            common with the log, or no column describes the user or context.
    """
    proposal, notes, _ = _propose(paths, users, ads)
    return proposal, notes


def _propose(
    paths: Sequence[pathlib.Path], users: pathlib.Path | None, ads: pathlib.Path | None
) -> tuple[dict[str, Any], list[str], Roles]:
    """Returns the schema and notes as `propose` does, and the roles of the columns."""
    tables = [(paths, LOG)]
    tables += [([users], USERS)] if users is not None else []
    tables += [([ads], ADS)] if ads is not None else []
    samples = [log_sample.read(table_paths, table) for table_paths, table in tables]
    by_table = {sample.table: sample for sample in samples}
    notes = [note for sample in samples for note in sample.notes]
    roles = column_roles.find(samples[0], by_table.get(USERS), by_table.get(ADS), notes)
    names = [c.name for c in samples[0].columns.values() if not c.in_folder or c is roles.time]
    notes += file_columns.in_folders(paths[0], names)
    if split := _split(roles):
        notes.append(
            "The log has no time and is sorted by its users or ads, so a split by order would hold "
            f"out users or ads that training lacks: use --split={split}."
        )
    shown = _of_impressions(samples, roles)
    for ids in (roles.ad_key, roles.user_key):
        notes += [] if ids is None else kinds.float_id_notes(ids)
    fields = propose_fields(*shown, notes)
    taken = {field["name"].lower() for field in fields}
    for name, propose_field in computed_fields.FIELDS.items():
        fields += propose_field(roles, _safe_name(name, taken), notes)
    fields += _calendars(samples[0], roles, fields, taken, notes)
    show = _shown(*shown)
    if show:
        notes.append(f"Answers show {_quoted(show)} of each ad (show).")
    if not any(field["side"] == "query" for field in fields):
        add = "Add it"
        if roles.request_key is not None:
            key = roles.request_key.name
            add += f", for example from a table of requests: log = log.merge(requests, on={key!r})"
        left_out = [note for note in notes if note.startswith("Left out")]
        raise ValueError(
            f"{paths[0]}: no column describes the user or context; expected at least one, such as "
            f"a user id, a country or an hour. {' '.join([add + '.', *left_out])}"
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
    if roles.price is not None:
        proposal["revenue"] = roles.price.name
    time_format = None if roles.time is None else roles.time.time_format
    decimals = sorted({sample.decimal for sample in samples if sample.decimal})
    options = {
        "events": roles.events,
        "show": show,
        "time_format": time_format,
        "decimal": next(iter(decimals), None),
        "header": list(samples[0].header),
    }
    proposal |= {name: value for name, value in options.items() if value}
    schema.schema_from_json(proposal)
    return proposal, _grouped(notes), roles


def _of_impressions(samples: Sequence[Sample], roles: Roles) -> tuple[Sequence[Sample], Roles]:
    """Returns the samples and roles with only the impressions of a log of events.

    Fields are read from impressions only: clicks may lack them, or have other values.
    """
    if roles.events is None:
        return samples, roles
    rows = roles.impressions
    log = samples[0]
    columns = {name: column.of_rows(rows) for name, column in log.columns.items()}
    log = dataclasses.replace(log, columns=columns, num_rows=int(rows.sum()))
    return [log, *samples[1:]], roles.of_rows(rows)


def _calendars(
    log: Sample,
    roles: Roles,
    fields: Sequence[dict[str, Any]],
    taken: set[str],
    notes: list[str],
) -> list[dict[str, Any]]:
    """Returns the proposed hour and weekday, with names that are not taken."""
    candidates = [
        (log.columns[name], field)
        for field in fields
        if (name := field.get("column", field["name"])) in log.columns
    ]
    properties = [
        column
        for column, field in candidates
        if (field["side"], field["kind"]) == ("ad", "categorical")
    ]
    columns = [column for column, _ in candidates]
    proposed = computed_fields.calendars(roles, columns, properties, notes)
    return [field | {"name": _safe_name(field["name"], taken)} for field in proposed]


def _grouped(notes: Sequence[str]) -> list[str]:
    """Returns notes in their order, only the first few of those that differ only in the column."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for note in notes:
        groups[_VARYING.sub("", note)].append(note)
    shown: list[str] = []
    for group in groups.values():
        if len(group) <= _MAX_OF_A_KIND:
            shown += group
            continue
        first, others = group[:_FIRST_OF_A_KIND], group[_FIRST_OF_A_KIND:]
        columns = [match[0] for note in others if (match := _COLUMN.search(note))]
        mark = "! " if group[0].startswith("! ") else ""
        shown += [*first, f"{mark}The same for {terminal.format_list(columns, 12)}."]
    return shown


def _shown(samples: Sequence[Sample], roles: Roles) -> list[str]:
    """Returns the columns of the ads that answers may show.

    They are named like a title or an image, or have texts that differ between nearly all ads.
    """
    ad = roles.ad_key

    def distinguishes_ads(column: Column) -> bool:
        if column.is_numeric or column.is_list or len(column.known) < 0.95 * len(ad.known):
            return False
        is_static = column.table == LOG and log_sample.is_constant_per_ad(column, ad)
        return column.table == ADS or is_static

    return [
        column.name
        for _, column in _candidates(samples, roles)
        if column.known and column.name != ad.name
        if not known_names.SHOWN.isdisjoint(column.words) or distinguishes_ads(column)
        if sides.side(column, samples, roles)[0] == "ad"
    ]


def format_notes(notes: Sequence[str]) -> str:
    """Returns a line for each note of a proposal, warnings first."""
    ordered = sorted(notes, key=lambda note: not note.startswith("! "))
    return "\n".join(f"  {note}" if note.startswith("! ") else f"  - {note}" for note in ordered)


def write_proposal(
    data_path: str,
    users: pathlib.Path | None,
    ads: pathlib.Path | None,
    target_path: pathlib.Path,
) -> str:
    """Writes a proposed schema file.

    Args:
        data_path: The log's files; see `formats.expand_paths`.
        users: Table of users, or None.
        ads: Table of ads, or None.
        target_path: The schema file to create.

    Returns:
        A message for the person who will edit it.

    Raises:
        FileExistsError: The file exists.
        FileNotFoundError, ValueError: See `propose`.
    """
    if target_path.exists():
        raise FileExistsError(f"{target_path} exists. Move it, or name another file.")
    proposal, notes, roles = _propose(formats.expand_paths(data_path), users, ads)
    target_path.parent.mkdir(parents=True, exist_ok=True)
    files.write(target_path, _text(proposal))
    has_clicks = bool((roles.clicked() == 1).any())
    command = _command(data_path, users, ads, target_path, proposal["name"])
    if split := _split(roles):
        command += f" --split={split}"
    then = f"then train:\n  {command}" if has_clicks else "then train on a log that has clicks."
    return (
        f"Wrote a proposed schema of {len(proposal['fields'])} fields to {target_path}.\n"
        f"{format_notes(notes)}\n"
        f"Check these decisions, correct the file, {then}"
    )


def _split(roles: Roles) -> str | None:
    """Returns the split of a log without times that is sorted by its users or ads, or None."""
    if roles.time is not None or roles.split is not None:
        return None
    is_sorted = any(
        key is not None
        and 1 + np.count_nonzero(np.diff(key.codes)) <= 1.1 * len(key.known)
        and len(key.codes) >= 2 * len(key.known)
        for key in (roles.user_key, roles.ad_key)
    )
    user_split = "fraction" if roles.user_key is None else "leave_random_fraction_out"
    return user_split if is_sorted else None


def _command(
    data_path: str,
    users: pathlib.Path | None,
    ads: pathlib.Path | None,
    target_path: pathlib.Path,
    name: str,
) -> str:
    """Returns the command that trains on the log with the proposed schema."""
    parts = ["tfrec", "train", "--format=tabular", f"--schema_path={target_path}"]
    parts.append(f"--data_path={data_path}")
    parts += [f"--users_path={users}"] if users else []
    parts += [f"--ads_path={ads}"] if ads else []
    return shlex.join([*parts, f"--workdir=workdir/{name}"])


def _text(proposal: dict[str, Any]) -> str:
    """Returns a proposal as JSON with one field per line."""
    fields = ",\n    ".join(json.dumps(field, ensure_ascii=False) for field in proposal["fields"])
    lines = []
    for key, value in proposal.items():
        shown = (
            f"[\n    {fields}\n  ]" if key == "fields" else json.dumps(value, ensure_ascii=False)
        )
        lines.append(f"  {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _name(path: pathlib.Path) -> str:
    # Hive and Spark choose the names of files in a partitioned table; a person named the table.
    partitions = [folder for folder in path.parents if "=" in folder.name]
    path = partitions[-1].parent if partitions else path
    stem = path.name.removesuffix(".gz").split(".")[0]
    return re.sub(r"\W+", "_", stem).strip("_") or "log"
