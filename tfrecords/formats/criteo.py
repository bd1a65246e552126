"""Reads the Criteo Display Advertising log.

Files (Kaggle 2014, and the 1 TB log) are tab-separated without a header, one impression per line:
the label (0 or 1), thirteen integers I1–I13, and twenty-six 32-bit hashes C1–C26 of eight hex
digits. Empty is missing; integers can be negative. Plain or gzip.

The columns are anonymous, so the sides are a convention: C7, C11, C13 and C17 are the ad side and
together its key, the others are the query side. A schema file overrides it. Rows of a file without
the label column, such as the test part of the Kaggle log, have no label. A log with more columns is
a table for the `tabular` format.

References:
    Criteo Labs, Display Advertising Challenge, 2014 (data set description).
"""

import pathlib
import re
from collections.abc import Mapping, Sequence

from tfrecords.formats import named, protocol
from tfrecords.formats.files import delimited, lines, table_files
from tfrecords.schema import Field, Schema

LABEL = "label"
NUMERIC_COLUMNS = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = (LABEL, *NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS)
AD_KEY = ("C7", "C11", "C13", "C17")
_LOG_NAME = "The Criteo log"
_LABELED_ROW = re.compile(rb"[01](\t-?\d*){13}(\t([0-9a-f]{8})?){26}\s*")
LABELED = f"{len(COLUMNS)} tab-separated columns (label, I1–I13, C1–C26) and no header"


def schema() -> Schema:
    """Returns the convention: clicks only, a row is a request."""
    fields = [Field(name, "numeric", "query") for name in NUMERIC_COLUMNS]
    for name in CATEGORICAL_COLUMNS:
        side = "ad" if name in AD_KEY else "query"
        fields.append(Field(name, "categorical", side))
    return Schema("criteo", tuple(fields), ad_key=AD_KEY, click=LABEL)


def check_schema(schema: Schema) -> None:
    """Checks that a schema fits the format.

    Raises:
        ValueError: A column is not one of Criteo's, or a field has the wrong kind.
    """
    named.check_schema(schema, _LOG_NAME, COLUMNS)
    for field in schema.logged_fields:
        expected = "numeric" if field.source in NUMERIC_COLUMNS else "categorical"
        if field.kind != expected:
            raise ValueError(
                f"Schema {schema.name!r}: field {field.name!r} is {expected} in the Criteo log, "
                f"but the schema says {field.kind}."
            )
    if schema.click != LABEL:
        raise ValueError(f"Schema {schema.name!r}: click must be {LABEL!r}, got {schema.click!r}.")


def fits(path: pathlib.Path) -> bool:
    """Returns whether the first line of a file is a line of Criteo's log.

    Raises:
        FileNotFoundError, ValueError: See `lines.open_text`.
    """
    return lines.RowReader(path).first_row().count(b"\t") + 1 in (len(COLUMNS), len(COLUMNS) - 1)


def is_surely(path: pathlib.Path) -> bool:
    """Returns whether the first line of a file has the values of a labeled line of Criteo's log.

    Raises:
        FileNotFoundError, ValueError: See `lines.open_text`.
    """
    if table_files.is_parquet(path):
        return False
    return _LABELED_ROW.fullmatch(lines.RowReader(path).first_row()) is not None


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log.

    Raises:
        ValueError: The schema does not fit the log.
    """
    check_schema(schema)
    types = {
        name: delimited.NUMBERS if name in NUMERIC_COLUMNS else delimited.STRINGS
        for name in schema.columns
    }
    layout = delimited.Layout(
        types,
        columns=_columns,
        optional=frozenset([LABEL]),
        expected=LABELED,
        check=_fault,
    )
    return delimited.DelimitedLog(files, layout, None, rows_per_chunk)


read_ads = named.read_ads


def _columns(num_values: Sequence[int]) -> tuple[str, ...]:
    labeled = sum(count == len(COLUMNS) for count in num_values)
    unlabeled = sum(count == len(COLUMNS) - 1 for count in num_values)
    return COLUMNS[1:] if unlabeled > labeled else COLUMNS


def _fault(values: Mapping[str, str]) -> str | None:
    label = values.get(LABEL, "0")
    if label and not any(character.isdigit() for character in label):
        return f"looks like a header line (its label is {label[:40]!r}); remove it"
    return None
