"""Probes: requests whose results were recorded at export and must be reproduced when serving.

Shapes: P probes, D embedding size, C candidates, L values of the longest list.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serving import errors, manifest, requests
from serving.index import AdIndex, IndexBackend
from serving.releases import models

NUM_PROBES = 8
_CANDIDATES_PER_PROBE = 20
# For embeddings of unit length; it grows with longer ones.
TOLERANCE = 1e-4
# Model servers may multiply in bfloat16 or TF32. Scores of another training run differ by more.
SCORE_TOLERANCE = 1e-2
# Relative to the largest value of a vector, which is 1.
_VECTOR_TOLERANCE = 1e-2
# Approximate indexes may swap candidates because CPUs differ in their order of summation.
_APPROXIMATE_SLACK = 0.05


def record(
    rows: Sequence[requests.Columns],
    tower: models.QueryTower,
    searcher: IndexBackend,
    score: Callable[[requests.Columns, np.ndarray], Mapping[str, np.ndarray]] | None,
) -> dict[str, Any]:
    """Records the candidates and scores of requests, each computed alone.

    Services check them in a batch, so the check also finds models whose outputs depend on the
    batch.

    Args:
        score: Returns the outputs [1, C] of the ranker for a request and catalog rows [C]. None:
            there is no ranker.
    """
    embeddings = np.concatenate([tower.embed(columns) for columns in rows])
    _, candidates = searcher.search(embeddings, min(_CANDIDATES_PER_PROBE, searcher.num_ads))
    recorded = {"query_embeddings": embeddings.tolist(), "candidates": candidates.tolist()}
    if score is None:
        return {**recorded, "scores": {}}
    scores = [score(columns, ad_rows) for columns, ad_rows in zip(rows, candidates, strict=True)]
    return {
        **recorded,
        "scores": {name: [outputs[name][0].tolist() for outputs in scores] for name in scores[0]},
    }


def record_ads(ads: pa.Table, embeddings: np.ndarray) -> dict[str, Any]:
    """Records ads whose embeddings the ad tower must reproduce.

    Args:
        embeddings: [N, D] float32.
    """
    is_finite = np.ones(len(embeddings), bool)
    for column in ads.columns:
        if pa.types.is_floating(column.type):
            # JSON has no infinity, so such a field cannot be in a probe.
            is_finite &= ~np.isinf(column.to_numpy())
    rows = np.flatnonzero(is_finite)
    rows = rows[np.linspace(0, len(rows), NUM_PROBES, endpoint=False).astype(int)[: len(rows)]]
    return {"rows": rows.tolist(), "embeddings": embeddings[rows].tolist()}


def query_columns(release: manifest.Manifest) -> requests.Columns:
    """Returns the requests of the probes as model inputs: [P] each, [P, L] for lists."""
    fields = requests.QueryFields(release.query_fields, release.ad_kinds)
    return fields.columns([fields.merge(request, {}) for request in release.probes["requests"]])


def candidate_rows(release: manifest.Manifest) -> np.ndarray:
    """Returns the catalog rows of the candidates of the probes: [P, C] int64."""
    return np.array(release.probes["candidates"], dtype=np.int64)


def check_retrieval(release: manifest.Manifest, tower: models.QueryTower, index: AdIndex) -> None:
    """Checks that the query tower and the index reproduce the probes."""
    _check_sizes(release, index)
    expected = np.array(release.probes["query_embeddings"], dtype=np.float32)
    columns = query_columns(release)
    _check_embeddings(release, "query_tower", tower.embed(columns), expected)
    if tower.num_weights is not None:
        # Requests use this signature; without this run, the first one would wait.
        weights = np.array([list(release.utility_weights.values())], np.float32)
        embeddings = tower.embed(columns, np.repeat(weights, len(expected), axis=0))
        _check_embeddings(release, "query_tower", embeddings, expected)
    # Uses the recorded embeddings, to test the index alone.
    _check_candidates(release, expected, index)


def check_scores(release: manifest.Manifest, scores: dict[str, np.ndarray]) -> None:
    """Compares scores of the probes with the recorded ones.

    Args:
        release: Manifest of the release.
        scores: Ranker output -> [P, C] float32.

    Raises:
        RankerMismatchError: A score differs by more than the tolerance.
    """
    for output, recorded in release.probes["scores"].items():
        expected = np.array(recorded, dtype=np.float32)
        difference = np.abs(scores[output] - expected)
        if not np.all(difference <= TOLERANCE + SCORE_TOLERANCE * np.abs(expected)):
            raise errors.RankerMismatchError(
                f"The ranker's {output} differs by {difference.max():.2g} from the probes of "
                f"manifests/{release.version}.json: the server serves another model as "
                f"version {release.version}. Point it at the ranker directory of this bundle."
            )


def check_ad_tower(release: manifest.Manifest, tower: models.AdTower, index: AdIndex) -> None:
    """Checks that the ad tower reproduces the embeddings and features of ads in the catalog.

    Raises:
        BundleError: An embedding or a feature differs.
    """
    rows = np.array(release.probes["ads"]["rows"], dtype=np.int64)
    expected = np.array(release.probes["ads"]["embeddings"], dtype=np.float32)
    embeddings, features = tower.embed_table(index.ads(rows))
    _check_embeddings(release, "ad_tower", embeddings, expected)
    if tower.encodes and not _same_features(release, features, index.features(rows)):
        raise _mismatch(release, "ad_tower", "its features differ from those in ad_index")


def _same_features(release: manifest.Manifest, features: np.ndarray, expected: np.ndarray) -> bool:
    """Compares features [A, F]; vectors of a text encoder may be rounded differently."""
    if features.shape != expected.shape or np.array_equal(features, expected):
        return features.shape == expected.shape
    lengths = [field.get("length", 0) for field in release.ad_fields]
    num_ids = features.shape[1] - sum(-(-length // 2) for length in lengths)
    if num_ids < 0 or not np.array_equal(features[:, :num_ids], expected[:, :num_ids]):
        return False
    found, recorded = (
        np.ascontiguousarray(array[:, num_ids:]).view(np.float16) for array in (features, expected)
    )
    return bool(np.abs(found.astype(np.float32) - recorded).max(initial=0.0) <= _VECTOR_TOLERANCE)


def _check_embeddings(
    release: manifest.Manifest, part: str, embeddings: np.ndarray, expected: np.ndarray
) -> None:
    if embeddings.shape != expected.shape:
        raise _mismatch(release, part, f"its shape is {list(embeddings.shape)}")
    difference, allowed = np.abs(embeddings - expected).max(), _tolerance(expected)
    # `not a <= b`, because `a > b` would let NaN pass.
    if not difference <= allowed:
        raise _mismatch(
            release, part, f"embeddings differ by {difference:.2g}; expected at most {allowed:.2g}"
        )


def _tolerance(values: np.ndarray) -> float:
    return TOLERANCE * max(1.0, float(np.abs(values).max()))


def _check_sizes(release: manifest.Manifest, index: AdIndex) -> None:
    sizes = {
        "num_ads": (index.num_ads, release.index["num_ads"]),
        "dimension": (index.dimension, release.index["dimension"]),
    }
    if release.has_ranker:
        features = release.signatures["ranker"]["inputs"]["ad_features"]
        sizes["the width of ad_features"] = (index.num_fields, features["shape"][-1])
    for name, (found, expected) in sizes.items():
        if found != expected:
            raise _mismatch(release, "ad_index", f"{name} is {found}; expected {expected}")


def _check_candidates(release: manifest.Manifest, embeddings: np.ndarray, index: AdIndex) -> None:
    expected = candidate_rows(release)
    num_candidates = expected.shape[1]
    scores, rows = index.search(embeddings, num_candidates)
    # Ads that tie with the last candidate may replace it. A wider search returns their scores.
    wide_scores, wide_rows = index.search(embeddings, 4 * num_candidates)
    slack = 0 if index.searcher.is_exact else max(1, int(_APPROXIMATE_SLACK * num_candidates))
    for probe, recorded in enumerate(expected):
        missing = set(recorded.tolist()) - set(rows[probe].tolist())
        score_of: dict[Any, float] = dict(zip(wide_rows[probe], wide_scores[probe], strict=True))
        worst = scores[probe, -1] - _tolerance(scores[probe])
        lost = [row for row in missing if score_of.get(row, -np.inf) < worst]
        if len(lost) > slack or rows.shape[1] != num_candidates:
            counts = f"{len(lost)} of {num_candidates} candidates"
            raise _mismatch(release, "ad_index", f"request {probe} lost {counts}")


def _mismatch(release: manifest.Manifest, part: str, reason: str) -> errors.BundleError:
    return errors.BundleError(
        f"{part}/{release.version} does not reproduce the probes of "
        f"manifests/{release.version}.json: {reason}. Export the bundle again with the versions "
        "of TensorFlow and faiss that are installed here."
    )
