"""Flags of index tuning: the indexes to try, the embeddings to try them on, and the targets."""

from absl import flags

from serving import index

_TARGETS = index.IndexConfig()
flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a trained tower.")
flags.DEFINE_string("embeddings", None, "The ads' embeddings, .npy [N, D], in place of a tower.")
flags.DEFINE_string("queries", None, "Query embeddings, .npy [Q, D].")
flags.DEFINE_integer("num_queries", 1_000, "Maximum number of queries used.", lower_bound=2)
flags.DEFINE_integer("k", _TARGETS.num_candidates, "Ads wanted.", lower_bound=1)
flags.DEFINE_float(
    "target_recall", _TARGETS.target_recall, "Recall at k against exact search.", 0, 1
)
flags.DEFINE_float(
    "latency_budget_ms",
    _TARGETS.latency_budget_ms,
    "p99 of single queries, in milliseconds.",
    lower_bound=0,
)
flags.DEFINE_float("memory_limit_mb", None, "Size of the index, in 10^6 bytes.", lower_bound=0)
flags.DEFINE_list(
    "kinds",
    None,
    f"Kinds to try: {', '.join(index.KINDS_TO_TRY)}; default: all, HNSW up to "
    f"{index.MAX_GRAPH_ADS:,} ads.",
)
flags.DEFINE_list("num_lists", None, "Numbers of cells tried; default: by the number of ads.")
flags.DEFINE_bool("use_gpu", False, "Train the cells on a GPU (a faiss-gpu build).")
flags.DEFINE_string("plot", None, "PNG file to write with recall and p99.")
