"""Reads the Criteo Display Advertising log.

The layout (Kaggle 2014, and the 1 TB log): tab-separated, no header, one impression a
line: the label (0 or 1), thirteen integers I1–I13, twenty-six 32-bit hashes C1–C26 as
eight hex digits. Empty is missing; integers can be negative. Plain or gzip.

The columns are anonymous, so which describe the ad is a convention: C7, C11, C13 and
C17 are the ad side and together its key, the rest is the query side. A schema file
overrides it. A schema that also names request, position, engagement or revenue columns
reads them from a companion file beside the log, `NAME.extra.tsv` for `NAME.tsv`: a
header line, then one line for each line of the log.

References:
    Criteo Labs, Display Advertising Challenge, 2014 (data set description).
"""

import io
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tfrecords import schema as schema_lib
from tfrecords.formats import lines

LABEL = "label"
NUMERIC_COLUMNS = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = (LABEL, *NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS)
AD_KEY = ("C7", "C11", "C13", "C17")

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LAYOUT = f"{len(COLUMNS)} tab-separated columns (label, I1–I13, C1–C26) and no header"
_CONVERT = pa_csv.ConvertOptions(
    column_types={
        LABEL: pa.string(),
        **{name: pa.float64() for name in NUMERIC_COLUMNS},
        **{name: pa.string() for name in CATEGORICAL_COLUMNS},
    },
    null_values=[""],
    strings_can_be_null=True,
)
_PARSE = pa_csv.ParseOptions(
    delimiter="\t", quote_char=False, double_quote=False, ignore_empty_lines=False
)


def schema() -> schema_lib.Schema:
    """Returns the stated convention for the bare Criteo log: clicks only, a row a request."""
    fields = [schema_lib.Field(name, "numeric", "query") for name in NUMERIC_COLUMNS]
    for name in CATEGORICAL_COLUMNS:
        side = "ad" if name in AD_KEY else "query"
        fields.append(schema_lib.Field(name, "categorical", side))
    return schema_lib.Schema("criteo", tuple(fields), ad_key=AD_KEY, click=LABEL)


def check_schema(schema: schema_lib.Schema) -> None:
    """Checks that a schema only asks for what this format has.

    Raises:
        ValueError: A field is not a Criteo column or has the wrong kind.
    """
    for field in schema.fields:
        if field.name not in COLUMNS[1:]:
            raise ValueError(
                f"Schema {schema.name!r}: the Criteo log has no column {field.name!r}; "
                "it has I1–I13 and C1–C26."
            )
        expected = "numeric" if field.name in NUMERIC_COLUMNS else "categorical"
        if field.kind != expected:
            raise ValueError(
                f"Schema {schema.name!r}: field {field.name!r} is {expected} in the Criteo "
                f"log, the schema says {field.kind}."
            )
    if schema.time is not None:
        raise ValueError(
            f"Schema {schema.name!r}: the Criteo log is in time order as it stands; leave out "
            f"time, got {schema.time!r}."
        )
    if schema.click != LABEL:
        raise ValueError(f"Schema {schema.name!r}: click must be {LABEL!r}, got {schema.click!r}.")


def read(
    path: str | pathlib.Path, schema: schema_lib.Schema, block_bytes: int = 16 << 20
) -> Iterator[lines.Block]:
    """Streams a log as column batches.

    Args:
        path: The log; gzip is recognised by its content.
        schema: Names the columns wanted; columns that the log lacks come from the companion.
        block_bytes: How much of the log is parsed at once.

    Yields:
        Blocks whose table has every column of `schema.columns`.

    Raises:
        FileNotFoundError: The log, or a companion that the schema needs, does not exist.
        ValueError: The log is empty or truncated, or the companion has another number of lines.
    """
    path = pathlib.Path(path)
    check_schema(schema)
    extra_types = {
        name: _extra_type(schema, name) for name in schema.columns if name not in COLUMNS
    }
    companion = lines.Companion(path, extra_types) if extra_types else None
    for first_line, text in lines.split_blocks(path, block_bytes):
        block = parse(text, path, first_line)
        if companion is not None:
            block = companion.join(block)
        yield block
    if companion is not None:
        companion.close()


def _extra_type(schema: schema_lib.Schema, name: str) -> pa.DataType:
    if name == schema.position:
        return pa.int64()
    return pa.float64() if name in (schema.engagement, schema.revenue) else pa.string()


def parse(text: bytes, path: pathlib.Path, first_line: int) -> lines.Block:
    """Parses whole lines: at full speed if all are good, else line by line."""
    count = lines.count_lines(text)
    try:
        table = _parse_table(text)
        if table.num_rows != count:
            raise ValueError(f"{count} lines gave {table.num_rows} rows")
    except (pa.ArrowInvalid, ValueError):
        return _parse_lines(text, path, first_line)
    numbers = pa.array(np.arange(first_line, first_line + count))
    return lines.Block(table.append_column(lines.LINE_NUMBER, numbers), ())


def _parse_table(text: bytes) -> pa.Table:
    read_options = pa_csv.ReadOptions(column_names=COLUMNS, block_size=len(text) + 1)
    table = pa_csv.read_csv(io.BytesIO(text), read_options, _PARSE, _CONVERT)
    label = table[LABEL]
    if label.null_count or not pc.all(pc.is_in(label, pa.array(["0", "1"]))).as_py():
        raise ValueError("a label is neither 0 nor 1")
    for name in NUMERIC_COLUMNS:
        if pc.all(pc.is_finite(table[name])).as_py() is False:
            raise ValueError(f"{name} is not finite")
    return table.set_column(0, LABEL, label.cast(pa.int8()))


def _parse_lines(text: bytes, path: pathlib.Path, first_line: int) -> lines.Block:
    good: list[bytes] = []
    numbers: list[int] = []
    rejected: list[lines.Rejected] = []
    for number, line in enumerate(lines.split(text), first_line):
        reason = _fault(line)
        if reason is None:
            good.append(line)
            numbers.append(number)
        else:
            rejected.append(lines.Rejected(str(path), number, reason, line))
    table = _parse_table(b"".join(line + b"\n" for line in good)) if good else _empty_table()
    return lines.Block(
        table.append_column(lines.LINE_NUMBER, pa.array(numbers, pa.int64())), tuple(rejected)
    )


def _empty_table() -> pa.Table:
    types = {**_CONVERT.column_types, LABEL: pa.int8()}
    return pa.table({name: pa.array([], types[name]) for name in COLUMNS})


def _fault(line: bytes) -> str | None:
    try:
        values = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8; convert the file to UTF-8"
    if b"\r" in line:
        return "a carriage return stands inside the line; remove it"
    if len(values) != len(COLUMNS):
        return f"expected {_LAYOUT}, got {len(values)} columns"
    if values[0] not in ("0", "1"):
        if not any(character.isdigit() for character in values[0]):
            return f"looks like a header line (first value {values[0][:40]!r}); remove it"
        return f"the label must be 0 or 1, got {values[0][:40]!r}"
    for name, value in zip(NUMERIC_COLUMNS, values[1:14], strict=True):
        # Spaces around a number are allowed, as the fast path allows them.
        if value and not (_NUMBER.fullmatch(value.strip(" ")) and np.isfinite(float(value))):
            return f"{name} must be a finite number or empty, got {value[:40]!r}"
    return None
