"""Reads converted data sets: description, ad catalog and `tf.data` batches.

Shapes: B requests, C the longest list of the batch, Fq and Fa query- and ad-side fields.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrecords import encoding, records
from tfrecords.schema import SHOWN
from tfrecords.splits import SPLITS

# Names that no field can have.
AD_ID = "__ad_id__"
"""Column of the catalog: ad ids, strings."""
RELEASED = "__released__."
"""Before the name of a rate: the column of the catalog with its values in a release."""
IMPRESSIONS = "__impressions__"
"""Column of the catalog: number of training rows of each ad."""
CLICKS = "__clicks__"
"""Column of the catalog: number of clicked training rows of each ad."""
FORMAT_VERSION = 6
"""Format of data sets that this version reads and writes."""
RECORDS_PER_WINDOW = 32
# In log order, windows of wide rows have fewer records: no order depends on their size.
_VALUES_PER_WINDOW = 1 << 24
_SHARDS_AT_ONCE = 32
_SHUFFLED_RECORDS = 128
_READ_BUFFER_BYTES = 1 << 18
Batch = records.Batch
# A number, or a scalar tensor in a function of a dataset.
Seed: TypeAlias = int | tf.Tensor
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _not_rewritten(function: _Function) -> _Function:
    """Builds a pipeline without AutoGraph.

    No step has Python control flow that depends on tensors, and AutoGraph takes most of the time of
    building a pipeline.
    """
    return tf.autograph.experimental.do_not_convert(function)


def _built_once(function: _Function) -> _Function:
    """Caches the pipelines in log order, which are the same each time.

    Building one takes longer than reading a small split.
    """

    signature = inspect.signature(function)

    @functools.wraps(function)
    def built(self: "DataSet", *args: Any, **options: Any) -> tf.data.Dataset:
        arguments = signature.bind(self, *args, **options).arguments
        if arguments.pop("seed", None) is not None or not tf.executing_eagerly():
            return function(self, *args, **options)
        del arguments["self"]
        key = (function.__name__, *arguments.items())
        self._check_not_replaced()
        if key not in self._pipelines:
            self._pipelines[key] = function(self, *args, **options)
        return self._pipelines[key]

    return built  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Catalog:
    """All ads that can be recommended; row i of each attribute is ad i.

    Attributes:
        table: Raw ad-side fields, `AD_ID`, `IMPRESSIONS` and `CLICKS`, and `schema.SHOWN` if the
            schema shows columns. A rate has two columns, see `RELEASED`.
        features: [N, Fa] int32 encoded ad-side fields.
    """

    table: pa.Table
    features: np.ndarray

    @property
    def ad_ids(self) -> pa.ChunkedArray:
        """Ids [N], strings."""
        return self.table[AD_ID]

    @property
    def fields(self) -> pa.Table:
        """Raw ad-side fields."""
        hidden = (AD_ID, IMPRESSIONS, CLICKS, SHOWN)
        names = [name for name in self.table.column_names if name not in hidden]
        return self.table.select([name for name in names if not name.startswith(RELEASED)])

    @property
    def released_fields(self) -> pa.Table:
        """Raw ad-side fields with the rates of a release."""
        names, known = self.fields.column_names, set(self.table.column_names)
        released = [RELEASED + name if RELEASED + name in known else name for name in names]
        return self.table.select(released).rename_columns(names)

    def shown(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Returns the values to show of rows [n], by column; nothing if the schema shows none."""
        if SHOWN not in self.table.column_names:
            return [{} for _ in rows]
        return [json.loads(text) for text in self.table[SHOWN].take(pa.array(rows)).to_pylist()]

    @property
    def clicks(self) -> np.ndarray:
        """Number of clicked training rows of each ad [N]."""
        return self.table[CLICKS].to_numpy()

    @property
    def impressions(self) -> np.ndarray:
        """Number of training rows of each ad [N]."""
        return self.table[IMPRESSIONS].to_numpy()

    def __len__(self) -> int:
        return len(self.features)


class DataSet:
    """A converted data set.

    Args:
        directory: Output of `convert`.

    Attributes:
        description: Content of `dataset.json`.
        fitted: The fitted schema.
        spec: Columns and types of the records.

    Raises:
        FileNotFoundError: The directory does not contain a finished data set.
        ValueError: `dataset.json` has another format, or the encoder does not match the records.
            Methods that read also raise it if the data set was replaced since then.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)
        path = self.directory / "dataset.json"
        self._opened = _state_of(path)
        if self._opened is None:
            raise FileNotFoundError(f"No data set at {path}; run tfrec convert first.")
        found = records.read_json(path)
        if found.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format_version {found.get('format_version')!r}; expected "
                f"{FORMAT_VERSION}. Convert the log again."
            )
        try:
            self.description = records.DataSetDescription.model_validate(found)
        except ValueError as error:
            raise ValueError(f"{path}: {error}\nConvert the log again.") from error
        self.fingerprint = self.description.fingerprint
        self.fitted = self._encoder()
        self.schema = self.fitted.schema
        self._verified: set[str] = set()
        self._pipelines: dict[tuple[Any, ...], tf.data.Dataset] = {}
        self.spec = self.description.spec

    def __repr__(self) -> str:
        train, validation, test = (f"{self.num_rows(name):,} {name}" for name in SPLITS)
        rows = f"{train}, {validation} and {test} rows, {self.description.num_ads:,} ads"
        return f"DataSet({str(self.directory)!r}: {rows})"

    @property
    def checksum(self) -> str:
        """Checksum of the content, regardless of paths and log files."""
        return _digest(self.description.model_dump(mode="json", exclude={"source"}))

    @property
    def training_checksum(self) -> str:
        """Checksum of the content that models learn from."""
        exclude = {"source", "log_schema"}
        description = self.description.model_dump(mode="json", exclude=exclude)
        for file in ("encoder/encoder.json", "catalog/ads.arrow"):
            del description["sha256"][file]
        return _digest(description)

    def _encoder(self) -> encoding.FittedSchema:
        try:
            fitted = encoding.load(self.directory / "encoder")
        except (ValueError, LookupError, TypeError, OSError):
            self._check("encoder/")  # Its error names the damaged file.
            raise
        if fitted.fingerprint() != self.fingerprint:
            raise ValueError(
                f"{self.directory}: encoder/ has fingerprint {fitted.fingerprint()}; expected "
                f"{self.fingerprint}, the fingerprint of the records. Convert the log again."
            )
        return fitted

    def catalog(self) -> Catalog:
        """Reads the ad catalog, once; features are memory-mapped.

        Raises:
            FileNotFoundError, ValueError: A file is missing or damaged.
        """
        return self._catalog

    @functools.cached_property
    def _catalog(self) -> Catalog:
        directory = self.directory / "catalog"
        self._check("catalog/")
        table = records.read_arrow(directory / "ads.arrow")
        return Catalog(table, np.load(directory / "ad_features.npy", mmap_mode="r"))

    def sample_requests(self) -> list[dict[str, Any]]:
        """Reads the raw query fields of some held-out requests; None is missing.

        Raises:
            FileNotFoundError, ValueError: The file is missing or damaged.
        """
        self._check("sample_requests.json")
        return records.read_json(self.directory / "sample_requests.json")

    def profile(self) -> records.Profile:
        """Reads the numbers of distinct values, and rows and labels over time."""
        self._check("profile.json")
        return records.Profile(**records.read_json(self.directory / "profile.json"))

    def _check_not_replaced(self) -> None:
        """Checks that the directory still has the content that was opened.

        Raises:
            FileNotFoundError, ValueError: The data set was removed or replaced.
        """
        state = _state_of(self.directory / "dataset.json")
        if state == self._opened:
            return
        now, opened = DataSet(self.directory).description, self.description
        if (now.splits, now.sha256) != (opened.splits, opened.sha256):
            raise ValueError(
                f"{self.directory} was converted again since it was opened. Open it again, with "
                f"reader.DataSet({str(self.directory)!r}), and train again; or convert into "
                "another directory."
            )
        self._opened = state

    def _check(self, prefix: str) -> None:
        """Verifies the files whose names begin with `prefix`."""
        self._check_not_replaced()
        for name, checksum in self.description.sha256.items():
            if name.startswith(prefix):
                records.check_file(self.directory / name, checksum)

    def verify(self) -> None:
        """Verifies all files; shards are not verified again when they are read.

        Raises:
            FileNotFoundError, ValueError: A file is missing or damaged.
        """
        self._check("")
        for split in self.description.splits:
            self._verified_shards(split)

    def _split(self, name: str) -> records.SplitDescription:
        """Returns the description of a split.

        Raises:
            ValueError: There is no such split.
        """
        if name not in self.description.splits:
            raise ValueError(
                f"split: expected one of {list(self.description.splits)}, got {name!r}."
            )
        return self.description.splits[name]

    @property
    def has_sampled_negatives(self) -> bool:
        """Whether some of the rows are sampled negatives, which were not shown."""
        return any(split.sampled for split in self.description.splits.values())

    @property
    def negatives_are_new_to_users(self) -> bool:
        """Whether some rows are sampled negatives, none of which is an ad that its user clicked."""
        return self.has_sampled_negatives and not self.description.users_return

    def num_rows(self, split: str) -> int:
        """Returns the number of shown ads L of a split."""
        return self._split(split).rows

    def num_requests(self, split: str) -> int:
        """Returns the number of requests R of a split."""
        return self._split(split).requests

    def label_count(self, split: str, label: str) -> int:
        """Returns the number of rows of a split whose label is known; 0 for an absent label."""
        return self._split(split).label_counts.get(label, 0)

    def label_sum(self, split: str, label: str) -> float:
        """Returns the sum of a split's labels, such as its number of clicks."""
        return self._split(split).label_sums.get(label, 0.0)

    def label_positives(self, split: str, label: str) -> int:
        """Returns the number of rows of a split whose label is above 0."""
        return self._split(split).label_positives.get(label, 0)

    def column(self, split: str, name: str) -> np.ndarray:
        """Reads a stored feature of a split in the stored order.

        Requests of `validation` and `test` are in log order. Requests of `train` are shuffled
        within the chunk of the log in which they begin; the chunks are in log order.

        Args:
            split: `train`, `validation` or `test`.
            name: One of `records.Spec.per_request` [R] or `per_ad` [L].

        Raises:
            FileNotFoundError, ValueError: Same as `windows`.
        """
        dtype = {**self.spec.per_request(), **self.spec.per_ad()}[name]
        windows = self._stored_windows(split, None, self.spec)
        parts = [np.empty(0, dtype), *(stored[name].numpy() for stored in windows)]
        return np.concatenate(parts)

    @_built_once
    @_not_rewritten
    def windows(self, split: str, seed: Seed | None = None) -> tf.data.Dataset:
        """Streams a split as windows of many records.

        Args:
            split: `train`, `validation` or `test`.
            seed: Determines the order of shards, records, and requests of a window; a dataset
                that is iterated again has another order of records. None keeps the stored order,
                see `column`.

        Yields:
            The features of `records.unpack`.

        Raises:
            FileNotFoundError: A shard is missing.
            ValueError: A shard is damaged.
        """
        windows = self._stored_windows(split, seed, self._spec_of_models)
        vectors = self._ad_vectors
        return windows.map(
            lambda stored: records.unpack(self.spec, stored, vectors), tf.data.AUTOTUNE
        )

    @functools.cached_property
    def _ad_vectors(self) -> tf.Tensor | None:
        """Columns of vectors [N, Va] int32 of the catalog's ads; None without vectors."""
        if not self.spec.num_ad_vector_columns:
            return None
        return tf.constant(self.catalog().features[:, -self.spec.num_ad_vector_columns :])

    @property
    def _spec_of_models(self) -> records.Spec:
        return dataclasses.replace(self.spec, has_user=False, has_order=False)

    @_built_once
    @_not_rewritten
    def _stored_windows(
        self, split: str, seed: Seed | None, spec: records.Spec, negative_keep_rate: float = 1.0
    ) -> tf.data.Dataset:
        """Streams windows in the stored types, which are smaller than the types of models."""
        paths = self._verified_shards(split)
        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string))
        dataset = without_tuning(dataset)
        if seed is not None:
            dataset = dataset.shuffle(max(len(paths), 1), seed=seed)
            # Neighbors in the log are in one shard; a window has few records of each shard, because
            # many shards are read in turn.
            dataset = dataset.interleave(_records, cycle_length=_SHARDS_AT_ONCE)
            dataset = dataset.shuffle(_SHUFFLED_RECORDS, seed=seed)
        else:
            dataset = dataset.flat_map(_records)

        def window(index: tf.Tensor, serialized: tf.Tensor) -> Batch:
            stored = records.decode(spec, serialized)
            if negative_keep_rate < 1.0:
                stored = records.thin_unclicked(
                    stored, negative_keep_rate, _window_seed(0 if seed is None else seed, index)
                )
            return stored if seed is None else records.permute(stored, _window_seed(seed, index))

        size = RECORDS_PER_WINDOW
        if seed is None:
            width = len(spec.query_widths) + len(spec.ad_widths) + spec.num_ad_vector_columns
            size = min(size, max(1, _VALUES_PER_WINDOW // (records.ROWS_PER_RECORD * width)))
        # A window is parsed at once: raw columns are joined before they are decoded.
        return dataset.batch(size).enumerate().map(window, tf.data.AUTOTUNE)

    def _verified_shards(self, split: str) -> list[str]:
        """Returns the paths of a split's shards, which are verified once per process."""
        self._check_not_replaced()
        shards = self._split(split).shards
        paths = [self.directory / shard.file for shard in shards]
        if split not in self._verified:
            records.check_files(paths, [shard.sha256 for shard in shards])
            self._verified.add(split)
        return [str(path) for path in paths]

    @_built_once
    @_not_rewritten
    def batches(
        self, split: str, requests_per_batch: int, seed: Seed | None = None
    ) -> tf.data.Dataset:
        """Streams padded batches of whole requests.

        Args:
            split: `train`, `validation` or `test`.
            requests_per_batch: Approximate number of requests B; windows are cut evenly.
            seed: Determines the order, as in `windows`; None keeps the stored order.

        Yields:
            `query` [B, Fq] int32, `ad` [B, C, Fa] int32, `mask` [B, C] bool, and each
            per-ad feature [B, C].
        """
        dataset = self._stored_windows(split, seed, self._spec_of_models)
        dataset = dataset.flat_map(lambda window: records.cut_batches(window, requests_per_batch))
        return self._padded(dataset)

    @_not_rewritten
    def batches_of_like_lists(
        self, split: str, rows_per_batch: int, seed: Seed, negative_keep_rate: float = 1.0
    ) -> tf.data.Dataset:
        """Streams shuffled batches of whole requests with lists of similar length.

        They need little padding: if lists have one to twelve ads, half of a batch of mixed lists
        is padding.

        Args:
            split: `train`, `validation` or `test`.
            rows_per_batch: Approximate number of shown ads in a batch.
            seed: Seed of the order and of the choice of rows.
            negative_keep_rate: Share of the unclicked rows to keep, at random.

        Yields:
            Same as `batches`.
        """
        dataset = self._stored_windows(split, seed, self._spec_of_models, negative_keep_rate)
        dataset = dataset.enumerate().flat_map(
            lambda index, window: records.cut_by_length(
                window, rows_per_batch, _window_seed(seed, index)
            )
        )
        return self._padded(dataset)

    @_not_rewritten
    def _padded(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Converts stored batches to the types of models."""
        vectors = self._ad_vectors
        dataset = dataset.map(
            lambda stored: records.pad_lists(records.unpack(self.spec, stored, vectors)),
            tf.data.AUTOTUNE,
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    @_built_once
    @_not_rewritten
    def clicked(self, split: str, batch_size: int, seed: Seed | None = None) -> tf.data.Dataset:
        """Streams pairs of a request and a clicked ad.

        Args:
            split: `train`, `validation` or `test`.
            batch_size: Approximate number of pairs B.
            seed: Determines the order, as in `windows`; None keeps the stored order.

        Yields:
            `query` [B, Fq], `ad` [B, Fa], `ad_row` [B] and `request` [B], all int32; pairs of a
            batch with equal `request` belong to one request. Also `order` [B] int64, which ascends
            with the time of the request, and, if the schema has a `user_key`, `user` [B] int64, the
            fingerprint of the user's key.
        """
        dataset = self._stored_windows(split, seed, self.spec)
        dataset = dataset.map(records.clicked_pairs, tf.data.AUTOTUNE)
        dataset = dataset.flat_map(lambda pairs: records.cut_batches(pairs, batch_size))
        kept = ["ad_row", "request", records.ORDER]
        if self.spec.has_user:
            kept.append(records.USER)

        vectors = self._ad_vectors

        def unpack(pairs: Batch) -> Batch:
            sides = records.unpack_sides(self.spec, pairs, vectors)
            return {**sides, **{n: pairs[n] for n in kept}}

        return dataset.map(unpack, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset that TensorFlow does not tune, nor any dataset made from it.

    The thread that tunes sleeps for up to a minute at a time. If it misses the signal that the
    iterator is deleted, as in half of all cases on two cores (TensorFlow 2.21), the deletion waits
    until it wakes: 10 seconds after a training of 40.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _state_of(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns the identity of a file, which changes when it is replaced; None: there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _window_seed(seed: Seed, index: tf.Tensor) -> tf.Tensor:
    """Returns the seed [2] int64 of a window, from the data's seed and the window's number."""
    return tf.stack([tf.cast(seed, tf.int64), index])


def _records(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
