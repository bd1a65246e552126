"""Flags that say how the ads are indexed."""

import json
import pathlib

from absl import flags

from serving import ad_index, index_kinds

flags.DEFINE_enum(
    "index", index_kinds.AUTO, [index_kinds.AUTO, *index_kinds.KINDS], "Kind of the ad index."
)
flags.DEFINE_string("index_config", None, "JSON of tune_index.py, in place of --index.")
FLAGS = flags.FLAGS


def config() -> ad_index.IndexConfig:
    """Returns the config that the flags ask for.

    Raises:
        ValueError: The JSON is none of tune_index.py's.
    """
    if not FLAGS.index_config:
        return ad_index.IndexConfig(kind=FLAGS.index)
    path = pathlib.Path(FLAGS.index_config)
    try:
        return ad_index.IndexConfig(**json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--index_config: {path} is not what tune_index.py --output writes ({error!r})."
        ) from error
