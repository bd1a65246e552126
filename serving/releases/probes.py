"""Probes: requests whose answers were recorded at export and must come out again.

Shapes: P probes, D embedding size, C candidates, L values of the longest list.
"""

from typing import Any

import numpy as np

from serving import errors, manifest, requests
from serving.index import AdIndex
from serving.releases import ad_tower, query_tower

TOLERANCE = 1e-4
# Model servers may multiply in bfloat16 or TF32; the scores of another training differ by more.
SCORE_TOLERANCE = 1e-2
# Approximate indexes sum in another order on another CPU and may swap a candidate.
_APPROXIMATE_SLACK = 0.05


def query_columns(release: manifest.Manifest) -> requests.Columns:
    """Returns the probes' requests as model inputs, [P] each, lists [P, L]."""
    fields = requests.QueryFields(release.query_fields, release.ad_kinds)
    return fields.columns([fields.merge(request, {}) for request in release.probes["requests"]])


def candidate_rows(release: manifest.Manifest) -> np.ndarray:
    """Returns the catalogue rows of the probes' candidates, [P, C] int64."""
    return np.array(release.probes["candidates"], dtype=np.int64)


def check_retrieval(
    release: manifest.Manifest, tower: query_tower.QueryTower, index: AdIndex
) -> None:
    """Lets query tower and index reproduce the probes.

    Raises:
        ProbeMismatchError: They do not; the message says which and by how much.
    """
    _check_sizes(release, index)
    expected = np.array(release.probes["query_embeddings"], dtype=np.float32)
    embeddings = tower.embed(query_columns(release))
    _check_embeddings(release, "query_tower", embeddings, expected)
    # The recorded embeddings, not the new ones: this tests the index alone.
    _check_candidates(release, expected, index)


def check_scores(release: manifest.Manifest, scores: dict[str, np.ndarray]) -> None:
    """Compares the ranker's scores of the probes with the recorded ones.

    Args:
        release: The manifest.
        scores: Ranker output -> [P, C].

    Raises:
        RankerMismatchError: They differ.
    """
    for output, recorded in release.probes["scores"].items():
        expected = np.array(recorded, dtype=np.float32)
        difference = np.abs(scores[output] - expected)
        if not np.all(difference <= TOLERANCE + SCORE_TOLERANCE * np.abs(expected)):
            raise errors.RankerMismatchError(
                f"The ranker's {output} differs by {difference.max():.2g} from the probes of "
                f"manifests/{release.version}.json: the server serves another model as version "
                f"{release.version}. Let it serve this bundle's ranker directory."
            )


def check_ad_tower(release: manifest.Manifest, tower: ad_tower.AdTower, index: AdIndex) -> None:
    """Lets the ad tower reproduce embeddings and features of ads of the catalogue.

    Raises:
        ProbeMismatchError: It does not.
    """
    rows = np.array(release.probes["ads"]["rows"], dtype=np.int64)
    expected = np.array(release.probes["ads"]["embeddings"], dtype=np.float32)
    embeddings, features = tower.embed(
        [
            {
                name: requests.check_value(name, release.ad_kinds[name], value)
                for name, value in fields.items()
            }
            for fields in index.display(rows)
        ]
    )
    _check_embeddings(release, "ad_tower", embeddings, expected)
    if not np.array_equal(features, index.features(rows)):
        raise _mismatch(release, "ad_tower", "it encodes ads of the catalogue otherwise")


def _check_embeddings(
    release: manifest.Manifest, part: str, embeddings: np.ndarray, expected: np.ndarray
) -> None:
    if embeddings.shape != expected.shape:
        raise _mismatch(release, part, f"its shape is {list(embeddings.shape)}")
    difference = np.abs(embeddings - expected).max()
    # Written so that NaN fails.
    if not difference <= TOLERANCE:
        raise _mismatch(
            release, part, f"embeddings differ by {difference:.2g}, allowed {TOLERANCE}"
        )


def _check_sizes(release: manifest.Manifest, index: AdIndex) -> None:
    sizes = {
        "num_ads": (index.num_ads, release.index["num_ads"]),
        "dimension": (index.dimension, release.index["dimension"]),
        "the width of ad_features": (index.num_fields, _ad_columns(release)),
    }
    for name, (found, expected) in sizes.items():
        if found != expected:
            raise _mismatch(release, "ad_index", f"{name} is {found}, expected {expected}")


def _ad_columns(release: manifest.Manifest) -> int:
    inputs = release.signatures["ranker"]["inputs"]
    # Bundles from before lists leave ad_features out: a field was a column.
    return inputs["ad_features"]["shape"][-1] if "ad_features" in inputs else len(release.ad_fields)


def _check_candidates(release: manifest.Manifest, embeddings: np.ndarray, index: AdIndex) -> None:
    expected = candidate_rows(release)
    num_candidates = expected.shape[1]
    scores, rows = index.search(embeddings, num_candidates)
    # Ads that tie with the last candidate may take its place; a wider search gives their scores.
    wide_scores, wide_rows = index.search(embeddings, 4 * num_candidates)
    slack = 0 if index.kind == "Flat" else max(1, int(_APPROXIMATE_SLACK * num_candidates))
    for probe, wanted in enumerate(expected):
        missing = set(wanted.tolist()) - set(rows[probe].tolist())
        known: dict[Any, float] = dict(zip(wide_rows[probe], wide_scores[probe], strict=True))
        worst = scores[probe, -1] - TOLERANCE
        lost = [row for row in missing if known.get(row, -np.inf) < worst]
        if len(lost) > slack or rows.shape[1] != num_candidates:
            raise _mismatch(
                release, "ad_index", f"request {probe} lost {len(lost)} of {len(wanted)} candidates"
            )


def _mismatch(release: manifest.Manifest, part: str, reason: str) -> errors.ProbeMismatchError:
    return errors.ProbeMismatchError(
        f"{part}/{release.version} does not reproduce the probes of "
        f"manifests/{release.version}.json: {reason}. Export the bundle again with the versions "
        "of TensorFlow and faiss that are installed here."
    )
