"""The ModelServerConfig that serves releases of a bundle: their models, versions and labels."""

from collections.abc import Mapping, Sequence

from google.protobuf import text_format

from serving.embedded import model_config


def text(
    root: str, models: Sequence[str], versions: Sequence[int], labels: Mapping[str, int]
) -> str:
    """Returns a text-format ModelServerConfig that serves exactly these versions.

    Args:
        root: the directory of the bundle as the model server sees it; absolute.
        models: the parts of a release to serve, such as `ranker`.
        versions: the releases; at least one.
        labels: names that requests may use for a version, each one of `versions`.

    Raises:
        ValueError: if a label's version is not served, or there is none to serve.
    """
    if not versions:
        raise ValueError("Expected at least one version to serve, got none.")
    for label, version in labels.items():
        if version not in versions:
            raise ValueError(
                f"Expected the label {label!r} to name one of the versions {sorted(versions)}, "
                f"got {version}."
            )
    config = model_config.ModelServerConfig()
    for name in models:
        model = config.model_config_list.config.add(
            name=name, base_path=f"{root.rstrip('/')}/{name}", model_platform="tensorflow"
        )
        model.model_version_policy.specific.versions.extend(sorted(set(versions)))
        for label, version in sorted(labels.items()):
            model.version_labels[label] = version
    return text_format.MessageToString(config)
