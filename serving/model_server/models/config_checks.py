"""Checks a ModelServerConfig and finds the versions on disk that it asks for.

References: TensorFlow Serving, `model_servers/server_core.cc` and
    `sources/storage_path/file_system_storage_path_source.cc`.
"""

import os
import re
from collections.abc import Mapping

from tensorflow_serving.config import model_server_config_pb2

from serving import model_config, saved_model

_MAX_VERSION = 2**63 - 1
_URI = re.compile("[a-zA-Z][0-9a-zA-Z.]*://")
_FILE_SCHEME = "file://"


def validate(
    config: model_config.ModelServerConfig,
    before: Mapping[str, model_config.ModelConfig] | None = None,
) -> None:
    """Checks names, base paths and changes of a platform.

    Args:
        config: The new configuration.
        before: The models of the configuration that it replaces, by name.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first wrong model.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise unsupported_config()
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
            old, new = _platform(before[model.name]), _platform(model)
            if old != new:
                raise saved_model.invalid_argument(
                    f"Illegal to change a model's platform. For model {model.name} platform was "
                    f"{old} and new platform requested is {new}"
                )


def unsupported_config() -> saved_model.StatusError:
    """Returns the error of a configuration without a list of models."""
    return saved_model.invalid_argument(
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )


def check_platforms(config: model_config.ModelServerConfig) -> None:
    """Checks that all models are TensorFlow models.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first model that is not.
    """
    for model in config.model_config_list.config:
        platform = _platform(model)
        if platform != model_config.PLATFORM:
            raise saved_model.invalid_argument(
                f"Model {model.name} requests unsupported platform {platform}"
            )


def check_loggers(config: model_config.ModelServerConfig) -> None:
    """Checks that no model logs its requests: released TensorFlow Serving has no loggers.

    Raises:
        StatusError: INVALID_ARGUMENT if a model has a `logging_config`.
    """
    if any(model.HasField("logging_config") for model in config.model_config_list.config):
        raise saved_model.invalid_argument("No request-logger-creator provided.")


def check_not_empty(model: model_config.ModelConfig) -> None:
    """Checks that there is a version to load.

    Raises:
        StatusError: NOT_FOUND if there is none; INVALID_ARGUMENT as `aspired_versions`.
    """
    if not aspired_versions(model):
        raise saved_model.not_found(
            f"No versions of servable {model.name} found under base path {model.base_path}: "
            "expected a directory named by an integer (such as 1/) that the version policy admits"
        )


def aspired_versions(model: model_config.ModelConfig) -> dict[int, str]:
    """Returns the directories of the versions on disk that the model's policy asks for.

    Only directories with a numeric name count, so a version is published by renaming it from a
    name that is not numeric.

    Raises:
        StatusError: INVALID_ARGUMENT if the base path cannot be listed.
    """
    found = {}
    try:
        with os.scandir(model.base_path.removeprefix(_FILE_SCHEME)) as entries:
            # Of several names of a number, such as 001 and 1, the last one counts.
            for entry in sorted(entries, key=lambda entry: entry.name):
                is_numeric = entry.name.isascii() and entry.name.isdigit()
                if is_numeric and int(entry.name) <= _MAX_VERSION and entry.is_dir():
                    found[int(entry.name)] = entry.path
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


def _platform(model: model_config.ModelConfig) -> str:
    has_type = model.model_type != model_server_config_pb2.MODEL_TYPE_UNSPECIFIED
    if has_type == bool(model.model_platform):
        which = "both" if has_type else "neither"
        conjunction = "and" if has_type else "nor"
        raise saved_model.invalid_argument(
            f"Illegal setting {which} ModelServerConfig::model_type (deprecated) {conjunction} "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not has_type:
        return model.model_platform
    if model.model_type != model_server_config_pb2.TENSORFLOW:
        raise saved_model.invalid_argument(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    return model_config.PLATFORM
