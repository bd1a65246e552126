"""The ModelServerConfig that serves releases of a bundle: their models, versions and labels.

A model server refuses a file that moves a label to a version which is not loaded, and does not
load the version either, because it looks at the labels first. So a label moves in two files: one
with the new version and the old label, and, when that has been read, one with the new label.

References: TensorFlow Serving, `model_servers/server_core.cc` (`ReloadConfig`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from google.protobuf import text_format

from serving.embedded import model_config


@dataclasses.dataclass(frozen=True)
class Served:
    """What a file asks for.

    Attributes:
        versions: the releases, ascending.
        labels: names that requests may use for a version, each one of `versions`.
    """

    versions: tuple[int, ...]
    labels: Mapping[str, int]


def text(root: str, models: Sequence[str], served: Served) -> str:
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
    config = model_config.ModelServerConfig()
    for name in models:
        model = config.model_config_list.config.add(
            name=name, base_path=f"{root.rstrip('/')}/{name}", model_platform="tensorflow"
        )
        model.model_version_policy.specific.versions.extend(served.versions)
        for label, version in sorted(served.labels.items()):
            model.version_labels[label] = version
    return text_format.MessageToString(config)


def read(path: str) -> Served:
    """Returns what a file asks for in all its models together.

    Raises:
        StatusError: if the file is missing or is no ModelServerConfig.
    """
    versions: set[int] = set()
    labels: dict[str, int] = {}
    for model in model_config.read(path).model_config_list.config:
        versions.update(model.model_version_policy.specific.versions)
        labels.update(model.version_labels)
    return Served(tuple(sorted(versions)), labels)


def next_step(before: Served, wanted: Served) -> Served:
    """Returns what the file has to ask for next on the way to what is wanted.

    A label stays where it is while its new version is not yet in the file; its old version stays
    with it.
    """
    labels = {}
    for label, version in wanted.labels.items():
        old = before.labels.get(label, version)
        labels[label] = version if version in before.versions else old
    return Served(tuple(sorted({*wanted.versions, *labels.values()})), labels)
