"""The ModelServerConfig of a model server: which models, versions and labels it serves.

A model server refuses a file that moves a label to a version which is not loaded, and does not
load the version either, because it checks the labels first. So a label moves in two files: one
with the new version and the old label, and, when that has been read, one with the new label.

References: TensorFlow Serving, `config/model_server_config.proto` and
    `model_servers/server_core.cc` (`ReloadConfig`).
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

from google.protobuf import message, text_format
from tensorflow_serving.config import model_server_config_pb2

# The parts of a release that a model server serves.
RANKER = "ranker"
SERVED_MODELS = (RANKER, "query_tower")
PLATFORM = "tensorflow"

ModelConfig: TypeAlias = model_server_config_pb2.ModelConfig
ModelServerConfig: TypeAlias = model_server_config_pb2.ModelServerConfig
_Message = TypeVar("_Message", bound=message.Message)


@dataclasses.dataclass(frozen=True)
class ServedReleases:
    """The releases that a configuration lists.

    Attributes:
        versions: Release versions, ascending.
        labels: Version of each label; one of `versions`.
        without_ranker: The `versions` whose release has no ranker.
    """

    versions: tuple[int, ...]
    labels: Mapping[str, int]
    without_ranker: tuple[int, ...] = ()

    def for_model(self, name: str) -> "ServedReleases":
        """Returns the versions and labels that a model has."""
        if name != RANKER:
            return self
        versions = tuple(v for v in self.versions if v not in self.without_ranker)
        labels = {label: v for label, v in self.labels.items() if v in versions}
        return ServedReleases(versions, labels)


def build(
    base_paths: Mapping[str, str | os.PathLike[str]], served: ServedReleases | None = None
) -> ModelServerConfig:
    """Returns the configuration of some models.

    Args:
        base_paths: Directory with the numbered versions of each model, by the model's name.
        served: Versions and labels of the releases; None serves the latest version. A model
            without a version is left out.
    """
    config = ModelServerConfig()
    for name, base_path in base_paths.items():
        model_releases = None if served is None else served.for_model(name)
        if model_releases is not None and not model_releases.versions:
            continue
        model = config.model_config_list.config.add(
            name=name, base_path=os.fspath(base_path), model_platform=PLATFORM
        )
        if model_releases is not None:
            model.model_version_policy.specific.versions.extend(model_releases.versions)
            for label, version in sorted(model_releases.labels.items()):
                model.version_labels[label] = version
    return config


def config_text(root: str, models: Sequence[str], served: ServedReleases) -> str:
    """Returns the text-format configuration that serves exactly these releases.

    Args:
        root: Directory of the bundle as the model server sees it; absolute.
        models: Parts of a release to serve, such as `ranker`.
        served: Their versions and labels.

    Raises:
        ValueError: There is no version, or a label's version is not served.
    """
    if not served.versions:
        raise ValueError("Expected at least one version to serve, got none.")
    for label, version in served.labels.items():
        if version not in served.versions:
            raise ValueError(
                f"The label {label!r} names version {version}; expected one of the served "
                f"versions {list(served.versions)}."
            )
    base_paths = {name: f"{root.rstrip('/')}/{name}" for name in models}
    return text_format.MessageToString(build(base_paths, served))


def read_text(path: str | os.PathLike[str], target: _Message) -> _Message:
    """Fills an empty message from a file in protobuf text format, and returns it.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file does not contain such a message.
    """
    try:
        text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), target)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Invalid protobuf file: '{path}'. Expected a {target.DESCRIPTOR.name} in text format, "
            f"got: {error}"
        ) from error
    return target


def read(path: str | os.PathLike[str]) -> ModelServerConfig:
    """Reads a text-format configuration; raises the same errors as `read_text`."""
    return read_text(path, ModelServerConfig())


def read_served(path: pathlib.Path) -> ServedReleases:
    """Returns the versions and labels of all models of a file; see `read_text` for errors."""
    versions: dict[str, set[int]] = {}
    labels: dict[str, int] = {}
    for model in read(path).model_config_list.config:
        versions[model.name] = set(model.model_version_policy.specific.versions)
        labels.update(model.version_labels)
    all_versions = set().union(*versions.values())
    without_ranker = all_versions - versions.get(RANKER, set())
    return ServedReleases(tuple(sorted(all_versions)), labels, tuple(sorted(without_ranker)))


def next_served(before: ServedReleases, wanted: ServedReleases) -> ServedReleases:
    """Returns the content of the next file on the way from `before` to `wanted`.

    A label keeps its old version, which stays served, until the file contains its new version.
    """
    labels = {}
    for label, version in wanted.labels.items():
        old = before.labels.get(label, version)
        labels[label] = version if version in before.versions else old
    versions = {*wanted.versions, *labels.values()}
    without_ranker = versions & {*wanted.without_ranker, *before.without_ranker}
    return ServedReleases(tuple(sorted(versions)), labels, tuple(sorted(without_ranker)))
