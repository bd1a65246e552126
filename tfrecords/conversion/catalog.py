"""The ad catalog: one row per ad that can be recommended.

An ad is identified by the columns of `schema.ad_key`; its id is their values joined by "|".
Impressions and clicks are counted on training rows, so that clicks / total clicks is the exact
sampling probability of an ad as an in-batch negative. The catalog has the latest values of the
fields of an ad (from the last row in the log if it has no times), and the rates of two times
(`conversion.event_rates`).

Shapes: N ads, V distinct ads of one chunk.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import encoding, files, reader, records
from tfrecords.columns import (
    KeyIndex,
    last_rows,
    rows_by_key,
    shown_texts,
    with_fingerprints,
    without_placeholders,
)
from tfrecords.conversion.event_rates import EventRates
from tfrecords.conversion.parsed_rows import (
    AD,
    LABEL_COLUMNS,
    TIME,
    Rows,
    by_chunk,
    raw_column,
)
from tfrecords.schema import AD as OF_AD
from tfrecords.schema import SHOWN, Schema, shown_text

_MAX_PENDING = 4_000_000


def count_chunk(rows: Rows, is_train: np.ndarray, first_row: int) -> dict[str, np.ndarray]:
    """Counts the ads of a chunk that begins at row `first_row` of the log.

    `is_train` [B] bool tells which of its rows are training rows.

    Returns:
        The `fingerprints` of the ad ids [V], their `impressions` and `clicks` in training rows, and
        their `first` and `latest` row in the log, all int64. The latest row is the last of those
        with the latest time [V], which is in `time` if the log has times.
    """
    codes = rows.array(AD)
    fingerprints = rows.strings[AD].fingerprints
    clicked = is_train & (rows.array(LABEL_COLUMNS["click"]) == 1)
    times = rows.array(TIME) if TIME in rows.columns.column_names else None
    order = np.arange(len(codes)) if times is None else np.argsort(times, kind="stable")
    last = last_rows(codes[order], len(fingerprints))
    shown = last >= 0
    latest = order[last[shown]]
    first = len(codes) - 1 - last_rows(codes[::-1], len(fingerprints))
    impressions, clicks = (
        np.bincount(codes[mask], minlength=len(fingerprints)).astype(np.int64)
        for mask in (is_train, clicked)
    )
    counts = {"fingerprints": fingerprints, "impressions": impressions, "clicks": clicks}
    counts["first"] = first + first_row
    shown_counts = {name: values[shown] for name, values in counts.items()}
    latest_time = {} if times is None else {"time": times[latest]}
    return {**shown_counts, "latest": latest + first_row, **latest_time}


def merge(parts: Iterable[Mapping[str, np.ndarray]]) -> pa.Table:
    """Merges the results of `count_chunk` of several chunks, in the log's order."""
    pending: list[pa.Table] = []
    for part in parts:
        pending.append(pa.table(dict(part)))
        if sum(p.num_rows for p in pending) > _MAX_PENDING:
            pending = [_merge(pending)]
    return _merge(pending)


def _merge(parts: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(parts)
    functions = {"impressions": "sum", "clicks": "sum", "first": "min", "latest": "last"}
    if "time" in table.column_names:
        table = table.sort_by([("time", "ascending"), ("latest", "ascending")])
        functions["time"] = "last"
    grouped = table.group_by("fingerprints", use_threads=False)
    merged = grouped.aggregate(list(functions.items()))
    return merged.rename_columns(["fingerprints", *functions])


@dataclasses.dataclass(frozen=True)
class CatalogAds:
    """The catalog, in order of first appearance.

    Attributes:
        fingerprints: Fingerprints of the ad ids [N] int64.
        table: `reader.AD_ID`, the raw ad-side fields, `reader.IMPRESSIONS`, `reader.CLICKS`, and
            `schema.SHOWN` if the schema shows columns.
        table_keys: Keys of the table of ads, or None.
    """

    fingerprints: np.ndarray
    table: pa.Table
    table_keys: records.TableKeys | None = None

    @functools.cached_property
    def rows(self) -> KeyIndex:
        """Finds the row of an ad id by its fingerprint."""
        return KeyIndex(self.fingerprints)

    def __len__(self) -> int:
        return self.table.num_rows

    def save(self, directory: pathlib.Path, fitted: encoding.FittedSchema) -> None:
        """Writes `ads.arrow` (raw fields and counts) and `ad_features.npy` [N, F] int32."""
        directory.mkdir(parents=True, exist_ok=True)
        records.write_arrow(self.table, directory / "ads.arrow")
        encoder = encoding.Encoder(fitted, fitted.schema.ad_fields)
        files.write_array(directory / "ad_features.npy", encoder.encode_table(self.table))


def load(directory: pathlib.Path) -> CatalogAds:
    """Reads the catalog that `CatalogAds.save` wrote."""
    table = records.read_arrow(directory / "ads.arrow")
    return CatalogAds(_fingerprints(table), table)


def _fingerprints(table: pa.Table) -> np.ndarray:
    return with_fingerprints(table[reader.AD_ID].combine_chunks()).fingerprints


def collect(
    schema: Schema,
    counts: pa.Table,
    chunk_ends: np.ndarray,
    load: Callable[[int], Rows],
    more: pa.Table | None = None,
) -> CatalogAds:
    """Builds the catalog from the result of `merge` of all chunks and, if any, a table of ads."""
    counts = counts.sort_by("latest")
    parts = []
    for chunk, _, indices in by_chunk(counts["latest"].to_numpy(), chunk_ends):
        rows = load(chunk)
        codes = rows.array(AD)[indices]
        columns = {reader.AD_ID: rows.strings[AD].values.take(pa.array(codes))}
        columns.update({f.name: rows.raw(f, indices) for f in schema.logged_ad_fields})
        if schema.show:
            columns[SHOWN] = rows.shown(schema.show, indices)
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    table = table.append_column(reader.IMPRESSIONS, counts["impressions"])
    table = table.append_column(reader.CLICKS, counts["clicks"])
    order = pc.sort_indices(counts["first"])
    fingerprints = counts["fingerprints"].take(order).to_numpy()
    ads = CatalogAds(fingerprints, table.take(order).combine_chunks())
    return ads if more is None else _with_more(schema, ads, more)


def with_rates(
    ads: CatalogAds, rates: Sequence[EventRates], measured: float, released: float
) -> CatalogAds:
    """Returns a catalog with the rates of its ads before two times in seconds.

    Models are evaluated with the measured rates; releases have the others.
    """
    table = ads.table
    for rate in rates:
        values = ads.fingerprints
        if rate.field.of != OF_AD:
            texts = pc.fill_null(table[rate.field.of], "").combine_chunks()
            values = with_fingerprints(texts).fingerprints
        for prefix, time in (("", measured), (reader.RELEASED, released)):
            found = rate.at(values, np.full(len(values), time))
            numbers = pa.array(found, pa.float64(), from_pandas=True)
            table = table.append_column(prefix + rate.field.name, numbers)
    return dataclasses.replace(ads, table=table)


def ads_of_table(schema: Schema, table: pa.Table) -> tuple[pa.Table, records.TableKeys]:
    """Returns the ads of a table, each once: ids, raw fields, and values to show.

    The table has the ad key, the ad-side columns, and perhaps columns to show. The last row of an
    ad counts; rows without a key are left out.

    Returns:
        The ads, and the keys of the table, with the numbers of rows that are left out.

    Raises:
        ValueError: A value of a numeric field is not a number.
    """
    table = without_placeholders(schema, table)
    read = dict.fromkeys((*(f.source for f in schema.logged_ad_fields), *schema.show))
    names = [n for n in read if n in table.column_names and n not in schema.ad_key]
    ids, _, rows, keys = rows_by_key(table, schema.ad_key, names)
    order = np.argsort(rows)
    table = table.take(pa.array(rows[order]))
    columns = {reader.AD_ID: ids.take(pa.array(order))}
    columns.update({f.name: raw_column(f, table[f.source]) for f in schema.logged_ad_fields})
    if schema.show:
        columns[SHOWN] = shown_texts(table, schema.show)
    return pa.table(columns), keys


def _with_more(schema: Schema, ads: CatalogAds, more: pa.Table) -> CatalogAds:
    """Adds the ads of a table that the log never shows, and columns to show of the others."""
    shown = [name for name in schema.show if name in more.column_names]
    more, keys = ads_of_table(schema, more)
    fingerprints = _fingerprints(more)
    rows = ads.rows.find(fingerprints)
    table = ads.table
    if shown:
        texts = table[SHOWN].to_pylist()
        for row, text in zip(rows.tolist(), more[SHOWN].to_pylist(), strict=True):
            if row >= 0:
                values = json.loads(text)
                texts[row] = shown_text({**json.loads(texts[row]), **{n: values[n] for n in shown}})
        at = table.column_names.index(SHOWN)
        table = table.set_column(at, SHOWN, pa.array(texts, pa.large_string()))
    is_unmatched = np.ones(len(ads), bool)
    is_unmatched[rows[rows >= 0]] = False
    unmatched = ads.table[reader.AD_ID].filter(pa.array(is_unmatched))
    examples = more[reader.AD_ID][:3].to_pylist()
    more = more.filter(pa.array(rows < 0))
    zeros = pa.array(np.zeros(more.num_rows, np.int64))
    for name in (reader.IMPRESSIONS, reader.CLICKS):
        more = more.append_column(name, zeros)
    return CatalogAds(
        np.concatenate([ads.fingerprints, fingerprints[rows < 0]]),
        pa.concat_tables([table, more.select(table.column_names)]).combine_chunks(),
        table_keys=keys.model_copy(
            update={
                # Keys that the log lacks show best what is written differently.
                "examples": more[reader.AD_ID][:3].to_pylist() or examples,
                "looked_up": len(ads),
                "unmatched": len(unmatched),
                "unmatched_examples": unmatched[:3].to_pylist(),
            }
        ),
    )
