"""Columns of keys, in which some texts say that there is no key.

Databases and data frames write what is missing as NULL, None or nan. An ad of that name
would be the most shown of all, and a user the busiest.
"""

import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow, number_text
from tfrecords.schema import Schema

_PLACEHOLDERS = pa.array([text for text in number_text.NULLS if text])


def without_placeholders(schema: Schema, table: pa.Table) -> pa.Table:
    """Returns a table with the keys missing that stand for a missing one, as for a number.

    Of an ad key of several columns each may be so, and the ad is still another.

    Args:
        schema: Says which columns are keys.
        table: Parsed rows, or a table of ads.
    """
    ad_key = schema.ad_key if len(schema.ad_key) == 1 else ()
    for name in dict.fromkeys((*ad_key, schema.user_key, schema.request_key)):
        if name is not None and name in table.column_names and arrow.is_text(table[name]):
            index = table.column_names.index(name)
            table = table.set_column(index, name, _known(table[name]))
    return table


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    array = arrow.as_strings(column)
    if not pa.types.is_dictionary(array.type):
        return _null_where(pc.is_in(array, _PLACEHOLDERS), array)
    of_values = pc.is_in(array.dictionary, _PLACEHOLDERS)
    if not pc.any(of_values).as_py():
        return pa.chunked_array([array])
    # A null index gives null.
    indices = _null_where(pc.fill_null(of_values.take(array.indices), False), array.indices)
    return pa.chunked_array([pa.DictionaryArray.from_arrays(indices.chunk(0), array.dictionary)])


def _null_where(gone: pa.Array, array: pa.Array) -> pa.ChunkedArray:
    if not pc.any(gone).as_py():
        return pa.chunked_array([array])
    return pa.chunked_array([pc.if_else(gone, pa.scalar(None, array.type), array)])
