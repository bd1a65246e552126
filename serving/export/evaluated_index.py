"""The index that an evaluation measures: the published release's, or a new one.

Shapes: N ads, Q queries, D embedding size.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from serving import errors, manifest, releases, requests
from serving.export import release_export
from serving.index import AdIndex, IndexConfig, build_index
from tfrec import evaluation
from tfrecords import reader


def checked_filters(
    filters: dict[str, Any] | None, data_set: reader.DataSet
) -> requests.Filters | None:
    """Returns the filters of a JSON object, as in a request; None if there are none."""
    kinds = {field.name: field.kind for field in data_set.schema.ad_fields}
    return requests.FilterFields(kinds).check(
        None if filters is None else requests.parse(requests.Filters, filters, "filters")
    )


def opener(
    base: pathlib.Path | None,
    data_set: reader.DataSet,
    models: evaluation.Models,
    config: IndexConfig,
    filters: requests.Filters | None,
) -> evaluation.OpenIndex:
    """Returns the function that opens the index for `evaluation.evaluate`."""
    found = _published(base, data_set, models)

    def open_index(embeddings: np.ndarray) -> evaluation.CandidateIndex:
        index, name = found or _built(embeddings, data_set, models, config)
        if filters is None:
            return evaluation.CandidateIndex(name, lambda queries, k: index.search(queries, k)[1])
        eligible = index.eligible(filters)
        return evaluation.CandidateIndex(
            name,
            lambda queries, k: index.search(queries, k)[1],
            f"{json.dumps(filters.to_json())}, which {eligible.count:,} of "
            f"{index.num_ads:,} ads meet",
            lambda queries, k: index.search(queries, k, eligible)[1],
        )

    return open_index


def _published(
    base: pathlib.Path | None, data_set: reader.DataSet, models: evaluation.Models
) -> tuple[AdIndex, str] | None:
    versions = releases.versions(base) if base is not None else []
    if base is None or not versions:
        return None
    version = versions[-1]
    training_id = release_export.training_id_of(data_set, models.two_tower, models.ranker)
    try:
        release = manifest.read(base, version)
        if release.training_id != training_id:
            return None
        index = AdIndex.open(base / "ad_index" / str(version), release.index, num_threads=2)
    except errors.BundleError:
        # A release that cannot be read is not served.
        return None
    return index, f"{index.searcher.kind} of release {version}"


def _built(
    embeddings: np.ndarray,
    data_set: reader.DataSet,
    models: evaluation.Models,
    config: IndexConfig,
) -> tuple[AdIndex, str]:
    """Builds an index as in an export, tuned with validation requests.

    An index for Milvus is built in process, because its collection would belong to no release.
    """
    kind = "HNSW" if config.kind == "DISKANN" else config.kind
    config = dataclasses.replace(config, backend="faiss", milvus_uri=None, kind=kind)
    queries = release_export.query_embeddings(data_set, models.two_tower, "validation")
    built = build_index(embeddings, config, tuning_queries=queries)
    catalog = data_set.catalog()
    index = AdIndex(built.searcher, np.asarray(catalog.features), release_export.display(catalog))
    return index, f"{index.searcher.kind}, built as in an export"
