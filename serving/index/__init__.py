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
    file_of_one_process,
    listed_ads,
)
from serving.index.backend import EligibleAds, IndexBackend
from serving.index.exact_search import exact_rows
from serving.index.filters.eligibility import Eligibility
from serving.index.filters.row_set import RowSet
from serving.index.index_build import (
    add_vectors,
    sample_vectors,
    train_index,
    training_sample_size,
    try_kind,
)
from serving.index.kinds import (
    AUTO,
    BACKENDS,
    INDEX_KINDS,
    MILVUS_KINDS,
    IndexConfig,
    IndexKind,
)
from serving.index.milvus.milvus_build import drop_unfinished
from serving.index.search import Searcher, read_index
from serving.index.tuning.index_choice import (
    KINDS_TO_TRY,
    MAX_GRAPH_ADS,
    Choice,
    pareto_front,
    structures_to_try,
    tune_index,
)
from serving.index.tuning.index_recall import recall_against_exact, recall_of_rows, time_alone
from serving.index.tuning.index_trials import Structure, Trial

__all__ = [
    "ADS_FILE",
    "AD_ID",
    "AUTO",
    "BACKENDS",
    "INDEX_KINDS",
    "KINDS_TO_TRY",
    "MAX_GRAPH_ADS",
    "MILVUS_KINDS",
    "QUERIES_FILE",
    "AdIndex",
    "BuiltIndex",
    "Choice",
    "Eligibility",
    "EligibleAds",
    "IndexBackend",
    "IndexConfig",
    "IndexKind",
    "ListedAd",
    "RowSet",
    "Searcher",
    "Structure",
    "Trial",
    "add_vectors",
    "build_index",
    "drop_index",
    "drop_unfinished",
    "exact_rows",
    "file_of_one_process",
    "listed_ads",
    "pareto_front",
    "read_index",
    "recall_against_exact",
    "recall_of_rows",
    "sample_vectors",
    "structures_to_try",
    "time_alone",
    "train_index",
    "training_sample_size",
    "try_kind",
    "tune_index",
]
