"""Exports a trained two-tower model and ranker as one release bundle.

`tfrec.exported` defines the SavedModels.

Shapes: Q requests, D embedding size.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import tensorflow as tf

from serving import manifest, releases
from serving.index import AD_ID, IndexConfig
from tfrec import calibration, exported, ranking, retrieval
from tfrec.config import CANDIDATE_PARTS
from tfrec.heads import HEADS
from tfrecords import reader
from tfrecords.schema import SHOWN

_NUM_QUERIES = 512
_Module: TypeAlias = exported.QueryTowerModule | exported.AdTowerModule | exported.RankerModule


def export_release(
    base: str | pathlib.Path,
    data_set: reader.DataSet,
    two_tower: retrieval.RetrievalModel,
    model: ranking.RankingModel | None,
    calibrators: calibration.Calibrators,
    index_config: IndexConfig,
    metrics: Mapping[str, Any],
    candidate_parts: int = CANDIDATE_PARTS,
    judged: ranking.JudgedHeads | None = None,
) -> manifest.Manifest:
    """Publishes the next version.

    Args:
        base: Base directory of the bundles.
        data_set: The data set that both models were trained on.
        two_tower: The trained retrieval model.
        model: The trained ranker, or None.
        calibrators: The ranker's calibrators.
        index_config: Configuration of the index.
        metrics: Metrics of the models, for the manifest.
        candidate_parts: Number of parts of a request's candidates that the ranker can score in
            parallel.
        judged: Weights and weaknesses of the heads. None: all have weight 1, and none is weak.

    Returns:
        The published manifest.
    """
    samples = data_set.sample_requests()
    if not samples:
        raise ValueError(
            f"{data_set.directory} has no held-out requests; expected at least one. Use a "
            "larger log."
        )
    fitted = data_set.fitted
    present = () if model is None else tuple(model.heads)
    judged = judged or ranking.JudgedHeads.equal(present)
    inputs = releases.ReleaseInputs(
        ads=display(data_set.catalog()),
        schema=data_set.schema,
        sample_requests=samples,
        index_config=index_config,
        metrics=metrics,
        tuning_queries=query_embeddings(data_set, two_tower, "validation"),
        heads=tuple(
            manifest.ReleaseHead(
                label=head.label,
                output=head.output,
                kind=head.kind.value,
                utility_weight=judged.weights.get(name, 0.0),
                trained=name in present,
                weak=judged.weak.get(name),
            )
            for name, head in HEADS.items()
        ),
        weights_source=judged.source,
        has_ranker=model is not None,
        training_id=training_id_of(data_set, two_tower, model),
        dataset_fingerprint=data_set.fingerprint,
    )

    def write(staged: releases.Staged) -> manifest.Content:
        modules: list[tuple[_Module, pathlib.Path]] = [
            (exported.QueryTowerModule(fitted, two_tower.served_query_tower), staged.query_tower),
            (exported.AdTowerModule(fitted, two_tower.ad_tower), staged.ad_tower),
        ]
        if model is not None:
            ranker = exported.RankerModule(fitted, model, calibrators, candidate_parts)
            modules.append((ranker, staged.ranker))
        for module, directory in modules:
            tf.saved_model.save(module, str(directory), signatures=module.by_signature)
        return releases.assemble(staged, inputs)

    return releases.publish(base, write)


def query_embeddings(
    data_set: reader.DataSet,
    two_tower: retrieval.RetrievalModel,
    split: str,
    max_queries: int = _NUM_QUERIES,
) -> np.ndarray:
    """Embeds requests of a split with a trained tower, [Q, D].

    Validation requests tune an index, and test requests measure it.

    Raises:
        ValueError: The split has no requests.
    """
    queries = retrieval.read_queries(data_set, split, max_queries)
    if not len(queries):
        raise ValueError(
            f"{data_set.directory} has no {split} requests; expected at least one. Use a "
            "larger log."
        )
    return two_tower.embed_queries(queries)


def display(catalog: reader.Catalog) -> pa.Table:
    """Returns the ads for the index: ids, raw fields and values to show."""
    table, fields = catalog.table, catalog.released_fields
    columns = {name: table[name] for name in (AD_ID, SHOWN) if name in table.column_names}
    return pa.table({**columns, **{name: fields[name] for name in fields.column_names}})


def training_id_of(
    data_set: reader.DataSet,
    two_tower: retrieval.RetrievalModel,
    model: ranking.RankingModel | None,
) -> str:
    """Returns the id of a training; the same models of the same data have the same id."""
    digest = hashlib.sha256(data_set.fingerprint.encode())
    for variable in [*two_tower.variables, *([] if model is None else model.variables)]:
        if isinstance(variable, tf.Variable):  # Keras also lists the tables of adapted lookups.
            digest.update(variable.numpy().tobytes())
    return digest.hexdigest()[:16]
