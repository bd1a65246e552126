"""Reads ads to add from files."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving import manifest
from serving.cli import command_line
from tfrecords import schema, terminal

if TYPE_CHECKING:
    import pyarrow as pa

    from tfrecords import records


def read_ads(
    path: pathlib.Path, release: manifest.Manifest
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads ads for `live.LiveIndex.update`.

    Args:
        path: A table of ads as the conversion reads it, or JSON lines of ads as in answers.
        release: The release to update.

    Returns:
        The ads, and notes on missing columns and on rows that are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lacks the key of the ads or all of their fields, or cannot be read.
    """
    from tfrecords import formats

    if path.suffix == ".jsonl":
        lines = command_line.read_lines(path)
        first = _parse(path, 1, lines[0]) if lines else {}
        if isinstance(first, dict) and set(first) <= {"ad_id", "fields", "show"}:
            return [_parse(path, number, line) for number, line in enumerate(lines, 1)], []
    names = formats.column_names(path, ())
    feed = _schema_of_feed(release, names)
    lacking = [f.source for f in feed.ad_fields if f.source not in names]
    if len(lacking) == len(feed.ad_fields) or not set(feed.ad_key) <= set(names):
        columns = dict.fromkeys((*feed.ad_key, *(f.source for f in feed.ad_fields)))
        raise ValueError(
            f"{path}: expected the columns {list(columns)}, or ad_id and columns of "
            f"{list(release.ad_kinds)}, got {list(names)}."
        )
    table = formats.FORMATS.get("tabular").read_ads(formats.Files((), ads=path), feed)
    ads, keys = _ads_of(table, feed)
    notes = []
    # A field that is the ad key gets the ad id.
    if missing := [name for name in lacking if name != release.ad_id_field]:
        notes.append(f"{path} has no columns {missing}; these fields are missing in its ads")
    if keys.without_key:
        clause = "row has no ad id and is", "rows have no ad id and are"
        notes.append(f"{path}: {terminal.format_count(keys.without_key, *clause)} left out")
    if keys.repeated:
        clause = "row has an ad that occurs", "rows have ads that occur"
        notes.append(
            f"{path}: {terminal.format_count(keys.repeated, *clause)} again later; the last row "
            "counts"
        )
    return ads, notes


def _schema_of_feed(release: manifest.Manifest, names: Sequence[str]) -> schema.Schema:
    """Returns the schema to read a table of ads with: columns as in the log, or as in answers."""
    # Without its options, a history is a plain list, which needs no times.
    options = {
        field["name"]: field
        for field in release.schema.get("fields", ())
        if field["kind"] != "history"
    }
    # Rates that the table lacks keep their released values.
    rates = [rate["name"] for rate in release.rates if rate["name"] not in names]
    key = release.schema.get("ad_key", ["ad_id"])
    as_answers = "ad_id" in names and not set(key) <= set(names)
    left_out = ["of", "event", "max_age_days", *(["column", "calendar"] if as_answers else [])]
    fields = [
        {
            **{n: v for n, v in options.get(field["name"], {}).items() if n not in left_out},
            "name": field["name"],
            "kind": field["kind"],
            "side": side,
        }
        for side, side_fields in (("query", release.query_fields), ("ad", release.ad_fields))
        for field in side_fields
        if field["kind"] != "numeric_list" and field["name"] not in rates
    ]
    return schema.schema_from_json(
        {
            "name": "feed",
            "fields": fields,
            "ad_key": ["ad_id"] if as_answers else key,
            "click": None,
            "decimal": release.schema.get("decimal"),
            "show": release.schema.get("show", ()),
        }
    )


def _ads_of(table: pa.Table, feed: schema.Schema) -> tuple[list[dict[str, Any]], records.TableKeys]:
    from tfrecords import conversion, reader

    fields = [field.name for field in feed.ad_fields]
    found, keys = conversion.ads_of_table(feed, table)
    ads = [
        {
            "ad_id": row[reader.AD_ID],
            # An empty list is missing, as in the columns of other kinds.
            "fields": {name: None if row[name] == [] else row[name] for name in fields},
            "show": json.loads(row.get(schema.SHOWN) or "{}"),
        }
        for row in found.to_pylist()
    ]
    return ads, keys


def _parse(path: pathlib.Path, number: int, line: str) -> Any:
    return command_line.parse_json(line, f"{path}, ad {number}", "JSON")
