"""Completes a release whose models are in their directories.

`assemble` checks the SavedModels, embeds the ads, builds and tunes the index, and records the
probes. It needs no training code, so the models may come from any framework.

Shapes: N ads, Q queries, B requests, C candidates, D embedding size, F columns of ad features.
"""

import dataclasses
import json
import logging
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import errors, manifest, requests
from serving.index import (
    AD_ID,
    QUERIES_FILE,
    AdIndex,
    BuiltIndex,
    IndexConfig,
    build_index,
    check_kind,
    recall_against_exact,
)
from serving.releases import embedded_ads, models, parts, probes, publishing
from tfrecords import files
from tfrecords.schema import NUM_CANDIDATES, Field, Schema

_logger = logging.getLogger(__name__)
# Kept with the index, to measure recall after updates.
_NUM_SAMPLE_QUERIES = 256
# How far the recall of held-out requests may be below the target, which other requests reached.
_RECALL_MARGIN = 0.01
_WARM_UP_CANDIDATES = (1, 10, NUM_CANDIDATES)
_EMPTY_REQUEST = "a request whose fields are all missing"


@dataclasses.dataclass(frozen=True)
class ReleaseInputs:
    """The inputs of a release other than its models.

    Attributes:
        ads: `index.AD_ID` and the raw ad fields, named as in the schema.
        schema: Schema of the fields.
        sample_requests: Raw query fields of requests, as clients will send them; None is missing.
        index_config: Configuration of the index. None uses the defaults.
        metrics: Metrics of the models, for the manifest.
        tuning_queries: Query embeddings [Q, D] to tune the index. None: every other sample request.
        heads: Heads of the ranker. None: one for each of its outputs, see `heads_of`.
        weights_source: Source of the weights of `heads`; see `manifest.Content`.
        has_ranker: Whether there is a ranker.
        training_id: Id of the training. None: a checksum of the models.
        dataset_fingerprint: Fingerprint of the data set; empty if there is none.
    """

    ads: pa.Table
    schema: Schema
    sample_requests: Sequence[Mapping[str, Any]]
    index_config: IndexConfig | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning_queries: np.ndarray | None = None
    heads: tuple[manifest.ReleaseHead, ...] | None = None
    weights_source: str = "equal"
    has_ranker: bool = True
    training_id: str | None = None
    dataset_fingerprint: str = ""

    def __post_init__(self) -> None:
        try:
            json.dumps(self.metrics, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metrics: expected values of JSON, such as finite numbers, got {error}."
            ) from error


def assemble(staged: publishing.Staged, inputs: ReleaseInputs) -> manifest.Content:
    """Fills the index's directory, and returns the content of the manifest.

    Args:
        staged: Directories of the release, with the SavedModels of the towers and the ranker.
        inputs: The other inputs.

    Raises:
        BundleError: A SavedModel does not fit the schema or the others, fails, or returns
            values that cannot be served; or the index cannot be built.
        InvalidRequestError: There is no sample request, or one is invalid.
        ValueError: The index of a factory string cannot be served.
        IndexUnavailableError: Milvus does not answer.
    """
    # If this publish is killed, the next one removes it.
    with tempfile.TemporaryDirectory(
        prefix=publishing.STAGING, dir=staged.ad_index.parent
    ) as directory:
        return _assemble(staged, inputs, pathlib.Path(directory))


def _assemble(
    staged: publishing.Staged, inputs: ReleaseInputs, directory: pathlib.Path
) -> manifest.Content:
    """Does the work of `assemble`; `directory` is for the embedded ads."""
    query_fields = _described(inputs.schema.query_fields)
    ad_fields = _described(inputs.schema.ad_fields)
    rows = _checked_requests(query_fields, ad_fields, inputs.sample_requests)
    tower = models.QueryTower(staged.query_tower, query_fields)
    ad_tower = models.AdTower(staged.ad_tower, ad_fields)
    queries = _embedded_queries(tower, rows)
    check_kind(inputs.index_config or IndexConfig(), queries.shape[1])
    embeddings, features = embedded_ads.embed(directory, ad_tower, inputs.ads)
    if queries.shape[1] != embeddings.shape[1]:
        raise errors.BundleError(
            f"query_tower and ad_tower: expected embeddings of the same size, got "
            f"{queries.shape[1]} of queries and {embeddings.shape[1]} of ads. Use two towers "
            "that were trained together."
        )
    heads, weights_source = inputs.heads or (), inputs.weights_source
    loaded: list[models.QueryTower | models.AdTower | models.RankerModel] = [tower, ad_tower]
    scorer = None
    if inputs.has_ranker:
        outputs = [head.output for head in heads if head.trained]
        ranker = models.RankerModel(staged.ranker, query_fields, features.shape[1], outputs)
        loaded.append(ranker)
        if not heads:
            heads, weights_source = _weighted(
                heads_of(list(ranker.signature["outputs"])), inputs.schema
            )
        scorer = _Scorer(ranker, heads, features, inputs.ads[AD_ID])
    elif not heads:
        # Clicks will be the feedback on its answers.
        (click,) = heads_of(["click_probability"])
        heads = (dataclasses.replace(click, trained=False),)
    built, recall, tuning = _index(embeddings, queries, inputs)
    probed = [tower.columns([row]) for row in rows[: probes.NUM_PROBES]]
    if scorer is not None:
        # The probes have only the best ads.
        some = _spread(inputs.ads.num_rows)
        scorer.score(probed[0], some)
        scorer.score(tower.columns([{}]), some, _EMPTY_REQUEST)
    recorded = probes.record(
        probed, tower, built.searcher, None if scorer is None else scorer.score
    )
    saved = [getattr(staged, model.part) for model in loaded]
    content = manifest.Content(
        training_id=inputs.training_id or parts.checksum_of(saved),
        dataset_fingerprint=inputs.dataset_fingerprint,
        schema=inputs.schema.to_json(),
        query_fields=query_fields,
        ad_fields=ad_fields,
        heads=heads,
        weights_source=weights_source,
        signatures={model.part: model.signature for model in loaded},
        index=built.manifest_index(recall),
        metrics=dict(inputs.metrics),
        probes={
            "requests": list(inputs.sample_requests[: probes.NUM_PROBES]),
            **recorded,
            "ads": probes.record_ads(inputs.ads, embeddings),
        },
        parts=tuple(part for part in manifest.PARTS if scorer is not None or part != "ranker"),
    )
    _write_warm_ups(staged, content, probed[0], features)
    built.save(staged.ad_index, features, inputs.ads)
    files.write_array(staged.ad_index / QUERIES_FILE, tuning[:_NUM_SAMPLE_QUERIES])
    _check_reproduces(staged, content, tower, ad_tower, scorer)
    for model in loaded:
        model.free()
    return content


def _weighted(
    heads: tuple[manifest.ReleaseHead, ...], schema: Schema
) -> tuple[tuple[manifest.ReleaseHead, ...], str]:
    """Returns the heads with the weights of the schema, if any, and the source of the weights."""
    for weights, source in ((schema.weights, "schema"), (schema.money, "values")):
        given = [float((weights or {}).get(head.label, 0.0)) for head in heads]
        if any(given):
            return tuple(
                dataclasses.replace(head, utility_weight=weight)
                for head, weight in zip(heads, given, strict=True)
            ), source
    return heads, "equal"


def heads_of(outputs: Sequence[str]) -> tuple[manifest.ReleaseHead, ...]:
    """Returns the heads of a ranker by the names of its outputs.

    `LABEL_probability` is a probability, and `expected_LABEL` an amount.
    """
    heads = []
    for output in sorted(outputs):
        if output.endswith("_probability"):
            head = manifest.ReleaseHead(
                output.removesuffix("_probability"), output, manifest.PROBABILITY
            )
        elif output.startswith("expected_"):
            head = manifest.ReleaseHead(output.removeprefix("expected_"), output, manifest.AMOUNT)
        else:
            break
        heads.append(head)
    if len(heads) < len(outputs) or not heads:
        raise errors.BundleError(
            f"ranker: expected outputs such as click_probability, engagement_probability and "
            f"expected_revenue, got {sorted(outputs)}. Name each output LABEL_probability, or "
            "expected_LABEL for an amount."
        )
    return tuple(heads)


def _described(fields: Sequence[Field]) -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": kind}
        | ({"length": field.length} if field.is_vector else {})
        | ({"of": field.name} if name != field.name else {})
        for field in fields
        for name, kind in field.inputs.items()
    ]


def _checked_requests(
    query_fields: models.Fields, ad_fields: models.Fields, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        kinds = [type(rows), *map(type, rows)] if isinstance(rows, Sequence) else [type(rows)]
        raise errors.InvalidRequestError(
            "sample_requests: expected a list of dictionaries, such as [{'country': 'CH'}], got "
            f"{' of '.join(kind.__name__ for kind in dict.fromkeys(kinds))}."
        )
    if not rows:
        raise errors.InvalidRequestError(
            "sample_requests: expected at least one request, got none. Give some requests as "
            "clients will send them; they tune the index and verify the release."
        )
    fields = requests.QueryFields(query_fields, [field["name"] for field in ad_fields])
    checked = []
    for number, row in enumerate(rows):
        try:
            checked.append(fields.merge({}, row))
        except errors.InvalidRequestError as error:
            raise errors.InvalidRequestError(f"sample_requests[{number}]: {error}") from error
    return checked


def _embedded_queries(tower: models.QueryTower, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns embeddings [Q, D] of requests."""
    with embedded_ads.running(tower):
        queries = tower.embed(tower.columns(rows))
        empty = tower.embed(tower.columns([{}]))
    embedded_ads.check_embeddings(tower, queries, len(rows), "sample request {}".format)
    embedded_ads.check_embeddings(tower, empty, 1, lambda _: _EMPTY_REQUEST)
    return queries


def _spread(num_ads: int) -> np.ndarray:
    """Returns up to NUM_CANDIDATES catalog rows, spread over the catalog."""
    return np.linspace(0, num_ads, min(NUM_CANDIDATES, num_ads), endpoint=False).astype(int)


def _index(
    embeddings: np.ndarray, queries: np.ndarray, inputs: ReleaseInputs
) -> tuple[BuiltIndex, float, np.ndarray]:
    """Returns the index, its recall on held-out queries, and the queries that tuned it."""
    tuning, held_out = inputs.tuning_queries, queries
    config = inputs.index_config or IndexConfig()
    if tuning is None:
        tuning = queries[::2]
        held_out = queries[1::2] if len(queries) > 1 else queries
    built = build_index(embeddings, config, tuning_queries=tuning, ads=inputs.ads)
    recall = recall_against_exact(built.searcher, embeddings, held_out, NUM_CANDIDATES)
    reached = recall
    if config.num_candidates != NUM_CANDIDATES:
        reached = recall_against_exact(built.searcher, embeddings, held_out, config.num_candidates)
    # Exact search differs from itself only among ads with equal scores.
    if not built.searcher.is_exact and reached < config.target_recall - _RECALL_MARGIN:
        _logger.warning(
            "index: kind %s finds %.1f %% of the best %d ads of held-out requests; expected at "
            "least %.1f %% (target_recall). Choose another index.",
            built.searcher.kind,
            100 * reached,
            config.num_candidates,
            100 * config.target_recall,
        )
    return built, recall, tuning


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """A ranker whose scores of ads, with features [N, F] int32 and ids [N], are checked."""

    ranker: models.RankerModel
    heads: Sequence[manifest.ReleaseHead]
    features: np.ndarray
    ad_ids: pa.ChunkedArray

    def run(self, columns: requests.Columns, candidates: np.ndarray) -> dict[str, np.ndarray]:
        """Returns output -> scores [B, C] of catalog rows [B, C]."""
        outputs = [head.output for head in self.heads if head.trained]
        with embedded_ads.running(self.ranker):
            return self.ranker.score(columns, self.features[candidates], outputs)

    def score(
        self,
        columns: requests.Columns,
        candidates: np.ndarray,
        request: str = "a sample request",
    ) -> dict[str, np.ndarray]:
        """Returns output -> checked scores [1, C] of a request for catalog rows [C]."""
        scores = self.run(columns, candidates[None])
        kinds = {head.output: head.kind for head in self.heads}
        for output, values in scores.items():
            if values.shape != (1, len(candidates)) or values.dtype != np.float32:
                raise errors.BundleError(
                    f"ranker: expected {output} as float32 [1, {len(candidates)}] for one request "
                    f"and {len(candidates)} ads, got {values.dtype} {list(values.shape)}. Return "
                    "scores [B, C] for ad_features [B, C, F]."
                )
            is_amount = kinds[output] == manifest.AMOUNT
            good = np.isfinite(values[0]) if is_amount else (values[0] >= 0) & (values[0] <= 1)
            bad = np.flatnonzero(~good)
            if len(bad):
                expected = "a finite number" if is_amount else "a probability in [0, 1]"
                ad_id = self.ad_ids[int(candidates[bad[0]])].as_py()
                raise errors.BundleError(
                    f"ranker: expected {expected} as {output}, got {values[0, bad[0]]:g} for the "
                    f"ad {ad_id!r} in {request}. Return the served value, such as the sigmoid of a "
                    "logit, and replace missing values in the model."
                )
        return scores


def _check_reproduces(
    staged: publishing.Staged,
    content: manifest.Content,
    tower: models.QueryTower,
    ad_tower: models.AdTower,
    scorer: _Scorer | None,
) -> None:
    """Checks the probes as a service does."""
    release = manifest.Manifest.create(content, version=staged.version, created="", files={})
    index = AdIndex.open(staged.ad_index, content.index)
    try:
        probes.check_retrieval(release, tower, index)
        probes.check_ad_tower(release, ad_tower, index)
        if scorer is not None:
            scores = scorer.run(probes.query_columns(release), probes.candidate_rows(release))
            probes.check_scores(release, scores)
    except (errors.BundleError, errors.RankerMismatchError) as error:
        raise errors.BundleError(
            "The models: expected the same outputs for a request in a batch and alone, got "
            "different ones, so no service could verify the release. Save them for inference: "
            f"without dropout, and without statistics over the batch. In detail: {error}"
        ) from error


def _write_warm_ups(
    staged: publishing.Staged,
    content: manifest.Content,
    request: requests.Columns,
    features: np.ndarray,
) -> None:
    """Writes the requests that a model server runs when it loads a model."""
    _write_warm_up(staged.query_tower, "query_tower", [request])
    if content.has_ranker:
        counts = [count for count in _WARM_UP_CANDIDATES if count <= len(features)]
        candidates = [{**request, models.FEATURES: features[None, :count]} for count in counts]
        _write_warm_up(staged.ranker, "ranker", candidates)


def _write_warm_up(
    directory: pathlib.Path, model_name: str, inputs: Sequence[Mapping[str, Any]]
) -> None:
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for tensors in inputs:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = models.SIGNATURE
            for name, values in tensors.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
