"""The ad catalogue: every ad that can be recommended, once.

An ad is identified by the columns of `schema.ad_key`; its id is their values joined by
"|". Impressions and clicks are counted on training rows, so clicks / total clicks is the
exact probability with which in-batch sampling draws an ad. An ad whose fields change
keeps the latest values of the log.
"""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tfrecords import arrow_file, encoding
from tfrecords import schema as schema_lib
from tfrecords.formats import lines

AD_ID = "ad_id"
_COUNTS = ("impressions", "clicks")
_KEEP_NULLS = pc.ScalarAggregateOptions(skip_nulls=False)
_COMPACT_ROWS = 2_000_000


def ad_ids(schema: schema_lib.Schema, table: pa.Table) -> pa.ChunkedArray:
    """Returns the ad id of each row [B] string."""
    parts = [pc.fill_null(table[name].cast(pa.string()), "") for name in schema.ad_key]
    if len(parts) == 1:
        return parts[0]
    escaped = [pc.replace_substring(part, "|", "\\|") for part in parts]
    return pc.binary_join_element_wise(*escaped, "|")


class Ads:
    """The finished catalogue: one row per ad, in order of first appearance."""

    def __init__(self, schema: schema_lib.Schema, table: pa.Table) -> None:
        self._schema = schema
        self._table = table
        self._ids = table[AD_ID].combine_chunks()

    def __len__(self) -> int:
        return self._table.num_rows

    def rows(self, table: pa.Table) -> np.ndarray:
        """Returns the catalogue row [B] int32 of each log row."""
        return pc.index_in(ad_ids(self._schema, table), self._ids).cast(pa.int32()).to_numpy()

    def save(self, directory: pathlib.Path, fitted: encoding.FittedSchema) -> None:
        """Writes `ads.arrow` (raw fields and counts) and `ad_features.npy` [N, Fa] int32."""
        directory.mkdir(parents=True, exist_ok=True)
        arrow_file.write(self._table, directory / "ads.arrow")
        encoder = encoding.Encoder(fitted, self._schema.ad_fields)
        np.save(directory / "ad_features.npy", encoder.encode_table(self._table))


class AdCollector:
    """Collects the ads of streamed log batches."""

    def __init__(self, schema: schema_lib.Schema) -> None:
        self._schema = schema
        self._fields = [field.name for field in schema.ad_fields]
        self._parts: list[pa.Table] = []

    def update(self, table: pa.Table, is_train: np.ndarray) -> None:
        """Adds log rows; `is_train` [B] bool says which of them are counted."""
        clicks = table[self._schema.click].cast(pa.int64()).to_numpy() * is_train
        part = table.select(self._fields)
        part = part.append_column(AD_ID, ad_ids(self._schema, table))
        part = part.append_column("first_line", table[lines.LINE_NUMBER])
        part = part.append_column("impressions", pa.array(is_train.astype(np.int64)))
        part = part.append_column("clicks", pa.array(clicks))
        self._parts.append(self._merge([part]))
        if sum(p.num_rows for p in self._parts) > _COMPACT_ROWS:
            self._parts = [self._merge(self._parts)]

    def _merge(self, parts: list[pa.Table]) -> pa.Table:
        grouped = pa.concat_tables(parts).group_by(AD_ID, use_threads=False)
        merged = grouped.aggregate(
            [(name, "last", _KEEP_NULLS) for name in self._fields]
            + [("first_line", "min"), ("impressions", "sum"), ("clicks", "sum")]
        )
        return merged.rename_columns([AD_ID, *self._fields, "first_line", *_COUNTS])

    def add_table(self, path: pathlib.Path) -> None:
        """Adds ads from a tab-separated table with a header line, shown or not.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be parsed or lacks an ad-side column.
        """
        if not path.is_file():
            raise FileNotFoundError(f"No ad table at {path}.")
        types = {
            f.name: pa.float64() if f.kind == "numeric" else pa.string()
            for f in self._schema.ad_fields
        }
        types.update({name: pa.string() for name in self._schema.ad_key})
        try:
            table = pa_csv.read_csv(
                path,
                parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=types, null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"The ad table {path} cannot be read: {error}; expected a header line with "
                f"{list(types)} and tab-separated lines below it."
            ) from error
        missing = [name for name in types if name not in table.column_names]
        if missing:
            raise ValueError(f"The ad table {path} lacks the columns {missing}.")
        part = table.select(self._fields).append_column(AD_ID, ad_ids(self._schema, table))
        # Ads of the log come first and keep what the log says of them.
        last = np.iinfo(np.int64).max // 2 + np.arange(table.num_rows)
        part = part.append_column("first_line", pa.array(last))
        for name in _COUNTS:
            part = part.append_column(name, pa.array(np.zeros(table.num_rows, np.int64)))
        part = part.select([AD_ID, *self._fields, "first_line", *_COUNTS])
        self._parts = [self._merge([part, *self._parts])]

    def finish(self) -> Ads:
        """Returns the catalogue."""
        merged = self._merge(self._parts).sort_by("first_line")
        return Ads(self._schema, merged.drop_columns(["first_line"]).combine_chunks())
