"""The ad index of a release: search, encoded ad features and display fields.

    index.faiss         METRIC_INNER_PRODUCT; the label of an ad is its catalog row;
                        partly memory-mapped (see `read_index`). Absent if the manifest names
                        another backend, whose primary key is the catalog row
    ad_features.npy     int32 [N, F], memory-mapped and shared between processes
    sample_queries.npy  float32 [Q, D], optional, to measure recall while serving
    ads.arrow           columns __ad_id__, the raw ad fields (vectors are lists of one size) and
                        __show__, memory-mapped

Shapes: B queries, N ads, D embedding size, C candidates, F ad fields.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import errors, requests
from serving.index import backend, index_build, kinds, search, tuning
from serving.index.filters import eligibility
from serving.index.milvus import milvus_build, milvus_index
from tfrecords import files
from tfrecords.schema import SHOWN

FEATURES_FILE = "ad_features.npy"
# Field names never start with two underscores.
AD_ID = "__ad_id__"
ADS_FILE = "ads.arrow"
QUERIES_FILE = "sample_queries.npy"


@dataclasses.dataclass(frozen=True)
class ListedAd:
    """An ad as it appears in answers.

    Attributes:
        ad_id: Id of the ad.
        fields: Raw fields; NaN and infinity are None.
        show: Values to show.
    """

    ad_id: str
    fields: dict[str, Any]
    show: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BuiltIndex:
    """A built index, with the build parameters for the manifest.

    Attributes:
        searcher: Searches the index.
        build_parameters: Parameters of the build, as recorded in the manifest.
    """

    searcher: backend.IndexBackend
    build_parameters: dict[str, Any]

    def manifest_index(self, recall: float) -> dict[str, Any]:
        """Returns the `index` entry of the manifest.

        Args:
            recall: Recall at 500 against exact search, in [0, 1].
        """
        return {
            "kind": self.searcher.kind,
            "metric": "inner_product",
            "dimension": self.searcher.dimension,
            "num_ads": self.searcher.num_ads,
            "build": self.build_parameters,
            "search": self.searcher.search_parameters(),
            "recall_at_500_against_exact": recall,
            **self.searcher.place(),
        }

    def save(
        self, directory: str | os.PathLike[str], ad_features: np.ndarray, ads: pa.Table
    ) -> None:
        """Writes the index, the ad features and the ads.

        Args:
            directory: Existing directory.
            ad_features: [N, F] int32, in catalog order.
            ads: N rows with `AD_ID` (string, unique), the raw ad fields, and `schema.SHOWN` if
                columns are shown.

        Raises:
            BundleError: The numbers of ads differ, or `AD_ID` is missing or not unique.
        """
        sizes = (self.searcher.num_ads, len(ad_features), ads.num_rows)
        if len(set(sizes)) != 1:
            raise errors.BundleError(
                f"Expected the same number of embeddings, features and ads, got {sizes}."
            )
        if AD_ID not in ads.column_names or pc.count_distinct(ads[AD_ID]).as_py() != sizes[0]:
            raise errors.BundleError(
                f"Expected a column {AD_ID} with {sizes[0]} distinct values, got the columns "
                f"{ads.column_names}."
            )
        path = pathlib.Path(directory)
        self.searcher.save(path)
        files.write_array(path / FEATURES_FILE, ad_features.astype(np.int32, copy=False))
        # With a single chunk, rows are looked up without a search through chunks.
        table = ads.combine_chunks()
        with (
            pa.OSFile(os.fspath(path / ADS_FILE), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)


def build_index(
    embeddings: np.ndarray,
    config: kinds.IndexConfig | None = None,
    *,
    tuning_queries: np.ndarray | None = None,
    ads: pa.Table | None = None,
) -> BuiltIndex:
    """Builds an index, in memory or in Milvus.

    Args:
        embeddings: [N, D] float32, in catalog order; memory-mapped, they are read in pieces.
        config: Kind and parameters. None uses the defaults.
        tuning_queries: [Q, D] float32, representative query embeddings, by which the search is
            tuned until it reaches `config.target_recall`.
        ads: N ads with `AD_ID` and the raw fields, which Milvus filters by.

    Raises:
        BundleError: There are no ads, an embedding is not finite, or queries have another length.
        IndexUnavailableError: Milvus does not answer.
        ValueError: The index of a factory string cannot be served.
    """
    config = config or kinds.IndexConfig()
    if embeddings.ndim != 2 or not embeddings.size:
        raise errors.BundleError(
            f"Expected ad embeddings of shape [N, D] with N ≥ 1, got {list(embeddings.shape)}."
        )
    if tuning_queries is not None and np.shape(tuning_queries)[1:] != embeddings.shape[1:]:
        raise errors.BundleError(
            f"Expected tuning queries of shape [Q, {embeddings.shape[1]}], got "
            f"{list(np.shape(tuning_queries))}."
        )
    searcher: search.Searcher | milvus_index.MilvusIndex
    if config.backend == kinds.MILVUS:
        filterable = pa.table({})
        if ads is not None:
            filterable = ads.select(list(eligibility.Eligibility(ads, AD_ID).kinds))
        searcher, parameters = milvus_build.build(embeddings, filterable, config)
    else:
        index, kind, parameters = index_build.build(embeddings, config, tuning_queries)
        searcher = search.Searcher(index, kind=kind)
    if tuning_queries is not None and len(tuning_queries) and not searcher.is_exact:
        tuning.tune(searcher, embeddings, tuning_queries, config)
    return BuiltIndex(searcher, parameters)


def drop_index(entry: Mapping[str, Any]) -> None:
    """Removes the parts of a release's index that are outside the bundle.

    Args:
        entry: `index` of the manifest.

    Raises:
        IndexUnavailableError: Milvus does not answer, so nothing was removed.
    """
    if backend.name_of(entry) == kinds.MILVUS:
        milvus_build.drop(entry)


def _indices(rows: np.ndarray) -> pa.Array:
    """Returns rows [C] as indices for `take`.

    `pa.array` would import pandas, which would delay the first request of a process.
    """
    indices = np.ascontiguousarray(rows, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(indices), [None, pa.py_buffer(indices)])


class AdIndex:
    """The index of a release with the encoded features and raw fields of the ads.

    Args:
        searcher: Index of N ads.
        ad_features: [N, F] int32.
        ads: N rows with `AD_ID`, the raw fields and the columns to show.
        sample_queries: [Q, D] float32, or None.

    Attributes:
        searcher: The index.
        sample_queries: Sample query embeddings [Q, D] float32 saved at export, or None.
    """

    def __init__(
        self,
        searcher: backend.IndexBackend,
        ad_features: np.ndarray,
        ads: pa.Table,
        sample_queries: np.ndarray | None = None,
    ) -> None:
        self.searcher = searcher
        self._features = ad_features
        self._ads = ads
        self._shown = without_vectors(ads)
        self.sample_queries = sample_queries
        self._eligibility = eligibility.Eligibility(ads, AD_ID)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        entry: Mapping[str, Any] | None = None,
        *,
        num_threads: int = 1,
    ) -> Self:
        """Opens a saved index; features and ads are memory-mapped.

        Args:
            directory: `ad_index/N` of a bundle.
            entry: `index` of the manifest, which names the backend. None: FAISS.
            num_threads: Threads of a search in process.

        Raises:
            BundleError: A file cannot be read, the metric is not the inner product, or the files
                and the index have different numbers of ads.
            IndexUnavailableError: Milvus does not answer.
        """
        path = pathlib.Path(directory)
        remote = entry if entry and backend.name_of(entry) == kinds.MILVUS else None
        kind = entry["kind"] if entry else None
        try:
            index = None if remote else search.read_index(path / search.INDEX_FILE)
            features = np.load(path / FEATURES_FILE, mmap_mode="r")
            ads = pa.ipc.open_file(pa.memory_map(os.fspath(path / ADS_FILE))).read_all()
            sampled = path / QUERIES_FILE
            sample_queries = np.load(sampled, mmap_mode="r") if sampled.is_file() else None
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise errors.BundleError(
                f"{path} cannot be opened: {error}. Export the bundle again."
            ) from error
        if index is not None and index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise errors.BundleError(
                f"{path / search.INDEX_FILE}: expected an inner-product index, got faiss metric "
                f"{index.metric_type}. Export the bundle again."
            )
        searcher: backend.IndexBackend = (
            milvus_index.MilvusIndex(remote)
            if remote
            else search.Searcher(index, num_threads, kind)
        )
        sizes = (searcher.num_ads, len(features), ads.num_rows)
        if len(set(sizes)) != 1 or features.dtype != np.int32 or features.ndim != 2:
            raise errors.BundleError(
                f"{path}: expected the same number of ads in the index, {FEATURES_FILE} "
                f"(int32 [N, F]) and {ADS_FILE}, got {sizes}, {features.dtype} "
                f"{list(features.shape)}. Export the bundle again."
            )
        return cls(searcher, features, ads, sample_queries)

    @property
    def num_ads(self) -> int:
        """Number of ads N."""
        return len(self._features)

    @property
    def dimension(self) -> int:
        """Embedding size D."""
        return self.searcher.dimension

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: Any = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products.

        The arguments, results and errors are those of `IndexBackend.search`.
        """
        return self.searcher.search(query_embeddings, k, eligible, timeout_seconds)

    @property
    def num_fields(self) -> int:
        """Number of columns F of the ad features."""
        return self._features.shape[1]

    def eligible(self, filters: requests.Filters) -> backend.EligibleAds:
        """Returns the ads that match filters returned by `FilterFields.check`."""
        return self.searcher.eligible(filters, self._eligibility)

    def prepare_filters(self) -> None:
        """Builds the structures that filters look up.

        Takes about 0.1 s per field for a million ads.
        """
        self.searcher.prepare_filters(self._eligibility)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Returns the encoded ad features of catalog rows [B, C]: int32 [B, C, F]."""
        return np.asarray(self._features[rows])

    def ad_ids(self, rows: np.ndarray) -> list[str]:
        """Returns the ad ids of catalog rows [C]."""
        return self._ads[AD_ID].take(_indices(rows)).to_pylist()

    def ads(self, rows: np.ndarray) -> pa.Table:
        """Returns the ad ids and raw fields of catalog rows [C], with their vectors."""
        return self._ads.take(_indices(rows))

    def listed(self, rows: np.ndarray) -> list[ListedAd]:
        """Returns the ads at catalog rows [C].

        One `take` for all rows is four times as fast as one for each.
        """
        return listed_ads(self._shown.take(_indices(rows)))

    def column(self, rows: np.ndarray, field: str) -> pa.Array:
        """Returns the raw values of a field of catalog rows [C]."""
        return self._ads[field].take(_indices(rows)).combine_chunks()

    def find(self, ad_ids: Sequence[str]) -> np.ndarray:
        """Returns the catalog rows [M] int64 of ad ids; -1 for unknown ids."""
        return self._eligibility.find(ad_ids)

    @property
    def table_schema(self) -> pa.Schema:
        """Schema of the table of ad ids and raw fields."""
        return self._ads.schema


def without_vectors(ads: pa.Table) -> pa.Table:
    """Returns a table of ads without its vectors, which answers do not show."""
    vectors = [f.name for f in ads.schema if pa.types.is_fixed_size_list(f.type)]
    return ads.drop_columns(vectors)


def listed_ads(ads: pa.Table) -> list[ListedAd]:
    """Returns the ads of a table in the form of answers."""
    return [
        ListedAd(
            fields.pop(AD_ID),
            show=json.loads(fields.pop(SHOWN, "{}")),
            fields={
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in fields.items()
            },
        )
        for fields in without_vectors(ads).to_pylist()
    ]
