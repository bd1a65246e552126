"""The manifest of a release bundle: contents of version N, with checksums and probes.

`manifests/N.json` is the commit point of a release. It contains its own checksum.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Self

from serving import errors
from tfrecords import fields as field_lib
from tfrecords import files

FORMAT_VERSION = 5
# Kinds of heads, in addition to `probability_after_click`.
PROBABILITY, AMOUNT = "probability", "amount"
# Parts of a release, in the order in which they are renamed. The ranker, which a release may lack,
# is last because model servers watch it.
PARTS = ("query_tower", "ad_tower", "ad_index", "ranker")


@dataclasses.dataclass(frozen=True)
class ReleaseHead:
    """A head of the ranker, from the table in `tfrec.heads`.

    Attributes:
        label: Name in weights, reports and metrics.
        output: Name of the ranker's output and of the field in answers.
        kind: `probability`, `probability_after_click` or `amount`.
        utility_weight: Weight of the score in the utility if a request gives none.
        trained: Whether the training log had positive labels; if not, the ranker has no such
            output.
        weak: Reason why the head is weak, and a remedy; None: not weak, or unknown.
    """

    label: str
    output: str
    kind: str
    utility_weight: float = 1.0
    trained: bool = True
    weak: str | None = None


@dataclasses.dataclass(frozen=True)
class Content:
    """The exporter's part of a manifest.

    Attributes:
        training_id: Id of the training run that produced the models and the index.
        dataset_fingerprint: Fingerprint of the schema and the fitted vocabularies; empty if the
            models were published without a data set.
        schema: JSON of `tfrecords.schema.Schema`.
        query_fields: `{"name", "kind"}` of each raw query field, with the `length` of a vector. A
            history is a `categorical_list`, and its ages (`numeric_list`) and events are fields
            whose `of` names the history.
        ad_fields: The same for each raw ad field, in the order of `ad_features`. A list field takes
            several columns, and a vector one for every two numbers.
        heads: Heads of the ranker, including untrained ones; without a ranker, all are untrained.
        weights_source: Source of the heads' weights: `schema`, its weights; `values`, its values
            in money; `standardized`, the spread of the scores; `equal`, no source.
        signatures: Inputs and outputs of `query_tower`, `ad_tower` and, if present, `ranker`.
        index: Kind, metric, dimension, num_ads, build and search parameters, recall.
        metrics: Any metrics, for information.
        probes: `requests`, `query_embeddings` [P, D], `candidates` [P, C], `scores`: ranker
            output -> [P, C], and `ads`: `rows` [A] of the catalog and their `embeddings` [A, D].
        parts: The subset of `PARTS` in the release.
    """

    training_id: str
    dataset_fingerprint: str
    schema: dict[str, Any]
    query_fields: list[dict[str, Any]]
    ad_fields: list[dict[str, Any]]
    heads: tuple[ReleaseHead, ...]
    weights_source: str
    signatures: dict[str, Any]
    index: dict[str, Any]
    metrics: dict[str, Any]
    probes: dict[str, Any]
    parts: tuple[str, ...]

    @property
    def has_ranker(self) -> bool:
        """Whether the release has a ranker; if not, ads are in retrieval order."""
        return "ranker" in self.parts

    @property
    def outputs(self) -> dict[str, str]:
        """Label -> ranker output of each trained head."""
        return {head.label: head.output for head in self.heads if head.trained}


@dataclasses.dataclass(frozen=True)
class Manifest(Content):
    """A published release.

    Attributes:
        version: Release version, which is also the version in TensorFlow Serving.
        created: Time of publication, ISO 8601 in UTC.
        files: Path under the base directory -> `{"bytes", "sha256"}`.
        format_version: Format version of the manifest.
    """

    version: int
    created: str
    files: dict[str, dict[str, Any]]
    format_version: int = FORMAT_VERSION

    @property
    def rates(self) -> list[dict[str, Any]]:
        """Fields of the schema that are rates, as JSON values."""
        return [field for field in self.schema.get("fields", ()) if field_lib.is_rate(field)]

    @property
    def ad_kinds(self) -> dict[str, str]:
        """Ad field -> kind."""
        return {field["name"]: field["kind"] for field in self.ad_fields}

    @property
    def user_field(self) -> str | None:
        """Query field that is the user key of the log; None if there is none."""
        column = self.schema.get("user_key")
        for field in self.schema.get("fields", ()) if column else ():
            if field["side"] == "query" and column in (field["name"], field.get("column")):
                return field["name"]
        return None

    @property
    def ad_id_field(self) -> str | None:
        """Ad field that is the ad key, so that its value is the ad id; None if there is none."""
        key = self.schema.get("ad_key", ())
        for field in self.schema.get("fields", ()) if len(key) == 1 else ():
            is_key = (field.get("column") or field["name"]) == key[0]
            if is_key and (field["side"], field["kind"]) == ("ad", "categorical"):
                return field["name"]
        return None

    @property
    def present_heads(self) -> tuple[str, ...]:
        """Labels of the trained heads."""
        return tuple(self.outputs)

    @property
    def absent_heads(self) -> tuple[str, ...]:
        """Labels of the heads without a positive label in training."""
        return tuple(head.label for head in self.heads if not head.trained)

    @property
    def utility_weights(self) -> dict[str, float]:
        """Label -> default weight in the utility of each trained head."""
        return {head.label: head.utility_weight for head in self.heads if head.trained}

    @property
    def weak_heads(self) -> dict[str, str]:
        """Label -> why the head is weak, of each weak head."""
        return {head.label: head.weak for head in self.heads if head.weak is not None}

    @classmethod
    def create(cls, content: Content, **published: Any) -> Self:
        """Joins the exporter's content with `version`, `created` and `files`."""
        known = {field.name: getattr(content, field.name) for field in dataclasses.fields(Content)}
        return cls(**known, **published)


def versions(base: str | os.PathLike[str]) -> list[int]:
    """Returns the published versions, ascending, without reading the manifests."""
    return sorted(
        int(path.stem)
        for path in (pathlib.Path(base) / "manifests").glob("*.json")
        if path.stem.isdecimal()
    )


def path_of(base: pathlib.Path, version: int) -> pathlib.Path:
    """Returns the path of the manifest of a version."""
    return base / "manifests" / f"{version}.json"


def not_published(base: pathlib.Path, version: int) -> errors.BundleNotFoundError:
    """Returns the error for a version without a manifest."""
    published = ", ".join(map(str, versions(base))) or "none"
    return errors.BundleNotFoundError(
        f"{base} has no published bundle of version {version}: manifests/{version}.json is "
        f"missing. Published versions: {published}."
    )


def encode(manifest: Manifest) -> bytes:
    """Returns the content of `manifests/N.json`; raises ValueError for NaN and infinity."""
    document = dataclasses.asdict(manifest)
    return _canonical({**document, "manifest_sha256": _digest(document)})


@contextlib.contextmanager
def writing(base: pathlib.Path, version: int, document: bytes) -> Iterator[None]:
    """Writes a manifest to disk, and renames it at the end of the `with` block.

    Raises:
        OSError: The manifest cannot be written.
    """
    path = path_of(base, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sync(base)
    with files.replacing(path, durable=True) as partial:
        partial.write_bytes(document)
        files.sync(partial)
        yield


def read(base: pathlib.Path, version: int) -> Manifest:
    """Reads and checks the manifest of a version.

    Raises:
        BundleNotFoundError: The version has no manifest.
        BundleError: The file cannot be read, has changed since it was written, or has the format of
            another version of tfrec.
    """
    path = path_of(base, version)
    name = f"manifests/{version}.json"
    try:
        document = json.loads(path.read_bytes())
        checksum = document.pop("manifest_sha256")
    except FileNotFoundError as error:
        raise not_published(base, version) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _corrupt(name, f"it cannot be read ({error})") from error
    if checksum != _digest(document):
        raise _corrupt(name, "its content does not match its manifest_sha256")
    if document.get("format_version") != FORMAT_VERSION:
        raise errors.BundleError(
            f"{name} has format_version {document.get('format_version')!r}; expected "
            f"{FORMAT_VERSION}. Export the bundle again, or use the version of tfrec that wrote it."
        )
    heads = tuple(ReleaseHead(**head) for head in document.pop("heads"))
    manifest = Manifest(**document | {"heads": heads, "parts": tuple(document["parts"])})
    if manifest.version != version:
        raise _corrupt(name, f"it is the manifest of version {manifest.version}")
    return manifest


def _corrupt(name: str, reason: str) -> errors.BundleError:
    return errors.BundleError(
        f"{name} is corrupt: {reason}. Restore the file, or export the bundle again."
    )


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()
