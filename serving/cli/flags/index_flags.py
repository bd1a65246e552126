"""Flags that say how the ads are indexed."""

import json
import pathlib

from absl import flags

from serving import index

flags.DEFINE_enum("index", index.AUTO, [index.AUTO, *index.KINDS], "Kind of the ad index.")
flags.DEFINE_string("index_config", None, "File of tfrec tune_index --output, in place of --index.")
FLAGS = flags.FLAGS


def config() -> index.IndexConfig:
    """Returns the config that the flags ask for.

    Raises:
        ValueError: The file was not written by `tfrec tune_index`.
    """
    if not FLAGS.index_config:
        return index.IndexConfig(kind=FLAGS.index)
    path = pathlib.Path(FLAGS.index_config)
    try:
        return index.IndexConfig(**json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--index_config: {path} is not what tfrec tune_index --output writes ({error!r})."
        ) from error
