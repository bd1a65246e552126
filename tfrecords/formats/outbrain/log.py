"""Reads the log of Outbrain's click prediction (Kaggle 2016).

The log is a directory with Kaggle's files, or the path of its clicks_train.csv. Files are
comma-separated with a header, plain or gzip (NAME.csv.gz). A test file lacks `clicked`.

    clicks_train.csv           display_id, ad_id, clicked
    events.csv                 display_id, uuid, document_id, timestamp, platform, geo_location
    promoted_content.csv       ad_id, document_id, campaign_id, advertiser_id
    documents_meta.csv         document_id, source_id, publisher_id, publish_time
    documents_categories.csv   document_id, category_id, confidence_level
    documents_topics.csv       document_id, topic_id, confidence_level

If one of the last four is missing, the values of its columns are missing; the schema stays the
same. A schema file may name these columns of the display (query side):

    uuid, document_id, platform, geo_location, timestamp    as in events.csv
    country, state, dma          the parts of geo_location, such as "US>CA>803"
    time                         seconds since 1970; timestamp is milliseconds since 1465876799998
    hour, weekday                of that time in UTC: 0–23; 0 is Monday
    source_id, publisher_id      of the document
    publish_time, age_days       seconds since 1970; days from there to the log's origin
    category_id, topic_id        with the highest confidence
    categories, topics           all, by ascending confidence (a field keeps the last ones)

and of the ad (ad side): ad_id, campaign_id, advertiser_id, ad_document_id, and the columns of a
document with the prefix `ad_`. The age of an ad is counted to the log's origin, not to the request,
because a catalog has one value per ad; dates after the end of the log are wrong and missing. "",
"\\N" and "--" are missing; platform "1.0" is 1 (1 desktop, 2 mobile, 3 tablet).

Rows whose display is not in events.csv are rejected: without user, time and context they would be
in the wrong split, and a truncated events.csv would go unnoticed. An ad that is not in
promoted_content.csv has missing values; without its row, the display would have fewer ads than
the user saw. A bad row in a file other than the clicks is an error, because these files are joined
to all rows.

References:
    Outbrain, Click Prediction, Kaggle 2016 (data description).
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tfrecords.columns import MISSING_NUMBERS
from tfrecords.formats import named, protocol
from tfrecords.formats.files import delimited
from tfrecords.formats.outbrain import columns_of_tables, tables
from tfrecords.schema import Field, Schema

_LOG_NAME = "The Outbrain log"
_ID = re.compile(r" *-?[0-9]+ *")
# Files other than the clicks.
_OTHERS = (
    columns_of_tables.EVENTS,
    columns_of_tables.PROMOTED,
    *dict.fromkeys(columns_of_tables.DOCUMENT_FILES.values()),
)


def schema() -> Schema:
    """Returns the convention: a display with its ads is a request; clicks only."""
    query = ("source_id", "publisher_id", "category_id", "topic_id", "platform", "country",
             "state", "dma", "hour", "weekday")  # fmt: skip
    ad = ("ad_id", "ad_document_id", "campaign_id", "advertiser_id", "ad_source_id",
          "ad_publisher_id")  # fmt: skip
    fields = [
        # A display has several rows, and one or two displays are too few to learn from.
        Field("uuid", "categorical", "query", min_count=50),
        Field("document_id", "categorical", "query", min_count=50),
        *(Field(name, "categorical", "query") for name in query),
        *(Field(name, "categorical", "ad") for name in ad),
        Field("ad_categories", "categorical_list", "ad", max_list_length=4),
        Field("ad_topics", "categorical_list", "ad", max_list_length=8),
        Field("ad_age_days", "numeric", "ad"),
    ]
    return Schema(
        "outbrain",
        tuple(fields),
        ad_key=("ad_id",),
        click="clicked",
        request_key="display_id",
        time="time",
        user_key="uuid",
    )


def check_schema(schema: Schema) -> None:
    """Checks that a schema fits the format.

    Raises:
        ValueError: A column does not exist, or a field has the wrong side or kind.
    """
    known = (
        *columns_of_tables.CLICK_COLUMNS,
        *columns_of_tables.DISPLAY_COLUMNS,
        *columns_of_tables.AD_COLUMNS,
    )
    named.check_schema(schema, _LOG_NAME, dict.fromkeys(known))
    ad_columns = columns_of_tables.AD_COLUMNS
    for field in schema.logged_fields:
        side = "ad" if field.source in ad_columns else "query"
        if field.side != side:
            raise ValueError(
                f"Schema {schema.name!r}: {field.source!r} describes the "
                f"{'ad' if side == 'ad' else 'display'}; give field {field.name!r} the side "
                f"{side!r}, not {field.side!r}."
            )
        if field.source in columns_of_tables.LIST_COLUMNS and field.kind != "categorical_list":
            raise ValueError(
                f"Schema {schema.name!r}: {field.source!r} holds lists, so field {field.name!r} "
                f"must be a categorical_list, not {field.kind}."
            )
    misplaced = [name for name in (*schema.ad_key, *schema.show) if name not in ad_columns]
    if misplaced:
        raise ValueError(
            f"Schema {schema.name!r}: ad_key or show names {misplaced}, which do not describe the "
            f"ad; use some of {', '.join(ad_columns)}."
        )


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log; files other than the clicks are read with the first chunk.

    Raises:
        FileNotFoundError: The clicks or events.csv do not exist.
        ValueError: The schema does not fit the log.
    """
    check_schema(schema)
    named.check_files(files, _LOG_NAME)
    files, paths = _resolve(files)
    if columns_of_tables.EVENTS not in paths:
        directory = files.log[0].parent
        raise FileNotFoundError(_not_there(directory, columns_of_tables.EVENTS))
    join = _Join(schema, paths)
    layout = delimited.Layout(
        {"display_id": tables.ID, "ad_id": tables.ID}
        | ({"clicked": delimited.STRINGS} if "clicked" in schema.columns else {}),
        ",",
        quote=True,
        optional=frozenset(["clicked"]),
        check=_fault,
    )
    opened = delimited.DelimitedLog(files, layout, join, rows_per_chunk)
    clicks = [path for path, _ in files.parts()]
    opened.files = tuple(dict.fromkeys([*clicks, *join.files]))
    return opened


def read_ads(files: protocol.Files, schema: Schema) -> pa.Table | None:
    """Reads all ads of promoted_content.csv; returns None without the file.

    Raises:
        ValueError: A file has a bad row, or the schema does not fit the log.
    """
    check_schema(schema)
    _, paths = _resolve(files)
    if columns_of_tables.PROMOTED not in paths:
        return None
    field_columns = (field.source for field in schema.logged_ad_fields)
    ad_columns = dict.fromkeys([*schema.ad_key, *field_columns, *schema.show])
    joiner = columns_of_tables.Joiner(paths, list(ad_columns))
    ids = np.sort(joiner.table(columns_of_tables.PROMOTED).keys.keys)
    return pa.table(joiner.ads(list(ad_columns), ids))


def _fault(values: Mapping[str, str]) -> str | None:
    for name in ("display_id", "ad_id"):
        value = values.get(name, "")
        if value not in MISSING_NUMBERS and not _ID.fullmatch(value):
            return f"{name} must be a whole number, got {value[:40]!r}"
    return None


def _resolve(files: protocol.Files) -> tuple[protocol.Files, Mapping[str, pathlib.Path]]:
    """Finds the files of a log.

    Args:
        files: The log is the directory or clicks_train.csv; a table of ads replaces
            promoted_content.csv.

    Returns:
        The files of rows, and the other existing files by name.

    Raises:
        FileNotFoundError: The file of clicks does not exist.
    """
    resolved = dataclasses.replace(
        files,
        log=tuple(_clicks(path, "clicks_train.csv") for path in files.log),
        test=tuple(_clicks(path, "clicks_test.csv") for path in files.test),
    )
    directory = resolved.log[0].parent
    found = {n: _find(directory, n) for n in _OTHERS}
    paths = {name: path for name, path in found.items() if path is not None}
    if files.ads is not None:
        paths[columns_of_tables.PROMOTED] = files.ads
    return resolved, paths


def _clicks(path: pathlib.Path, name: str) -> pathlib.Path:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"No log at {path}; check the path.")
        return path
    found = _find(path, name)
    if found is None:
        raise FileNotFoundError(_not_there(path, name))
    return found


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    candidates = (directory / name, directory / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _not_there(directory: pathlib.Path, name: str) -> str:
    """Returns the message about a missing file."""
    zipped = (directory / f"{name}.zip").is_file()
    todo = f"unzip {name}.zip" if zipped else "download it from Kaggle's outbrain-click-prediction"
    return f"{directory} has neither {name} nor {name}.gz; {todo}."


class _Join:
    """Joins the columns of a schema, which other files have, to the rows of the clicks."""

    def __init__(self, schema: Schema, paths: Mapping[str, pathlib.Path]) -> None:
        self._wanted = schema.columns
        self._display_columns = [n for n in self._wanted if n in columns_of_tables.DISPLAY_COLUMNS]
        self._ad_columns = [n for n in self._wanted if n in columns_of_tables.AD_COLUMNS]
        self._joiner = columns_of_tables.Joiner(paths, self._wanted)
        events = paths[columns_of_tables.EVENTS]
        self._events = events
        self.files = tuple(dict.fromkeys([events, *self._joiner.files]))

    def __call__(self, parsed: protocol.Parsed) -> protocol.Parsed:
        displays = parsed.table["display_id"]
        events = self._joiner.table(columns_of_tables.EVENTS)
        rows = events.keys.find(displays.fill_null(-1).to_numpy())
        unknown = displays.filter(pa.array(rows < 0)).to_pylist()
        parsed = parsed.without(rows < 0, [self._reason(display) for display in unknown])
        table = parsed.table
        # Each distinct display and ad of the chunk is looked up once.
        rows, display_index = np.unique(rows[rows >= 0], return_inverse=True)
        ads, ad_index = np.unique(table["ad_id"].fill_null(-1).to_numpy(), return_inverse=True)
        columns = _expanded(self._joiner.displays(self._display_columns, rows), display_index)
        columns.update(_expanded(self._joiner.ads(self._ad_columns, ads), ad_index))
        if "display_id" in self._wanted:
            ids = tables.id_texts(events.keys.keys[rows])
            columns.update(_expanded({"display_id": ids}, display_index))
        if "clicked" in self._wanted:
            columns["clicked"] = table["clicked"]
        joined = pa.table({name: columns[name] for name in self._wanted})
        joined = joined.append_column(protocol.LINE_NUMBER, table[protocol.LINE_NUMBER])
        return dataclasses.replace(parsed, table=joined)

    def _reason(self, display: int | None) -> str:
        if display is None:
            return "display_id is empty"
        return f"display_id {display} is not in {self._events.name}"


def _expanded(
    columns: Mapping[str, pa.Array], indices: np.ndarray
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Returns columns with the values at some indices [B]."""
    return {name: column.take(pa.array(indices)) for name, column in columns.items()}
