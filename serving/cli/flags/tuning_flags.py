"""Flags that say which indexes are tried, on which embeddings, and what is wanted of them."""

from absl import flags

from serving import index

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a trained tower.")
flags.DEFINE_string("embeddings", None, "The ads' embeddings, .npy [N, D], in place of a tower.")
flags.DEFINE_string("queries", None, "Query embeddings, .npy [Q, D].")
flags.DEFINE_integer("num_queries", 1_000, "Queries used, at most.", lower_bound=2)
flags.DEFINE_integer("k", 500, "Ads wanted.", lower_bound=1)
flags.DEFINE_float("target_recall", 0.99, "Recall at k against exact search.", 0, 1)
flags.DEFINE_float("latency_budget_ms", 1.4, "p99 of single queries.", lower_bound=0)
flags.DEFINE_float("memory_limit_mb", None, "10^6 bytes of the index.", lower_bound=0)
flags.DEFINE_list(
    "kinds",
    None,
    f"Of {', '.join(index.KINDS_TO_TRY)}; default: all, HNSW up to {index.MAX_GRAPH_ADS:,} ads.",
)
flags.DEFINE_list("num_lists", None, "Numbers of cells tried; default: by the number of ads.")
flags.DEFINE_bool("use_gpu", False, "Train the cells on a GPU (a faiss-gpu build).")
flags.DEFINE_string("plot", None, "A png of recall and p99.")
