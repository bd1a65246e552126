"""The ModelServerConfig that serves releases of a bundle: their models, versions and labels.

A model server refuses a file that moves a label to a version which is not loaded, and does not
load the version either, because it looks at the labels first. So a label moves in two files: one
with the new version and the old label, and, when that has been read, one with the new label.

References: TensorFlow Serving, `model_servers/server_core.cc` (`ReloadConfig`).
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

# The parts of a release that a model server serves.
SERVED_MODELS = ("ranker", "query_tower")


@dataclasses.dataclass(frozen=True)
class ServedReleases:
    """What a file asks for.

    Attributes:
        versions: the releases, ascending.
        labels: names that requests may use for a version, each one of `versions`.
    """

    versions: tuple[int, ...]
    labels: Mapping[str, int]


def config_text(root: str, models: Sequence[str], served: ServedReleases) -> str:
    """Returns a text-format ModelServerConfig that serves exactly these versions.

    Args:
        root: the directory of the bundle as the model server sees it; absolute.
        models: the parts of a release to serve, such as `ranker`.
        served: their versions and labels.

    Raises:
        ValueError: if a label's version is not served, or there is none to serve.
    """
    if not served.versions:
        raise ValueError("Expected at least one version to serve, got none.")
    for label, version in served.labels.items():
        if version not in served.versions:
            raise ValueError(
                f"Expected the label {label!r} to name one of the versions "
                f"{list(served.versions)}, got {version}."
            )
    config = model_server_config_pb2.ModelServerConfig()
    for name in models:
        model = config.model_config_list.config.add(
            name=name, base_path=f"{root.rstrip('/')}/{name}", model_platform="tensorflow"
        )
        model.model_version_policy.specific.versions.extend(served.versions)
        for label, version in sorted(served.labels.items()):
            model.version_labels[label] = version
    return text_format.MessageToString(config)


def read_served(path: pathlib.Path) -> ServedReleases:
    """Returns what a file asks for in all its models together.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a ModelServerConfig in text format.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: expected a ModelServerConfig in protobuf text format, got: {error}"
        ) from error
    versions: set[int] = set()
    labels: dict[str, int] = {}
    for model in config.model_config_list.config:
        versions.update(model.model_version_policy.specific.versions)
        labels.update(model.version_labels)
    return ServedReleases(tuple(sorted(versions)), labels)


def next_served(before: ServedReleases, wanted: ServedReleases) -> ServedReleases:
    """Returns what the file has to ask for next on the way to what is wanted.

    A label stays where it is while its new version is not yet in the file; its old version stays
    with it.
    """
    labels = {}
    for label, version in wanted.labels.items():
        old = before.labels.get(label, version)
        labels[label] = version if version in before.versions else old
    return ServedReleases(tuple(sorted({*wanted.versions, *labels.values()})), labels)
