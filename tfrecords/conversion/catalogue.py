"""The ad catalog: one row per ad that can be recommended.

An ad is identified by the columns of `schema.ad_key`; its id is their values joined by "|".
Impressions and clicks are counted on training rows, so that clicks / total clicks is the exact
sampling probability of an ad as an in-batch negative. The catalog has the latest values of the
fields of an ad.

Shapes: N ads, V distinct ads of one chunk.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import encoding, reader, records
from tfrecords.columns import with_fingerprints, without_placeholders
from tfrecords.conversion.parsed_rows import AD, LABEL_COLUMNS, Rows, distinct_ads, raw_column
from tfrecords.schema import Schema

_MAX_PENDING = 4_000_000


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of the ads of one chunk, or of several.

    Attributes:
        fingerprints: Fingerprints of the ad ids, ascending [V] int64.
        impressions: Training rows of each ad [V] int64.
        clicks: Clicked training rows of each ad [V] int64.
        first: First row of each ad in the log [V] int64.
        last: Last row of each ad in the log [V] int64.
    """

    fingerprints: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray
    first: np.ndarray
    last: np.ndarray


def count_chunk(rows: Rows, is_train: np.ndarray, first_row: int) -> Counts:
    """Counts the ads of a chunk.

    Args:
        rows: The chunk's rows.
        is_train: Whether a row is a training row [B] bool.
        first_row: Number of rows in earlier chunks.
    """
    codes = rows.array(AD)
    fingerprints = rows.strings[AD].fingerprints
    clicked = is_train & (rows.array(LABEL_COLUMNS["click"]) == 1)
    places = np.arange(len(codes))
    first = np.full(len(fingerprints), -1, np.int64)
    last = first.copy()
    first[codes[::-1]] = places[::-1]
    last[codes] = places
    shown = np.flatnonzero(first >= 0)
    order = shown[np.argsort(fingerprints[shown], kind="stable")]
    impressions, clicks = (
        np.bincount(codes[mask], minlength=len(fingerprints)).astype(np.int64)
        for mask in (is_train, clicked)
    )
    return Counts(
        fingerprints[order],
        impressions[order],
        clicks[order],
        first[order] + first_row,
        last[order] + first_row,
    )


def merge(parts: Iterable[Counts]) -> Counts:
    """Sums the counts of several chunks."""
    pending: list[Counts] = []
    for part in parts:
        pending.append(part)
        if sum(len(p.fingerprints) for p in pending) > _MAX_PENDING:
            pending = [_merge(pending)]
    return _merge(pending)


def _merge(parts: Sequence[Counts]) -> Counts:
    fingerprints = np.concatenate([p.fingerprints for p in parts])
    order = np.argsort(fingerprints, kind="stable")
    ordered = fingerprints[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))[: len(ordered)]

    def reduced(name: str, reduce: np.ufunc) -> np.ndarray:
        values = np.concatenate([getattr(p, name) for p in parts])[order]
        return reduce.reduceat(values, starts) if len(values) else values

    return Counts(
        ordered[starts],
        reduced("impressions", np.add),
        reduced("clicks", np.add),
        reduced("first", np.minimum),
        reduced("last", np.maximum),
    )


class CatalogueAds:
    """The catalog, in order of first appearance.

    Args:
        fingerprints: Fingerprints of the ad ids [N] int64.
        table: `reader.AD_ID`, the raw ad-side fields, `reader.IMPRESSIONS` and `reader.CLICKS`.
    """

    def __init__(self, fingerprints: np.ndarray, table: pa.Table) -> None:
        self.table = table
        self._order = np.argsort(fingerprints, kind="stable")
        self._sorted = fingerprints[self._order]

    def __len__(self) -> int:
        return self.table.num_rows

    def row_of(self, fingerprints: np.ndarray) -> np.ndarray:
        """Returns the catalog row [V] int32 of each fingerprint, or -1."""
        if not len(self._sorted):
            return np.full(len(fingerprints), -1, np.int32)
        places = np.minimum(np.searchsorted(self._sorted, fingerprints), len(self._sorted) - 1)
        found = self._sorted[places] == fingerprints
        return np.where(found, self._order[places], -1).astype(np.int32)

    def save(self, directory: pathlib.Path, fitted: encoding.FittedSchema) -> None:
        """Writes `ads.arrow` (raw fields and counts) and `ad_features.npy` [N, F] int32."""
        directory.mkdir(parents=True, exist_ok=True)
        records.write_arrow(self.table, directory / "ads.arrow")
        encoder = encoding.Encoder(fitted, fitted.schema.ad_fields)
        np.save(directory / "ad_features.npy", encoder.encode_table(self.table))


def load(directory: pathlib.Path) -> CatalogueAds:
    """Reads the catalog that `CatalogueAds.save` wrote."""
    table = records.read_arrow(directory / "ads.arrow")
    return CatalogueAds(_fingerprints(table), table)


def _fingerprints(table: pa.Table) -> np.ndarray:
    return with_fingerprints(table[reader.AD_ID].combine_chunks()).fingerprints


def collect(
    schema: Schema,
    counts: Counts,
    chunk_ends: np.ndarray,
    load: Callable[[int], Rows],
    more: pa.Table | None = None,
) -> CatalogueAds:
    """Builds the catalog.

    Args:
        schema: The schema.
        counts: Counts of all chunks.
        chunk_ends: Number of rows up to the end of each chunk.
        load: Returns the rows of a chunk.
        more: Table of ads, with the ad key and the ad-side columns, or None.
    """
    parts = []
    chunk_of = np.searchsorted(chunk_ends, counts.last, side="right")
    by_chunk = np.argsort(chunk_of, kind="stable")
    for chunk in np.unique(chunk_of).tolist():
        first = int(chunk_ends[chunk - 1]) if chunk else 0
        rows = load(chunk)
        places = counts.last[by_chunk[chunk_of[by_chunk] == chunk]] - first
        codes = rows.array(AD)[places]
        columns = {reader.AD_ID: rows.strings[AD].values.take(pa.array(codes))}
        columns.update({f.name: rows.raw(f, places) for f in schema.ad_fields})
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    table = table.append_column(reader.IMPRESSIONS, pa.array(counts.impressions[by_chunk]))
    table = table.append_column(reader.CLICKS, pa.array(counts.clicks[by_chunk]))
    order = np.argsort(counts.first[by_chunk], kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    ads = CatalogueAds(counts.fingerprints[by_chunk][order], table)
    return ads if more is None else _with_more(schema, ads, more)


def _with_more(schema: Schema, ads: CatalogueAds, more: pa.Table) -> CatalogueAds:
    """Adds the ads of a table that the log never shows; the last row of an ad counts."""
    more = without_placeholders(schema, more)
    ids, strings = distinct_ads(schema, more)
    codes = ids.to_numpy()
    last = np.full(len(strings), -1, np.int64)
    last[codes] = np.arange(len(codes))
    known = ads.row_of(strings.fingerprints) >= 0
    empty = pc.equal(strings.values, "").to_numpy(zero_copy_only=False)
    places = np.sort(last[(last >= 0) & ~known & ~empty])
    columns = {reader.AD_ID: strings.values.take(pa.array(codes[places]))}
    for field in schema.ad_fields:
        column = more[field.source].take(pa.array(places))
        columns[field.name] = raw_column(field, column)
    zeros = pa.array(np.zeros(len(places), np.int64))
    added = pa.table({**columns, reader.IMPRESSIONS: zeros, reader.CLICKS: zeros})
    return CatalogueAds(
        np.concatenate([_fingerprints(ads.table), strings.fingerprints[codes[places]]]),
        pa.concat_tables([ads.table, added]).combine_chunks(),
    )
