"""Which models to serve and which of their versions, in TensorFlow Serving's own configuration.

References: TensorFlow Serving, `config/model_server_config.proto`, `model_servers/server_core.cc`
    and `sources/storage_path/file_system_storage_path_source.cc`.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import TypeAlias

from tensorflow_serving.config import model_server_config_pb2

from serving import saved_model
from serving.model_server import config_messages

_PLATFORM = "tensorflow"
_MAX_VERSION = 2**63 - 1
_URI = re.compile("[a-zA-Z][0-9a-zA-Z.]*://")
_FILE_SCHEME = "file://"

ModelConfig: TypeAlias = model_server_config_pb2.ModelConfig
ModelServerConfig: TypeAlias = model_server_config_pb2.ModelServerConfig


def config_from_base_paths(base_paths: Mapping[str, str | os.PathLike[str]]) -> ModelServerConfig:
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


def read_config(path: str | os.PathLike[str]) -> ModelServerConfig:
    """Reads a text-format `ModelServerConfig`.

    Raises:
        StatusError: if the file is missing or is not such a message.
    """
    return config_messages.read_text(path, ModelServerConfig())


def validate(config: ModelServerConfig, before: Mapping[str, ModelConfig] | None = None) -> None:
    """Checks names, base paths and changes of a platform.

    Args:
        config: what is asked for.
        before: the models of the configuration that it replaces, by name.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first model that is wrong.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise saved_model.invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models = config.model_config_list.config
    names = set()
    for model in models:
        if model.name in names:
            raise saved_model.invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
    for model in models:
        if not os.path.isabs(model.base_path) and not _URI.match(model.base_path):
            raise saved_model.invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
    for model in models:
        if before and model.name in before:
            _check_same_platform(_platform(before[model.name]), model)


def check_platforms(config: ModelServerConfig) -> None:
    """Checks that all models are TensorFlow's.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first model that is not.
    """
    for model in config.model_config_list.config:
        platform = _platform(model)
        if platform != _PLATFORM:
            raise saved_model.invalid_argument(
                f"Model {model.name} requests unsupported platform {platform}"
            )


def check_loggers(config: ModelServerConfig) -> None:
    """Checks that no requests are to be logged: TensorFlow Serving as released has no loggers.

    Raises:
        StatusError: INVALID_ARGUMENT if a model has a `logging_config`.
    """
    if any(model.HasField("logging_config") for model in config.model_config_list.config):
        raise saved_model.invalid_argument("No request-logger-creator provided.")


def _check_same_platform(before: str, model: ModelConfig) -> None:
    platform = _platform(model)
    if platform != before:
        raise saved_model.invalid_argument(
            f"Illegal to change a model's platform. For model {model.name} platform was {before} "
            f"and new platform requested is {platform}"
        )


def _platform(model: ModelConfig) -> str:
    if model.model_type == model_server_config_pb2.MODEL_TYPE_UNSPECIFIED:
        if not model.model_platform:
            raise saved_model.invalid_argument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        return model.model_platform
    if model.model_platform:
        raise saved_model.invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_type != model_server_config_pb2.TENSORFLOW:
        raise saved_model.invalid_argument(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    return _PLATFORM


def aspired_versions(model: ModelConfig) -> dict[int, pathlib.Path]:
    """Returns the versions on disk that the model's policy asks for.

    Only directories with a numeric name count, so a version is published by renaming it from a
    name that is not numeric.

    Raises:
        StatusError: INVALID_ARGUMENT if the base path cannot be listed.
    """
    found = {}
    try:
        with os.scandir(model.base_path.removeprefix(_FILE_SCHEME)) as entries:
            # Of several names of a number, such as 001 and 1, the last one is taken.
            for entry in sorted(entries, key=lambda entry: entry.name):
                numeric = entry.name.isascii() and entry.name.isdigit()
                if numeric and int(entry.name) <= _MAX_VERSION and entry.is_dir():
                    found[int(entry.name)] = pathlib.Path(entry.path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = f"NOT_FOUND: {model.base_path} not found" if missing else error
        raise saved_model.invalid_argument(
            f"Could not find base path {model.base_path} for servable {model.name} "
            f"with error {reason}"
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
        raise saved_model.not_found(
            f"No versions of servable {model.name} found under base path {model.base_path}: "
            "expected a directory named by an integer (such as 1/) that the version policy admits"
        )
