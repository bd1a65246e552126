"""Flags that say how the ads are indexed."""

import json
import pathlib

from absl import flags

from serving import index

flags.DEFINE_enum("index", index.AUTO, [index.AUTO, *index.KINDS], "Kind of the ad index.")
flags.DEFINE_string("index_config", None, "JSON of tune_index.py, in place of --index.")
FLAGS = flags.FLAGS


def config() -> index.IndexConfig:
    """Returns the config that the flags ask for.

    Raises:
        ValueError: The JSON is none of tune_index.py's.
    """
    if not FLAGS.index_config:
        return index.IndexConfig(kind=FLAGS.index)
    path = pathlib.Path(FLAGS.index_config)
    try:
        return index.IndexConfig(**json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--index_config: {path} is not what tune_index.py --output writes ({error!r})."
        ) from error
