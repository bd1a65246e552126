"""Flags that select the ad index."""

from absl import flags

from serving import index

flags.DEFINE_string(
    "index",
    index.AUTO,
    f"Kind of ad index: {', '.join((index.AUTO, *index.KINDS))}, or a FAISS factory string such as "
    "IVF4096,SQ8.",
)
flags.DEFINE_enum(
    "index_backend",
    "faiss",
    index.BACKENDS,
    "Location of the ads' vectors: faiss (in the serving process) or milvus. Kinds in Milvus: "
    f"{', '.join(index.MILVUS_KINDS)}.",
)
flags.DEFINE_string(
    "milvus_uri",
    None,
    "Address of the server with --index_backend=milvus, such as http://HOST:19530, or the path of "
    "a milvus-lite file, for one process.",
)
FLAGS = flags.FLAGS


def config() -> index.IndexConfig:
    """Returns the index config of the flags."""
    return index.IndexConfig(
        kind=FLAGS.index, backend=FLAGS.index_backend, milvus_uri=FLAGS.milvus_uri
    )
