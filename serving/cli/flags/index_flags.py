"""Flags that select the ad index."""

import json
import pathlib

from absl import flags

from serving import index

flags.DEFINE_string(
    "index",
    index.AUTO,
    f"Kind of ad index: {', '.join(index.INDEX_KINDS.names)}, or MODULE:CLASS for your own.",
)
flags.DEFINE_string(
    "index_config", None, "File written by tfrec tune_index --output; replaces --index."
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
    """Returns the index config of the flags.

    Raises:
        ValueError: The file was not written by `tfrec tune_index`.
    """
    if not FLAGS.index_config:
        return index.IndexConfig(
            kind=FLAGS.index, backend=FLAGS.index_backend, milvus_uri=FLAGS.milvus_uri
        )
    if FLAGS.index_backend != "faiss":
        raise ValueError("--index_config is for FAISS only; leave out --index_backend=milvus.")
    path = pathlib.Path(FLAGS.index_config)
    try:
        return index.IndexConfig(**json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--index_config: {path} cannot be read ({error!r}); expected a file written by "
            "tfrec tune_index --output."
        ) from error
