"""Derives the schema for converting an impression log that was joined with feedback.

Fields keep their names, kinds and options; the log's own columns become the keys. Histories and
rates are fields as in the source: conversion computes them again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving import errors
from serving.impressions.impression_rows import METADATA, USER_ID
from tfrecords import schema as schema_lib
from tfrecords.schema import IMPRESSION, LABELS


@dataclasses.dataclass(frozen=True)
class LoggedSchema:
    """Columns of an impression log, from its newest release.

    Attributes:
        columns: Names of the columns of a joined log.
        fields: JSON of each field as in a schema, without `column`.
        source: JSON of the schema that the release was trained with.
        labels: Label -> kind of its head; the label's column is `_LABEL`.
    """

    columns: list[str]
    fields: list[dict[str, Any]]
    source: dict[str, Any]
    labels: dict[str, str]

    def to_convert(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the JSON of a schema for `tfrec convert`, with the labels of the feedback.

        Histories and rates lose the events of other labels; those that have no events left are
        left out.
        """
        users = [
            field["name"]
            for field in self.source.get("fields", [])
            if (field.get("column") or field["name"]) == self.source.get("user_key")
            and field["side"] == "query"
        ]
        return {
            # The source may be the schema of an earlier joined log.
            "name": f"{self.source.get('name', 'shown').removesuffix('_shown')}_shown",
            "fields": [
                kept for field in self.fields if (kept := _with_known_events(field, labels))
            ],
            "ad_key": ["_ad_id"],
            "request_key": "_answer_id",
            "time": "_time",
            "position": "_position",
            "user_key": users[0] if users else self.source.get("user_key") and USER_ID,
            # Models of other frameworks may have other heads.
            **{
                label: f"_{label}" if label in labels else None
                for label in LABELS
                if label in self.labels
            },
            **{
                name: numbers
                for name in ("values", "weights")
                if (numbers := self._utility(name, labels))
            },
        }

    def _utility(self, name: str, labels: Sequence[str]) -> dict[str, float]:
        """Returns the values or weights of the source for labels of the feedback."""
        given = self.source.get(name) or {}
        return {label: number for label, number in given.items() if label in labels}


def _with_known_events(field: dict[str, Any], labels: Sequence[str]) -> dict[str, Any] | None:
    """Returns a field without the events that are not in the feedback; None: none are left."""
    event = field.get("event", [])
    events = [event] if isinstance(event, str) else event
    counted = [name for name in events if name in (IMPRESSION, *labels)]
    if len(counted) == len(events):
        return field
    return {**field, "event": counted} if counted else None


def newest_schema(log_files: Sequence[pathlib.Path]) -> LoggedSchema:
    """Reads the schema of the newest release in an impression log."""
    if not log_files:
        raise errors.ImpressionLogError("Expected files of an impression log, got none.")
    # A log may have a file for each minute: those of a release and a host have one schema.
    found: dict[bytes, tuple[pathlib.Path, pa.Schema]] = {}
    for path in log_files:
        with open_file(path) as file:
            schema = file.schema_arrow
        found.setdefault(schema.serialize().to_pybytes(), (path, schema))
    path, columns = max(found.values(), key=lambda entry: _known(entry[1])["version"])
    known = _known(columns)
    for file, schema in found.values():
        for field in columns:
            if field.name not in schema.names or schema.field(field.name).type != field.type:
                raise errors.ImpressionLogError(
                    f"{file} was logged with a different schema than {path}: expected the column "
                    f"{field.name!r} of type {field.type}. Join the files of each release "
                    "separately."
                )
    options = {field["name"]: field for field in known["schema"].get("fields", [])}
    listed = [field for field in options.values() if field.get("kind") == "history"]
    computed = {name for field in listed for name in schema_lib.Field(**field).inputs}
    fields = []
    for side in ("query", "ad"):
        for field in known[f"{side}_fields"]:
            if field["name"] in computed:
                continue
            entry = {**options.get(field["name"], {}), **field, "side": side}
            # The log has the values of fields under their names, also those from a calendar.
            fields.append({k: v for k, v in entry.items() if k not in ("column", "calendar")})
    return LoggedSchema(columns.names, [*fields, *listed], known["schema"], known["labels"])


def open_file(path: pathlib.Path) -> pq.ParquetFile:
    """Opens a file of the impression log; reading it verifies its checksums."""
    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if METADATA not in (file.schema_arrow.metadata or {}):
        file.close()
        raise errors.ImpressionLogError(
            f"{path} is not a file of an impression log, but another Parquet file; expected one "
            "that tfrec serve --impression_log wrote."
        )
    return file


def read_file(path: pathlib.Path, columns: list[str] | None = None) -> pa.Table:
    """Reads columns of a file of the impression log; None reads all.

    Raises:
        ImpressionLogError: The file cannot be read, is damaged, or is not part of an impression
            log.
    """
    with open_file(path) as file:
        try:
            return file.read(columns)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: Exception) -> errors.ImpressionLogError:
    return errors.ImpressionLogError(
        f"{path} cannot be read as a file of the impression log ({error}); expected a Parquet "
        "file that tfrec serve --impression_log wrote. Restore it, or leave it out."
    )


def _known(schema: pa.Schema) -> dict[str, Any]:
    return json.loads(schema.metadata[METADATA])
