"""Fills a Milvus collection with the ads of a release, and drops it.

Shapes: N ads, D embedding size.
"""

import contextlib
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import errors
from serving.index import index_build
from serving.index.filters import eligibility
from serving.index.kinds import AUTO, EXACT_UP_TO, NUM_NEIGHBORS, IndexConfig
from serving.index.milvus import connection, milvus_fields
from serving.index.milvus.milvus_index import NUM_PARTS, MilvusIndex
from tfrecords import terminal

_POLL_SECONDS = 0.5
# A build without progress for this long is stuck: its server is out of space, or lost a node.
_STALLED_SECONDS = 1800.0
# efConstruction of HNSW. It is wider than faiss's 40.
_BUILD_WIDTH = 200


def build(
    embeddings: np.ndarray,
    ads: pa.Table,
    config: IndexConfig,
) -> tuple[MilvusIndex, dict[str, Any]]:
    """Adds the ads to a new collection, and waits for its index.

    Args:
        embeddings: [N, D] float32; read in pieces.
    """
    assert config.milvus_uri is not None
    uri = connection.portable(config.milvus_uri)
    client = connection.connect(uri)
    kind, parameters = _structure(config, len(embeddings))
    collection = f"tfrec_{uuid.uuid4().hex[:16]}"
    try:
        with connection.calls(uri, "the ads cannot be added"):
            _create(client, collection, embeddings.shape[1], ads)
            _fill(client, collection, embeddings, ads)
            _make_index(client, collection, kind, parameters, len(embeddings))
    except BaseException:
        with contextlib.suppress(errors.IndexUnavailableError):
            drop({"milvus": {"uri": uri, "collection": collection}})
        raise
    entry = {
        "kind": kind,
        "dimension": embeddings.shape[1],
        "search": {} if kind == "Flat" else {"search_width": config.num_candidates},
        "milvus": {"uri": uri, "collection": collection},
    }
    return MilvusIndex(entry), {"server": client.get_server_version(), **parameters}


def _fill(client: Any, collection: str, embeddings: np.ndarray, ads: pa.Table) -> None:
    size = max(
        connection.BYTES_PER_CALL // (4 * embeddings.shape[1] + 64 * (1 + ads.num_columns)), 1
    )
    starts = range(0, len(embeddings), size)
    for first in terminal.with_progress(starts, "adding ads to Milvus", "calls"):
        client.insert(collection, _entities(first, embeddings[first : first + size], ads))
    # Before a flush, searches use an interim index that misses half of the ads.
    client.flush(collection)


def _create(client: Any, collection: str, dimension: int, ads: pa.Table) -> None:
    import pymilvus

    types = pymilvus.DataType
    schema = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", types.INT64, is_primary=True)
    schema.add_field("part", types.INT64)
    schema.add_field("embedding", types.FLOAT_VECTOR, dim=dimension)
    for position, column in enumerate(ads.columns):
        name = milvus_fields.name_of(position)
        kind = eligibility.kind_of(column.type)
        if kind == "categorical_list":
            longest = max(pc.max(pc.list_value_length(column)).as_py() or 0, 1)
            schema.add_field(name, types.ARRAY, element_type=types.INT64, max_capacity=longest)
        else:
            schema.add_field(name, types.DOUBLE if kind == "numeric" else types.INT64)
    client.create_collection(collection, schema=schema, consistency_level="Bounded")


def _entities(first: int, embeddings: np.ndarray, ads: pa.Table) -> list[dict[str, Any]]:
    index_build.check_finite(embeddings, first)
    batch = ads.slice(first, len(embeddings))
    columns = [milvus_fields.encoded(column) for column in batch.columns]
    names = [milvus_fields.name_of(position) for position in range(len(columns))]
    values = zip(*columns, strict=True) if columns else ((),) * len(embeddings)
    vectors = zip(np.ascontiguousarray(embeddings, np.float32), values, strict=True)
    return [
        {
            "row": row,
            "part": row % NUM_PARTS,
            "embedding": vector,
            **dict(zip(names, ad_values, strict=True)),
        }
        for row, (vector, ad_values) in enumerate(vectors, first)
    ]


def _structure(config: IndexConfig, num_ads: int) -> tuple[str, dict[str, Any]]:
    kind = config.kind
    if kind == AUTO:
        kind = "Flat" if num_ads <= EXACT_UP_TO else "HNSW"
    graph = {"M": NUM_NEIGHBORS, "efConstruction": _BUILD_WIDTH}
    return kind, graph if kind == "HNSW" else {}


def _make_index(
    client: Any, collection: str, kind: str, parameters: Mapping[str, Any], num_ads: int
) -> None:
    """Builds the index, and waits until it contains all ads."""
    index_params = client.prepare_index_params()
    index_params.add_index(
        "embedding", index_type=kind.upper(), metric_type="IP", params=dict(parameters)
    )
    client.create_index(collection, index_params)
    max_indexed, until = -1, 0.0
    while True:
        state = client.describe_index(collection, "embedding")
        if state.get("state") == "Failed":
            raise errors.BundleError(
                f"Milvus cannot build a {kind} index of {collection}: "
                f"{state.get('index_state_fail_reason', state)}. Choose another --index."
            )
        indexed = int(state.get("indexed_rows", 0))
        if not int(state.get("pending_index_rows", 0)) and indexed >= num_ads:
            break
        if indexed > max_indexed:
            max_indexed, until = indexed, time.monotonic() + _STALLED_SECONDS
        elif time.monotonic() >= until:
            raise errors.IndexUnavailableError(
                f"Milvus has indexed {indexed:,} of {num_ads:,} ads of {collection}, and none "
                f"more for {_STALLED_SECONDS / 60:g} min. Look at its index nodes (memory, disk, "
                "log), and start the export again."
            )
        time.sleep(_POLL_SECONDS)
    client.load_collection(collection)


def drop(entry: Mapping[str, Any]) -> None:
    """Drops the collection that a manifest names, if it exists."""
    uri, collection = entry["milvus"]["uri"], entry["milvus"]["collection"]
    client = connection.connect(uri)
    with connection.calls(uri, f"the collection {collection} cannot be dropped"):
        client.drop_collection(collection, timeout=connection.CALL_SECONDS)
