"""The ad index: FAISS search with filters, built and tuned for a catalog."""

from serving.index.ad_index import (
    AD_ID,
    ADS_FILE,
    QUERIES_FILE,
    AdIndex,
    BuiltIndex,
    ListedAd,
    build_index,
    drop_index,
    listed_ads,
)
from serving.index.backend import EligibleAds, IndexBackend
from serving.index.exact_search import exact_rows
from serving.index.filters.eligibility import Eligibility
from serving.index.filters.row_set import RowSet
from serving.index.index_build import (
    add_vectors,
    check_kind,
    sample_vectors,
    train_index,
    training_sample_size,
)
from serving.index.kinds import AUTO, BACKENDS, KINDS, MILVUS_KINDS, IndexConfig
from serving.index.search import Searcher, read_index
from serving.index.tuning import recall_against_exact, recall_of_rows, settings

__all__ = [
    "ADS_FILE",
    "AD_ID",
    "AUTO",
    "BACKENDS",
    "KINDS",
    "MILVUS_KINDS",
    "QUERIES_FILE",
    "AdIndex",
    "BuiltIndex",
    "Eligibility",
    "EligibleAds",
    "IndexBackend",
    "IndexConfig",
    "ListedAd",
    "RowSet",
    "Searcher",
    "add_vectors",
    "build_index",
    "check_kind",
    "drop_index",
    "exact_rows",
    "listed_ads",
    "read_index",
    "recall_against_exact",
    "recall_of_rows",
    "sample_vectors",
    "settings",
    "train_index",
    "training_sample_size",
]
