"""Reads converted data sets: the description, the ad catalogue, and `tf.data` batches.

Shapes: B requests, C the longest list of the batch, Fq and Fa query- and ad-side fields.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrecords import encoding, records

# No field has such a name.
AD_ID = "__ad_id__"
IMPRESSIONS = "__impressions__"
CLICKS = "__clicks__"
FORMAT_VERSION = 3
RECORDS_PER_WINDOW = 32
_SHARDS_AT_ONCE = 32
_SHUFFLED_RECORDS = 128
_READ_BUFFER_BYTES = 1 << 18
Batch = records.Batch
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _not_rewritten(function: _Function) -> _Function:
    """Spares what builds a pipeline the rewriting of its steps by AutoGraph.

    No step has control flow of Python that depends on tensors, and the rewriting is most of the
    time of building one.
    """
    return tf.autograph.experimental.do_not_convert(function)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Every ad that can be recommended; row i of each part is ad i.

    Attributes:
        table: The ads' ids, raw ad-side fields and counts, and `AD_ID`, `IMPRESSIONS`, `CLICKS`.
        features: [N, Fa] int32 encoded ad-side fields.
    """

    table: pa.Table
    features: np.ndarray

    @property
    def ad_ids(self) -> pa.ChunkedArray:
        """[N] string."""
        return self.table[AD_ID]

    @property
    def fields(self) -> pa.Table:
        """The raw ad-side fields alone."""
        return self.table.drop_columns([AD_ID, IMPRESSIONS, CLICKS])

    @property
    def clicks(self) -> np.ndarray:
        """[N] clicked training rows."""
        return self.table[CLICKS].to_numpy()

    @property
    def impressions(self) -> np.ndarray:
        """[N] training rows."""
        return self.table[IMPRESSIONS].to_numpy()

    def __len__(self) -> int:
        return len(self.features)


class DataSet:
    """A converted data set.

    Args:
        directory: What `convert` wrote.

    Raises:
        FileNotFoundError: There is no finished data set in the directory.
        ValueError: The encoder beside it is not the one it was written with.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)
        path = self.directory / "dataset.json"
        if not path.is_file():
            raise FileNotFoundError(f"No data set at {path}; run tfrec convert first.")
        self.description: dict[str, Any] = records.read_json(path)
        if self.description.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {self.description.get('format_version')!r}, this version reads "
                f"{FORMAT_VERSION}; convert the log again."
            )
        self.fingerprint: str = self.description["fingerprint"]
        self.fitted = self._encoder()
        self.schema = self.fitted.schema
        self._verified: set[str] = set()
        self.spec = records.spec_from_json(self.description["spec"])

    def _encoder(self) -> encoding.FittedSchema:
        try:
            fitted = encoding.load(self.directory / "encoder")
        except (ValueError, LookupError, TypeError, OSError):
            self._check("encoder/")  # names the file that is damaged
            raise
        if fitted.fingerprint() != self.fingerprint:
            raise ValueError(
                f"{self.directory}: the records were written with encoder {self.fingerprint}, "
                f"the encoder beside them is {fitted.fingerprint()}; convert again."
            )
        return fitted

    def catalogue(self) -> Catalogue:
        """Reads the ad catalogue; features are memory-mapped.

        Raises:
            FileNotFoundError, ValueError: A file of it is missing or altered.
        """
        directory = self.directory / "catalogue"
        self._check("catalogue/")
        table = records.read_arrow(directory / "ads.arrow")
        return Catalogue(table, np.load(directory / "ad_features.npy", mmap_mode="r"))

    def sample_requests(self) -> list[dict[str, Any]]:
        """Reads raw query fields of some held-out requests; None is missing.

        Raises:
            FileNotFoundError, ValueError: The file is missing or altered.
        """
        self._check("sample_requests.json")
        return records.read_json(self.directory / "sample_requests.json")

    def profile(self) -> dict[str, Any]:
        """Reads distinct values of the fields, and rows and clicks over time."""
        self._check("profile.json")
        return records.read_json(self.directory / "profile.json")

    def _check(self, prefix: str) -> None:
        """Checks the files whose names begin with `prefix`."""
        for name, checksum in self.description["sha256"].items():
            if name.startswith(prefix):
                records.check_file(self.directory / name, checksum)

    def verify(self) -> None:
        """Checks every file; shards are not checked again when they are read.

        Raises:
            FileNotFoundError, ValueError: One is missing or altered.
        """
        self._check("")
        for split in self.description["splits"]:
            self._verified_shards(split)

    def num_rows(self, split: str) -> int:
        return int(self.description["splits"][split]["rows"])

    def num_requests(self, split: str) -> int:
        return int(self.description["splits"][split]["requests"])

    def label_count(self, split: str, label: str) -> int:
        """Returns how many rows of a split have the label."""
        return int(self.description["splits"][split]["label_counts"].get(label, 0))

    def label_sum(self, split: str, label: str) -> float:
        return float(self.description["splits"][split]["label_sums"].get(label, 0.0))

    def column(self, split: str, name: str) -> np.ndarray:
        """Reads one stored feature of a split in the log's order.

        Args:
            split: `train`, `validation` or `test`.
            name: One of `records.Spec.per_request` [R] or `per_ad` [L].

        Raises:
            FileNotFoundError, ValueError: As `windows`.
        """
        dtype = {**self.spec.per_request(), **self.spec.per_ad()}[name]
        windows = self._stored_windows(split, None, self.spec)
        parts = [np.empty(0, dtype), *(stored[name].numpy() for stored in windows)]
        return np.concatenate(parts)

    @_not_rewritten
    def windows(self, split: str, seed: int | None = None) -> tf.data.Dataset:
        """Streams a split as runs of many records.

        Args:
            split: `train`, `validation` or `test`.
            seed: Shuffles shards, then records, then requests inside a window with one
                gather, anew each epoch; None keeps the log's order.

        Yields:
            The features of `records.unpack`.

        Raises:
            FileNotFoundError: A shard is missing.
            ValueError: A shard is not what was written.
        """
        windows = self._stored_windows(split, seed, self._spec_without_users)
        return windows.map(lambda stored: records.unpack(self.spec, stored), tf.data.AUTOTUNE)

    @property
    def _spec_without_users(self) -> records.Spec:
        return dataclasses.replace(self.spec, has_user=False)

    @_not_rewritten
    def _stored_windows(
        self, split: str, seed: int | None, spec: records.Spec, negative_keep_rate: float = 1.0
    ) -> tf.data.Dataset:
        """Streams windows as they are stored, which is less to move than what models take."""
        paths = self._verified_shards(split)
        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string))
        if seed is not None:
            dataset = dataset.shuffle(max(len(paths), 1), seed=seed)
            # Neighbours of the log are in one shard; of many shards read at once, few records
            # of the same one come into a window.
            dataset = dataset.interleave(_records, cycle_length=_SHARDS_AT_ONCE)
            dataset = dataset.shuffle(_SHUFFLED_RECORDS, seed=seed)
        else:
            dataset = dataset.flat_map(_records)

        def window(index: tf.Tensor, serialized: tf.Tensor) -> Batch:
            stored = records.decode(spec, serialized)
            if negative_keep_rate < 1.0:
                of_window = tf.stack([tf.constant(seed or 0, tf.int64), index])
                stored = records.thin_unclicked(stored, negative_keep_rate, of_window)
            return stored if seed is None else records.permute(stored)

        # Records are parsed by the window: raw columns join before they are decoded.
        return dataset.batch(RECORDS_PER_WINDOW).enumerate().map(window, tf.data.AUTOTUNE)

    def _verified_shards(self, split: str) -> list[str]:
        """Returns the paths of a split's shards, each checked once in a process."""
        shards = self.description["splits"][split]["shards"]
        paths = [self.directory / shard["file"] for shard in shards]
        if split not in self._verified:
            records.check_files(paths, [shard["sha256"] for shard in shards])
            self._verified.add(split)
        return [str(path) for path in paths]

    @_not_rewritten
    def batches(
        self, split: str, requests_per_batch: int, seed: int | None = None
    ) -> tf.data.Dataset:
        """Streams padded batches of whole requests.

        Yields:
            `query` [B, Fq] int32, `ad` [B, C, Fa] int32, `mask` [B, C] bool, and each
            per-ad feature [B, C]. B is about `requests_per_batch`: windows are cut evenly.
        """
        dataset = self._stored_windows(split, seed, self._spec_without_users)
        dataset = dataset.flat_map(lambda window: records.cut_batches(window, requests_per_batch))
        return self._padded(dataset)

    @_not_rewritten
    def batches_of_like_lists(
        self, split: str, rows_per_batch: int, seed: int, negative_keep_rate: float = 1.0
    ) -> tf.data.Dataset:
        """Streams shuffled batches of whole requests whose lists are of about one length.

        Next to nothing is padded: batches of mixed lists are half padding where lists have
        from one to a dozen ads. A batch has about `rows_per_batch` shown ads.

        Args:
            split: `train`, `validation` or `test`.
            rows_per_batch: Shown ads in a batch, about.
            seed: Of the order, and of the choice of rows.
            negative_keep_rate: Share of the unclicked rows that is kept, by chance.

        Yields:
            As `batches`.
        """
        dataset = self._stored_windows(split, seed, self._spec_without_users, negative_keep_rate)
        dataset = dataset.flat_map(lambda window: records.cut_by_length(window, rows_per_batch))
        return self._padded(dataset)

    @_not_rewritten
    def _padded(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Turns batches as they are stored into those of models."""
        dataset = dataset.map(
            lambda stored: records.pad_lists(records.unpack(self.spec, stored)), tf.data.AUTOTUNE
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    @_not_rewritten
    def clicked(self, split: str, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
        """Streams the clicked pairs.

        Yields:
            `query` [B, Fq], `ad` [B, Fa], `ad_row` [B], all int32; where the schema has a
            `user_key`, `user` [B] int64, the fingerprint of the user's key.
        """
        dataset = self._stored_windows(split, seed, self.spec)
        dataset = dataset.map(records.clicked_pairs, tf.data.AUTOTUNE)
        dataset = dataset.flat_map(lambda pairs: records.cut_batches(pairs, batch_size))
        kept = ("ad_row", records.USER) if self.spec.has_user else ("ad_row",)

        def unpack(pairs: Batch) -> Batch:
            return {**records.unpack_ids(self.spec, pairs), **{n: pairs[n] for n in kept}}

        return dataset.map(unpack, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _records(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
