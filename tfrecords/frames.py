"""Converts tables in memory: pandas frames, and any table that exports an Arrow stream.

The rows are written to Parquet files, and these are converted like any other log:

    DIRECTORY/                   the data set
    DIRECTORY.rows/log.parquet   the rows, unchanged; ads.parquet, users.parquet,
                                 validation.parquet and test.parquet in the same way, if given

So the data set is the same as from Parquet files, rejected rows can be looked up, and the command
line can convert the rows again.
"""

import contextlib
import inspect
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords import conversion, convert, files, formats, reader, schema_inference, terminal
from tfrecords import schema as schema_lib

if TYPE_CHECKING:
    import pandas as pd

# A pandas.DataFrame, or an object with `__arrow_c_stream__`.
Table: TypeAlias = Any
AnySchema: TypeAlias = schema_lib.Schema | Mapping[str, Any] | str | os.PathLike[str] | None
_ROWS = {f"{name}.parquet" for name in ("log", "ads", "users", "validation", "test")}
_PROPOSED = "No schema was given. Proposed from the rows of the log:"
_TO_CHANGE = (
    "To change it, write it with tfrecords.schema.save_schema(data_set.schema, PATH), edit the "
    "file, and give PATH as the schema."
)
_OF_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
_ARROW_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def from_pandas(
    frame: "pd.DataFrame",
    schema: AnySchema,
    directory: str | os.PathLike[str],
    *,
    ads: Table | None = None,
    users: Table | None = None,
    validation: Table | None = None,
    test: Table | None = None,
    progress: bool = True,
    **options: Any,
) -> reader.DataSet:
    """Converts a pandas frame of shown ads.

    Index levels with a name count as columns; others are left out. None, NaN, NaT and `pandas.NA`
    are missing values.

    Args:
        frame: The log, a row for each ad that was shown.
        schema: A `schema.Schema`, its JSON object, or the path of a schema file. None: a schema is
            proposed from the rows.
        directory: Output; a data set that exists is replaced.
        ads: Table of ads and their fields, added to the catalog even if they were never shown.
            Like the tables below, a frame or an Arrow table. None: no such table.
        users: Table of users and their fields, or None.
        validation: Rows of the validation split, or None.
        test: Rows of the test split, or None.
        progress: Whether to show progress bars and the proposed schema.
        **options: Other arguments of `convert.convert`, such as `split` and `test_fraction`.

    Returns:
        The converted data set.

    Raises:
        FileNotFoundError: There is no such schema file.
        FileExistsError: The directory, or `DIRECTORY.rows`, contains other files.
        TypeError: There is no such option.
        ValueError: A table is empty, a column cannot be converted, no schema can be proposed, or
            as in `convert.convert`.
        OSError: See `convert.convert`.
    """
    _check_options(options)
    directory = pathlib.Path(directory)
    known = _schema_of(schema)
    optional = {"ads": ads, "users": users, "validation": validation, "test": test}
    tables = {
        "log": frame,
        **{name: table for name, table in optional.items() if table is not None},
    }
    needed = () if known is None else known.columns
    rows = directory.with_name(f"{directory.name}.rows")
    files.check_replaceable(rows, _ROWS, "rows of a data set")
    conversion.check_output(directory)
    with _written(rows, tables, needed) as notes:
        paths = {name: rows / f"{name}.parquet" for name in tables}
        if known is None:
            proposal, reasons = schema_inference.propose(
                [paths["log"]], paths.get("users"), paths.get("ads")
            )
            known = schema_lib.schema_from_json(proposal)
            if progress:
                points = schema_inference.format_notes([*notes, *reasons])
                print(f"{_PROPOSED}\n{points}\n{_TO_CHANGE}")
        source = convert.Source(
            paths["log"],
            known,
            "tabular",
            ads_path=paths.get("ads"),
            users_path=paths.get("users"),
            validation_path=(paths["validation"],) if validation is not None else (),
            test_path=(paths["test"],) if test is not None else (),
        )
        convert.convert(source, directory, progress=progress, **options)
    return reader.DataSet(directory)


def from_arrow(
    table: Table, schema: AnySchema, directory: str | os.PathLike[str], **arguments: Any
) -> reader.DataSet:
    """Converts a table of shown ads that exports an Arrow stream (`__arrow_c_stream__`).

    Tables of PyArrow, Polars and DuckDB do so. The stream is read in batches, so that the log can
    be larger than memory; a stream, such as a `RecordBatchReader`, can be read only once. For other
    arguments, the result and the errors, see `from_pandas`.
    """
    return from_pandas(table, schema, directory, **arguments)


def _check_options(options: Collection[str]) -> None:
    tables = [*inspect.signature(from_pandas).parameters][3:-1]  # and progress
    known = tables + [*inspect.signature(convert.convert).parameters][2:-1]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise TypeError(
            f"from_pandas and from_arrow have no argument {unknown!r}; expected one of "
            f"{', '.join(known)}.{terminal.suggestion_for(unknown, known)}"
        )


def _schema_of(schema: AnySchema) -> schema_lib.Schema | None:
    if schema is None or isinstance(schema, schema_lib.Schema):
        return schema
    if isinstance(schema, str | os.PathLike):
        return schema_lib.load_schema(pathlib.Path(schema))
    return schema_lib.schema_from_json(schema)


@contextlib.contextmanager
def _written(
    rows: pathlib.Path, tables: Mapping[str, Table], needed: Collection[str]
) -> Iterator[list[str]]:
    """Writes the tables of a data set, and restores the previous ones if the block raises.

    Yields:
        A note for each column that is left out.
    """
    new, before = (rows.with_name(f".{rows.name}.{name}") for name in ("new", "before"))
    rows.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    notes: list[str] = []
    try:
        with files.replacing(new) as written:
            written.mkdir()
            for name, table in tables.items():
                notes += _write(table, name, written / f"{name}.parquet", needed)
    except OSError as error:
        if not files.is_disk_full(error):
            raise
        raise OSError(
            f"The disk of {rows} is full ({error}). Free some space, about twice the size of the "
            "tables, and call again; an earlier data set is unchanged."
        ) from error
    if rows.exists() and not before.exists():  # Otherwise the last run was killed.
        rows.rename(before)
    shutil.rmtree(rows, ignore_errors=True)
    new.rename(rows)
    try:
        yield notes
    except BaseException:
        if before.exists():
            shutil.rmtree(rows)
            before.rename(rows)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _write(table: Table, name: str, path: pathlib.Path, needed: Collection[str]) -> list[str]:
    """Writes a table as Parquet, without unused columns that cannot be written.

    Returns:
        A note for each column that is left out.

    Raises:
        ValueError: The table has no rows, or a column in use cannot be written.
    """
    schema, batches, faults = _stream(table, name)
    types = {field.name: _type_in_parquet(field.type) for field in schema}
    for field in schema:
        try:
            # Some nested types are refused only if there are rows.
            column = pa.nulls(1, types[field.name])
            pq.write_table(pa.table({field.name: column}), pa.BufferOutputStream())
            if isinstance(types[field.name], pa.BaseExtensionType):
                raise pa.ArrowTypeError("it is an extension type")
        except pa.ArrowException as error:
            faults[field.name] = (
                f"{name}: the column {field.name!r} has the Arrow type {field.type}, which Parquet "
                f"does not have ({error}). Convert it to strings or numbers."
            )
    for column, fault in faults.items():
        if column in needed:
            raise ValueError(fault)
    kept = [column for column in schema.names if column not in faults]
    num_rows = 0
    written = pa.schema([(column, types[column]) for column in kept])
    with pq.ParquetWriter(path, written) as writer:
        for part in _in_runs(_read(batches, name)):
            writer.write_table(_without_null_categories(part.select(kept)).cast(written))
            num_rows += part.num_rows
    if not num_rows:
        is_stream = not hasattr(table, "__len__")
        hint = " A stream can be read once; give a new one." if is_stream else ""
        raise ValueError(f"{name}: the table has no rows; expected at least one.{hint}")
    return [f"Left out: {fault}" for fault in faults.values()]


def _type_in_parquet(type_: pa.DataType) -> pa.DataType:
    """Returns the type in which values are written: the same, unless Arrow cannot write or read it.

    Parquet has lists of one length, but Arrow cannot read them back if some are null. Arrow cannot
    write categories and objects of views of strings, as Polars makes them. Tensors are written as
    lists.
    """
    if isinstance(type_, pa.FixedShapeTensorType):
        return _type_in_parquet(type_.storage_type)
    if pa.types.is_struct(type_):
        types = (_OF_VIEWS.get(field.type) or _type_in_parquet(field.type) for field in type_)
        return pa.struct([field.with_type(new) for field, new in zip(type_, types, strict=True)])
    if pa.types.is_fixed_size_list(type_) or pa.types.is_list(type_):
        return pa.list_(_type_in_parquet(type_.value_type))
    if pa.types.is_large_list(type_):
        return pa.large_list(_type_in_parquet(type_.value_type))
    if pa.types.is_dictionary(type_) and pa.types.is_string_view(type_.value_type):
        return pa.dictionary(type_.index_type, pa.string(), type_.ordered)
    return type_


def _without_null_categories(table: pa.Table) -> pa.Table:
    """Returns a table in which no category is null, because Arrow cannot write such columns."""
    for position, field in enumerate(table.schema):
        chunks = table.column(position).chunks
        if pa.types.is_dictionary(field.type) and any(
            chunk.dictionary.null_count for chunk in chunks
        ):
            plain = table.column(position).cast(field.type.value_type)
            table = table.set_column(position, field.name, plain.dictionary_encode())
    return table


def _stream(table: Table, name: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch], dict[str, str]]:
    """Returns the columns and rows of a table, and the faults of columns that Arrow refuses."""
    import pandas as pd

    faults: dict[str, str] = {}
    if isinstance(table, pd.DataFrame):
        opened = _arrow_of_frame(table, name, faults).to_reader()
    elif hasattr(table, "__arrow_c_stream__"):
        try:
            opened = pa.RecordBatchReader.from_stream(table)
        except pa.ArrowInvalid as error:
            if "non-struct" in str(error):  # The stream of a column, such as a Series.
                raise _not_a_table(table, name) from error
            raise ValueError(
                f"{name}: a column has a type that PyArrow does not have, such as Polars's Int128 "
                f"({error}). Convert it, for example to 64-bit integers, or leave it out."
            ) from error
    else:
        raise _not_a_table(table, name)
    names = opened.schema.names
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"{name}: several columns are named {twice!r}; rename all but one.")
    return opened.schema, iter(opened), faults


def _not_a_table(value: Any, name: str) -> ValueError:
    is_lazy = hasattr(value, "collect")  # as Polars's LazyFrame
    advice = "Call its .collect()" if is_lazy else "Convert it to a frame"
    return ValueError(
        f"{name}: expected a pandas.DataFrame or a table that exports an Arrow stream "
        f"(__arrow_c_stream__), got {type(value).__name__}. {advice}."
    )


def _arrow_of_frame(frame: "pd.DataFrame", name: str, faults: dict[str, str]) -> pa.Table:
    """Returns the columns of a frame, and adds the faults of columns that Arrow refuses."""
    import pandas as pd

    labels = [label for label in frame.columns if not isinstance(label, str)]
    if labels:
        several = isinstance(labels[0], tuple)
        renamed = (
            "['_'.join(map(str, label)) for label in frame]"
            if several
            else "frame.columns.map(str)"
        )
        raise ValueError(
            f"{name}: expected strings as the names of columns, got {labels[0]!r}. Rename it, for "
            f"example by frame.columns = {renamed}."
        )
    if frame.index.names == [None] and not pd.api.types.is_any_real_numeric_dtype(frame.index):
        is_time = isinstance(frame.index, pd.DatetimeIndex)
        held, named = ("times", "time") if is_time else ("values", "id")
        faults["the index"] = (
            f"{name}: the index has {held}, but no name. To use them, name it, for example by "
            f'frame = frame.rename_axis("{named}").'
        )
    levels = [level for level in frame.index.names if isinstance(level, str)]
    for level in [level for level in levels if level in frame]:
        if not frame.index.get_level_values(level).equals(pd.Index(frame[level])):
            raise ValueError(
                f"{name}: a column and a level of the index are named {level!r}, and their values "
                "differ; rename one of them."
            )
        levels.remove(level)
    frame = frame.reset_index(level=levels) if levels else frame
    arrays: dict[int, Any] = {}
    for position, label in enumerate(frame.columns):
        series = frame.iloc[:, position]
        try:
            arrays[position] = _arrow_of_series(series)
        except _ARROW_ERRORS as error:
            faults[label] = _refused(series, f"{name}: the column {label!r}", error)
    return pa.Table.from_arrays(list(arrays.values()), list(frame.columns[list(arrays)]))


def _arrow_of_series(series: "pd.Series") -> pa.Array:
    try:
        return pa.array(series, from_pandas=True)
    except pa.ArrowException:
        if series.dtype != object:
            raise
        # An empty NumPy array is one of floats, even if the others hold strings.
        is_list = series.map(lambda value: isinstance(value, np.ndarray))
        return pa.array(series.where(~is_list, series[is_list].map(list)), from_pandas=True)


def _refused(series: "pd.Series", column: str, error: Exception) -> str:
    """Returns the message about a column that Arrow refuses."""
    import pandas as pd

    kinds: dict[str, str] = {}
    if series.dtype == object:
        for row, value in enumerate(series):
            kind = type(value).__name__
            is_missing = pd.api.types.is_scalar(value) and pd.isna(value)
            if kind not in kinds and not is_missing:
                kinds[kind] = f"{kind} ({value!r} in iloc[{row}])"
    if len(kinds) > 1:
        return (
            f"{column} holds {' and '.join(kinds.values())}; expected values of one type. Convert "
            'it, for example by .astype("string") or pandas.to_numeric.'
        )
    got = next(iter(kinds.values()), f"values of the dtype {series.dtype}")
    return (
        f"{column} holds {got}; expected strings, numbers, booleans, times, categories or lists of "
        f"values of one type ({error}). Convert it, or leave it out of the schema."
    )


def _read(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """Yields the batches of a stream.

    Raises:
        ValueError: The stream fails.
    """
    num_rows = 0
    try:
        for batch in batches:
            num_rows += batch.num_rows
            yield batch
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition(" Detail: ")[0]
        raise ValueError(
            f"{name}: the stream failed after {num_rows:,} rows ({reason}). Correct its source, "
            "and give a new stream."
        ) from error


def _in_runs(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yields tables of at least `formats.ROWS_PER_CHUNK` rows, except the last."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        if count >= formats.ROWS_PER_CHUNK:
            yield pa.Table.from_batches(pending)
            pending, count = [], 0
    if pending:
        yield pa.Table.from_batches(pending)
