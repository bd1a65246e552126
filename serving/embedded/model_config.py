"""Which models to serve and which of their versions, in TensorFlow Serving's own configuration.

References: TensorFlow Serving, `config/model_server_config.proto`, `model_servers/server_core.cc`
    and `sources/storage_path/file_system_storage_path_source.cc`.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import TypeAlias

from tensorflow_serving.config import model_server_config_pb2

from serving.embedded import config_messages, rpc_status

_PLATFORM = "tensorflow"
_MAX_VERSION = 2**63 - 1

ModelConfig: TypeAlias = model_server_config_pb2.ModelConfig
ModelServerConfig: TypeAlias = model_server_config_pb2.ModelServerConfig


def from_base_paths(base_paths: Mapping[str, str | os.PathLike[str]]) -> ModelServerConfig:
    """Returns the configuration that serves the latest version of each model.

    Args:
        base_paths: for each model's name, the directory that holds its numbered versions.
    """
    config = ModelServerConfig()
    for name, base_path in base_paths.items():
        config.model_config_list.config.add(
            name=name, base_path=os.fspath(base_path), model_platform=_PLATFORM
        )
    return config


def read(path: str | os.PathLike[str]) -> ModelServerConfig:
    """Reads a text-format `ModelServerConfig`.

    Raises:
        StatusError: if the file is missing or is not such a message.
    """
    return config_messages.read_text(path, ModelServerConfig())


def validate(config: ModelServerConfig) -> None:
    """Checks names, base paths and platforms.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first model that is wrong.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise rpc_status.invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise rpc_status.invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        _validate_model(model)


def _validate_model(model: ModelConfig) -> None:
    if not os.path.isabs(model.base_path):
        raise rpc_status.invalid_argument(
            f"Expected model {model.name} to have an absolute path or URI; "
            f"got base_path()={model.base_path}"
        )
    deprecated = model.model_type == model_server_config_pb2.TENSORFLOW
    if deprecated and model.model_platform:
        raise rpc_status.invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not deprecated and not model.model_platform:
        raise rpc_status.invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not deprecated and model.model_platform != _PLATFORM:
        raise rpc_status.invalid_argument(
            f"Model {model.name} requests unsupported platform {model.model_platform}"
        )


def aspired_versions(model: ModelConfig) -> dict[int, pathlib.Path]:
    """Returns the versions on disk that the model's policy asks for.

    Only directories with a numeric name count, so a version is published by renaming it from a
    name that is not numeric.

    Raises:
        StatusError: INVALID_ARGUMENT if the base path cannot be listed.
    """
    found = {}
    try:
        with os.scandir(model.base_path) as entries:
            for entry in entries:
                numeric = entry.name.isascii() and entry.name.isdigit()
                if numeric and int(entry.name) <= _MAX_VERSION and entry.is_dir():
                    found[int(entry.name)] = pathlib.Path(entry.path)
    except OSError as error:
        raise rpc_status.invalid_argument(
            f"Could not find base path {model.base_path} for servable {model.name} "
            f"with error {error}"
        ) from error
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return found
    if kind == "specific":
        return {version: found[version] for version in policy.specific.versions if version in found}
    latest = sorted(found, reverse=True)[: max(policy.latest.num_versions, 1)]
    return {version: found[version] for version in latest}


def check_not_empty(model: ModelConfig) -> None:
    """Checks that there is a version to load.

    Raises:
        StatusError: NOT_FOUND if there is none; INVALID_ARGUMENT as `aspired_versions`.
    """
    if not aspired_versions(model):
        raise rpc_status.not_found(
            f"No versions of servable {model.name} found under base path {model.base_path}: "
            "expected a directory named by an integer (such as 1/) that the version policy admits"
        )
