"""Checks a ModelServerConfig and finds the versions on disk that it selects.

References: TensorFlow Serving, `model_servers/server_core.cc` and
    `sources/storage_path/file_system_storage_path_source.cc`.
"""

import os

from serving import model_config, saved_model

_MAX_VERSION = 2**63 - 1


def validate(config: model_config.ModelServerConfig) -> None:
    """Raises INVALID_ARGUMENT for a wrong name, base path or platform."""
    if config.WhichOneof("config") != "model_config_list":
        raise saved_model.invalid_argument("Expected a model_config_list.")
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise saved_model.invalid_argument(f"The model {model.name} is listed twice.")
        names.add(model.name)
        if not os.path.isabs(model.base_path):
            raise saved_model.invalid_argument(
                f"Model {model.name}: expected an absolute base_path, got {model.base_path!r}."
            )
        if model.model_platform != model_config.PLATFORM:
            raise saved_model.invalid_argument(
                f"Model {model.name}: expected the model_platform {model_config.PLATFORM!r}, got "
                f"{model.model_platform!r}."
            )
        if model.version_labels:
            raise saved_model.invalid_argument(
                f"Model {model.name}: the embedded model server has no version_labels. Remove them."
            )


def aspired_versions(model: model_config.ModelConfig) -> dict[int, str]:
    """Returns the directories of the versions on disk that the model's policy selects.

    Only directories with a numeric name count, so a version is published by renaming it from a
    name that is not numeric.
    Raises INVALID_ARGUMENT if the base path cannot be listed.
    """
    found = {}
    try:
        with os.scandir(model.base_path) as entries:
            for entry in entries:
                is_numeric = entry.name.isascii() and entry.name.isdigit()
                if is_numeric and int(entry.name) <= _MAX_VERSION and entry.is_dir():
                    found[int(entry.name)] = entry.path
    except OSError as error:
        raise saved_model.invalid_argument(
            f"Could not find base path {model.base_path} for servable {model.name}: {error}"
        ) from error
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return found
    if kind == "specific":
        return {version: found[version] for version in policy.specific.versions if version in found}
    latest = sorted(found, reverse=True)[: max(policy.latest.num_versions, 1)]
    return {version: found[version] for version in latest}
