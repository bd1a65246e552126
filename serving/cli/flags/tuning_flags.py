"""Flags of index tuning: indexes to try, embeddings to try them on, and targets."""

from absl import flags

from serving import index

_TARGETS = index.IndexConfig()
flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a trained tower.")
flags.DEFINE_string("embeddings", None, "Ad embeddings, .npy [N, D]; replaces --workdir.")
flags.DEFINE_string("queries", None, "Query embeddings, .npy [Q, D].")
flags.DEFINE_integer("num_queries", 1_000, "Maximum number of queries to use.", lower_bound=2)
flags.DEFINE_integer("k", _TARGETS.num_candidates, "Number of ads to find.", lower_bound=1)
flags.DEFINE_float(
    "target_recall", _TARGETS.target_recall, "Minimum recall at k against exact search.", 0, 1
)
flags.DEFINE_float(
    "latency_budget_ms",
    _TARGETS.latency_budget_ms,
    "Maximum p99 over queries, each with its median latency, in milliseconds.",
    lower_bound=0,
)
flags.DEFINE_float(
    "memory_limit_mb", None, "Maximum size of the index, in 10^6 bytes.", lower_bound=0
)
flags.DEFINE_list(
    "kinds",
    None,
    f"Kinds of index to try: {', '.join(index.KINDS_TO_TRY)}; default: all, but HNSW only up to "
    f"{index.MAX_GRAPH_ADS:,} ads.",
)
flags.DEFINE_list(
    "num_lists", None, "Numbers of cells to try; default: depends on the number of ads."
)
flags.DEFINE_bool("use_gpu", False, "Train the cells on a GPU (requires faiss-gpu).")
flags.DEFINE_string("plot", None, "PNG file to write, with recall and distances of each index.")
