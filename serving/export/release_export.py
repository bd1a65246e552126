"""Exports a trained two-tower model and ranker as one release bundle.

`tfrec.exported` has the SavedModels.

Shapes: B requests, C candidates, F columns of ad features, D embedding, P probes.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import manifest, releases
from serving.index import (
    AD_ID,
    QUERIES_FILE,
    BuiltIndex,
    IndexConfig,
    build_index,
    recall_against_exact,
)
from serving.requests import QueryFields
from tfrec import calibration, exported, ranking, retrieval
from tfrec.config import CANDIDATE_PARTS
from tfrec.heads import HEADS
from tfrecords import encoding, reader
from tfrecords.schema import NUM_CANDIDATES

NUM_PROBES = 8
CANDIDATES_PER_PROBE = 20
# Kept with the index, to measure recall after updates.
NUM_TUNING_QUERIES = 512
NUM_SAMPLE_QUERIES = 256
WARM_UP_CANDIDATES = (1, 10, NUM_CANDIDATES)
SIGNATURE = "serving_default"


def export_release(
    base: str | pathlib.Path,
    data_set: reader.DataSet,
    two_tower: retrieval.RetrievalModel,
    model: ranking.RankingModel,
    calibrators: calibration.Calibrators,
    index_config: IndexConfig,
    metrics: Mapping[str, Any],
    candidate_parts: int = CANDIDATE_PARTS,
) -> manifest.Manifest:
    """Publishes the next version.

    Args:
        base: Base directory of the bundles.
        data_set: The data set that both models were trained on.
        two_tower: The trained retrieval model.
        model: The trained ranker.
        calibrators: The ranker's calibrators.
        index_config: Configuration of the index.
        metrics: Metrics of the models, for the manifest.
        candidate_parts: Number of parts of a request's candidates that the ranker can score in
            parallel.

    Returns:
        The published manifest.
    """
    fitted, catalog = data_set.fitted, data_set.catalog()
    features = np.asarray(catalog.features)
    embeddings = retrieval.embed_in_batches(two_tower.ad_tower, features)
    tower_module = exported.QueryTowerModule(fitted, two_tower.query_tower)
    ad_module = exported.AdTowerModule(fitted, two_tower.ad_tower)
    ranker_module = exported.RankerModule(fitted, model, calibrators, candidate_parts)
    samples = data_set.sample_requests()
    if not samples:
        raise ValueError(
            f"{data_set.directory} has no held-out requests; expected at least one. Use a "
            "larger log."
        )
    columns = _columns(fitted, samples)
    held_out = _embed(tower_module, columns)
    queries = tuning_queries(data_set, two_tower)
    index = build_index(embeddings, index_config, tuning_queries=queries)
    k = min(NUM_CANDIDATES, len(catalog))
    recall = recall_against_exact(index.searcher, embeddings, held_out, k)
    training_id = training_id_of(data_set, two_tower, model)
    probes = _probes(samples, tower_module, ranker_module, index, features, fitted)
    probes["ads"] = _ad_probes(catalog, embeddings)

    def write(staged: releases.Staged) -> manifest.Content:
        _save(tower_module, staged.query_tower)
        _save(ad_module, staged.ad_tower)
        _save(ranker_module, staged.ranker)
        _write_warm_up(
            staged.query_tower, "query_tower", [{name: v[:1] for name, v in columns.items()}]
        )
        _write_warm_up(
            staged.ranker,
            "ranker",
            [
                {
                    **{name: v[:1] for name, v in columns.items()},
                    "ad_features": features[None, :count],
                }
                for count in WARM_UP_CANDIDATES
                if count <= len(features)
            ],
        )
        index.save(staged.ad_index, features, display(catalog))
        np.save(staged.ad_index / QUERIES_FILE, queries[:NUM_SAMPLE_QUERIES])
        for part in releases.PARTS:
            releases.write_identity(
                part,
                getattr(staged, part),
                training_id=training_id,
                dataset_fingerprint=data_set.fingerprint,
            )
        return manifest.Content(
            training_id=training_id,
            dataset_fingerprint=data_set.fingerprint,
            schema=data_set.schema.to_json(),
            query_fields=[{"name": f.name, "kind": f.kind} for f in data_set.schema.query_fields],
            ad_fields=[{"name": f.name, "kind": f.kind} for f in data_set.schema.ad_fields],
            heads=tuple(
                manifest.ReleaseHead(
                    own.label, own.output, own.kind.value, own.utility_weight, head in model.heads
                )
                for head, own in HEADS.items()
            ),
            signatures={
                "query_tower": _signature(tower_module.serve),
                "ad_tower": _signature(ad_module.serve),
                "ranker": _signature(ranker_module.serve),
            },
            index=index.manifest_index(recall),
            metrics=dict(metrics),
            probes=probes,
        )

    return releases.publish(base, write)


def tuning_queries(data_set: reader.DataSet, two_tower: retrieval.RetrievalModel) -> np.ndarray:
    """Returns embeddings [Q, D] of validation requests, to tune an index.

    The loss of an index is measured on the test requests.
    """
    window = next(iter(data_set.windows("validation")), None)
    if window is None:
        raise ValueError(
            f"{data_set.directory} has no validation requests; expected at least one. Use a "
            "larger log."
        )
    queries = window["query"].numpy()
    rows = retrieval.evenly_spaced(len(queries), NUM_TUNING_QUERIES)
    return retrieval.embed_in_batches(two_tower.query_tower, queries[rows])


def _columns(
    fitted: encoding.FittedSchema, requests: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    schema = fitted.schema
    fields = QueryFields(
        [{"name": f.name, "kind": f.kind} for f in schema.query_fields],
        [f.name for f in schema.ad_fields],
    )
    columns = fields.columns([fields.merge({}, request) for request in requests])
    return {
        name: values if isinstance(values, np.ndarray) else np.array(values, object)
        for name, values in columns.items()
    }


def _embed(module: exported.QueryTowerModule, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    tensors = {name: tf.constant(values) for name, values in columns.items()}
    return module.serve(**tensors)["query_embedding"].numpy()


def _probes(
    samples: Sequence[Mapping[str, Any]],
    tower: exported.QueryTowerModule,
    ranker_module: exported.RankerModule,
    index: BuiltIndex,
    features: np.ndarray,
    fitted: encoding.FittedSchema,
) -> dict[str, Any]:
    requests = list(samples[:NUM_PROBES])
    columns = _columns(fitted, requests)
    embeddings = _embed(tower, columns)
    _, rows = index.searcher.search(embeddings, min(CANDIDATES_PER_PROBE, len(features)))
    scores = ranker_module.serve(
        ad_features=tf.constant(features[rows]),
        **{name: tf.constant(values) for name, values in columns.items()},
    )
    return {
        "requests": requests,
        "query_embeddings": embeddings.tolist(),
        "candidates": rows.tolist(),
        "scores": {name: values.numpy().tolist() for name, values in scores.items()},
    }


def _ad_probes(catalog: reader.Catalog, embeddings: np.ndarray) -> dict[str, Any]:
    """Returns ads whose embeddings the exported ad tower must reproduce."""
    shown = np.ones(len(catalog), bool)
    for column in catalog.fields.columns:
        if pa.types.is_floating(column.type):
            # JSON has no infinity, so such a field cannot be in a probe.
            shown &= ~np.isinf(column.to_numpy())
    rows = np.flatnonzero(shown)
    rows = rows[np.linspace(0, len(rows), NUM_PROBES, endpoint=False).astype(int)[: len(rows)]]
    return {"rows": rows.tolist(), "embeddings": embeddings[rows].tolist()}


def _save(module: Any, directory: pathlib.Path) -> None:
    tf.saved_model.save(module, str(directory), signatures={SIGNATURE: module.serve})


def _write_warm_up(
    directory: pathlib.Path, model_name: str, inputs: Sequence[Mapping[str, np.ndarray]]
) -> None:
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for tensors in inputs:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = SIGNATURE
            for name, values in tensors.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def _signature(function: Any) -> dict[str, dict[str, Any]]:
    # A signature takes positional and keyword inputs by name. The specs of keyword inputs have
    # lower-case names.
    positional, named = function.structured_input_signature
    inputs = {**{spec.name: spec for spec in positional}, **named}
    outputs = function.structured_outputs
    return {
        "inputs": {name: _spec(spec) for name, spec in inputs.items()},
        "outputs": {name: _spec(spec) for name, spec in outputs.items()},
    }


def _spec(spec: Any) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": [-1 if d is None else d for d in spec.shape]}


def display(catalog: reader.Catalog) -> pa.Table:
    """Returns the table of ad ids and raw fields of the index."""
    return catalog.fields.append_column(AD_ID, catalog.ad_ids)


def training_id_of(
    data_set: reader.DataSet, two_tower: retrieval.RetrievalModel, model: ranking.RankingModel
) -> str:
    """Returns the id of a training; the same models of the same data have the same id."""
    digest = hashlib.sha256(data_set.fingerprint.encode())
    for variable in [*two_tower.variables, *model.variables]:
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()[:16]
