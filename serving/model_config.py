"""The ModelServerConfig of a model server: which models and versions it serves."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

# The parts of a release that a model server serves.
RANKER = "ranker"
SERVED_MODELS = (RANKER, "query_tower")
PLATFORM = "tensorflow"

ModelConfig: TypeAlias = model_server_config_pb2.ModelConfig
ModelServerConfig: TypeAlias = model_server_config_pb2.ModelServerConfig


def build(
    base_paths: Mapping[str, str | os.PathLike[str]],
    versions: Sequence[int] | Literal["all", "latest"] = "latest",
) -> ModelServerConfig:
    """Returns the configuration of some models.

    Args:
        base_paths: Directory with the numbered versions of each model, by the model's name.
        versions: The versions to serve.
    """
    config = ModelServerConfig()
    for name, base_path in base_paths.items():
        model = config.model_config_list.config.add(
            name=name, base_path=os.fspath(base_path), model_platform=PLATFORM
        )
        policy = model.model_version_policy
        if versions == "all":
            policy.all.SetInParent()
        elif versions == "latest":
            policy.latest.num_versions = 1
        else:
            policy.specific.versions.extend(map(int, versions))
    return config


def read(path: str | os.PathLike[str]) -> ModelServerConfig:
    """Reads a configuration in text format.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file does not contain a ModelServerConfig.
    """
    config = ModelServerConfig()
    try:
        text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Invalid protobuf file: '{path}'. Expected a ModelServerConfig in text format, got: "
            f"{error}"
        ) from error
    return config
