"""Shared by the formats with known columns: checks of the schema, and ad tables."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from tfrecords import terminal
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, table_files
from tfrecords.schema import Schema


def check_schema(
    schema: Schema, log_name: str, raw: Iterable[str], derived: Iterable[str] = ()
) -> None:
    """Checks that each column that a schema names is in the files or derived by the format.

    Raises:
        ValueError: A column does not exist; the message names the existing ones.
    """
    raw, derived = list(raw), list(derived)
    known = [*raw, *derived]
    unknown = [name for name in schema.columns if name not in known]
    if unknown:
        hint = terminal.suggestion_for(unknown[0], known)
        more = f", and derived from them {', '.join(derived)}" if derived else ""
        raise ValueError(
            f"Schema {schema.name!r}: {log_name} has no column {', '.join(map(repr, unknown))}."
            f"{hint} It has {', '.join(raw)}{more}."
        )


def check_files(files: protocol.Files, log_name: str) -> None:
    """Checks that no table of users is given.

    Raises:
        ValueError: A table of users is given.
    """
    if files.users is not None:
        raise ValueError(
            f"{log_name} has the users' fields, but a table of users was given ({files.users}). "
            "Leave it out, or use the tabular format."
        )


def columns_read(
    files: protocol.Files,
    schema: Schema,
    log_name: str,
    raw: Iterable[str],
    derived: Mapping[str, Iterable[str]],
) -> tuple[str, ...]:
    """Returns the columns of the files that are read, in the order of `raw`.

    Raises:
        ValueError: See `check_schema` and `check_files`.
    """
    check_schema(schema, log_name, raw, derived)
    check_files(files, log_name)
    schema_columns = set(schema.columns)
    inputs = {name for column in schema_columns for name in derived.get(column, ())}
    return tuple(name for name in raw if name in schema_columns | inputs)


def types(schema: Schema, names: Iterable[str]) -> dict[str, pa.DataType]:
    """Returns the types of columns by the schema's fields: numbers or strings."""
    numeric = {field.source for field in schema.logged_fields if field.kind == "numeric"}
    return {n: delimited.NUMBERS if n in numeric else delimited.STRINGS for n in names}


def read_ads(files: protocol.Files, schema: Schema) -> pa.Table | None:
    """Reads the table of ads, or returns None if none was given.

    Raises:
        FileNotFoundError, ValueError: See `table_files.read`.
    """
    if files.ads is None:
        return None
    needed = dict.fromkeys([*schema.ad_key, *(field.source for field in schema.logged_ad_fields)])
    needed |= dict.fromkeys(table_files.shown_names(files.ads, schema))
    return table_files.read(files.ads, types(schema, needed)).select(list(needed))
