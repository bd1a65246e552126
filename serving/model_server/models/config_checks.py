"""Checks a ModelServerConfig and finds the versions on disk that it selects.

References: TensorFlow Serving, `model_servers/server_core.cc` and
    `sources/storage_path/file_system_storage_path_source.cc`.
"""

import os
from collections.abc import Collection

from tensorflow_serving.config import model_server_config_pb2

from serving import model_config, saved_model

_MAX_VERSION = 2**63 - 1
_FILE_SCHEME = "file://"


def validate(config: model_config.ModelServerConfig) -> None:
    """Checks names, base paths and platforms.

    Raises:
        StatusError: INVALID_ARGUMENT naming the first wrong model.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise unsupported_config()
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise saved_model.invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        if not os.path.isabs(model.base_path.removeprefix(_FILE_SCHEME)):
            remote = "; the only URIs served here are file://" if "://" in model.base_path else ""
            raise saved_model.invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}{remote}"
            )
        is_tensorflow = model.model_type == model_server_config_pb2.TENSORFLOW
        if not is_tensorflow and model.model_platform != model_config.PLATFORM:
            raise saved_model.invalid_argument(
                f"Model {model.name} requests unsupported platform {model.model_platform!r}; "
                f"expected {model_config.PLATFORM!r}"
            )
        # Released TensorFlow Serving has no loggers either.
        if model.HasField("logging_config"):
            raise saved_model.invalid_argument("No request-logger-creator provided.")


def unsupported_config() -> saved_model.StatusError:
    """Returns the error of a configuration without a list of models."""
    return saved_model.invalid_argument(
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )


def aspired_versions(model: model_config.ModelConfig) -> dict[int, str]:
    """Returns the directories of the versions on disk that the model's policy selects.

    Only directories with a numeric name count, so a version is published by renaming it from a
    name that is not numeric.

    Raises:
        StatusError: INVALID_ARGUMENT if the base path cannot be listed.
    """
    found = {}
    try:
        with os.scandir(model.base_path.removeprefix(_FILE_SCHEME)) as entries:
            # If several names mean the same number, such as 001 and 1, the last one counts.
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


def missing_versions(model: model_config.ModelConfig, found: Collection[int]) -> list[str]:
    """Returns a message for each version that the model's policy names and the disk lacks.

    Args:
        model: Configuration of the model.
        found: Result of `aspired_versions`.
    """
    return [
        f"Version {version} of servable {model.name}, which was requested to be served as a "
        "'specific' version in the servable's version policy, was not found in the file system"
        for version in sorted(set(model.model_version_policy.specific.versions) - set(found))
    ]
