"""Joins tables of users and ads to the rows of a log.

A row whose key is not in the table gets missing values. If a table has several rows with one key,
the last one counts, as in the ad catalog.

Shapes: B rows of a chunk, V distinct keys among them.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tfrecords import columns
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, table_files

_MIN_KEYS = 10


class SideTable:
    """A table whose columns are joined to a log.

    Args:
        path: The file.
        key: Columns that identify its rows, with the same names in the log.
        types: Columns to join and their types: `delimited.STRINGS`, `NUMBERS` or `VECTORS`.
        lists: Columns that may hold lists.
        decimal: Decimal sign of numbers in JSON strings; None: plain numbers.

    Attributes:
        path, key: See the arguments.
        columns: Columns to join.
        keys: Rows that are ignored because of their key, and examples of keys.

    Raises:
        FileNotFoundError, ValueError: See `table_files.read`.
    """

    def __init__(
        self,
        path: pathlib.Path,
        key: Sequence[str],
        types: Mapping[str, pa.DataType],
        lists: Collection[str] = (),
        decimal: str | None = None,
    ) -> None:
        self.path = path
        self.key = tuple(key)
        self.columns = tuple(types)
        read = {**dict.fromkeys(key, delimited.STRINGS), **types}
        table = table_files.read(path, read, lists, decimal)
        _, fingerprints, rows, self.keys = columns.rows_by_key(table, self.key, self.columns)
        self._rows = columns.KeyIndex(fingerprints)
        table = table.take(pa.array(rows))
        self._values = {name: columns.decoded(table[name].combine_chunks()) for name in types}

    def join(
        self, parsed: protocol.Parsed, must_match: bool = False
    ) -> tuple[protocol.Parsed, protocol.Matches]:
        """Adds the table's columns to parsed rows, and counts the rows that it has.

        Args:
            parsed: Rows with the key.
            must_match: Whether it is an error if the table matches none of several keys.

        Raises:
            ValueError: The table has none of the keys.
        """
        table = parsed.table
        codes, ids = columns.coded_keys(table, self.key)
        has_key = ~columns.are_missing(ids.values)
        rows = np.where(has_key, self._rows.find(ids.fingerprints), -1)
        indices = pa.array(rows, mask=rows < 0)
        if must_match and len(ids) >= _MIN_KEYS and indices.null_count == len(ids):
            raise ValueError(
                f"{self.path} contains none of the log's values of {list(self.key)}, such as "
                f"{ids.values[0].as_py()!r}; it has values such as {self.keys.examples}. Give the "
                "table of this log, with keys written in the same way."
            )
        for name, values in self._values.items():
            table = table.append_column(name, _spread(values.take(indices), codes))
        lacking = has_key & (rows < 0)
        matches = protocol.Matches(
            rows=int(has_key[codes].sum()),
            unmatched=int(lacking[codes].sum()),
            examples=ids.values.filter(pa.array(lacking))[:3].to_pylist(),
        )
        return dataclasses.replace(parsed, table=table), matches


def _spread(values: pa.Array, codes: np.ndarray) -> pa.Array:
    """Returns the value of each row [B], given the values of the distinct keys [V]."""
    indices = pa.array(codes)
    if pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type):
        return pa.DictionaryArray.from_arrays(indices, values)
    if pa.types.is_string(values.type):
        encoded = values.dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.take(indices), encoded.dictionary)
    return values.take(indices)
