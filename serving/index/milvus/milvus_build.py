"""Fills a Milvus collection with the ads of a release, and drops it.

Shapes: N ads, D embedding size.
"""

import json
import logging
import pathlib
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
from tfrecords import files, terminal

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# A build without progress for this long is stuck: its server is out of space, or lost a node.
_STALLED_SECONDS = 1800.0
# efConstruction of HNSW. It is wider than faiss's 40.
_BUILD_WIDTH = 200


def build(
    embeddings: np.ndarray,
    ads: pa.Table,
    config: IndexConfig,
    resume_file: pathlib.Path | None = None,
) -> tuple[MilvusIndex, dict[str, Any]]:
    """Adds the ads to a new collection, and waits for its index.

    Args:
        embeddings: [N, D] float32; read in pieces.
        ads: N rows of the fields that filters may name.
        config: Kind, parameters and address.
        resume_file: See `build_index`.

    Returns:
        The index, and its build parameters.
    """
    assert config.milvus_uri is not None
    uri = connection.portable(config.milvus_uri)
    client = connection.connect(uri)
    kind, parameters = _structure(config, len(embeddings))
    notes = _Notes(resume_file, uri)
    with connection.calls(uri, "the ads cannot be added"):
        collection = _filled(client, notes, embeddings, ads)
        _make_index(client, collection, kind, parameters, len(embeddings))
    entry = {
        "kind": kind,
        "dimension": embeddings.shape[1],
        "search": {} if kind == "Flat" else {"search_width": config.num_candidates},
        "milvus": {"uri": uri, "collection": collection},
    }
    return MilvusIndex(entry), {"server": client.get_server_version(), **parameters}


class _Notes:
    """The collection of a build and the number of ads in it, in a file that survives a kill."""

    def __init__(self, path: pathlib.Path | None, uri: str) -> None:
        self._path = path
        self._uri = uri
        known = _read_notes(path)
        if known and known["uri"] != uri:
            drop_unfinished(path)
            known = {}
        self.collection: str | None = known.get("collection")
        self.added: int = known.get("added", 0)

    def write(self, collection: str, added: int) -> None:
        self.collection, self.added = collection, added
        if self._path is not None:
            files.write_json(
                self._path, {"uri": self._uri, "collection": collection, "added": added}
            )


def _read_notes(path: pathlib.Path | None) -> dict[str, Any]:
    return json.loads(path.read_text()) if path is not None and path.is_file() else {}


def drop_unfinished(path: pathlib.Path | None) -> None:
    """Drops the collection of an unfinished build; a failure is only logged.

    Args:
        path: `resume_file` of `build_index`. None or a missing file: does nothing.
    """
    notes = _read_notes(path)
    if notes:
        try:
            drop({"milvus": notes})
        except errors.BundleError as error:
            _logger.warning("An unfinished collection was left behind: %s", error)


def _filled(client: Any, notes: _Notes, embeddings: np.ndarray, ads: pa.Table) -> str:
    """Returns a collection with all ads; resumes the one of a killed export."""
    size = max(
        connection.BYTES_PER_CALL // (4 * embeddings.shape[1] + 64 * (1 + ads.num_columns)), 1
    )
    collection = notes.collection
    if collection is None or not client.has_collection(collection):
        collection = f"tfrec_{uuid.uuid4().hex[:16]}"
        notes.write(collection, 0)
        _create(client, collection, embeddings.shape[1], ads)
    elif notes.added < len(embeddings):
        # The process was killed while these rows were being added.
        client.delete(collection, ids=list(range(notes.added, notes.added + size)))
    starts = range(notes.added, len(embeddings), size)
    for first in terminal.with_progress(starts, "adding ads to Milvus", "calls"):
        client.insert(collection, _entities(first, embeddings[first : first + size], ads))
        notes.write(collection, min(first + size, len(embeddings)))
    # Before a flush, searches use an interim index that misses half of the ads.
    client.flush(collection)
    return collection


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
    if client.list_indexes(collection):
        # From an export that was killed while Milvus built it, maybe with other parameters.
        client.release_collection(collection)
        client.drop_index(collection, "embedding")
    index_params = client.prepare_index_params()
    index_params.add_index(
        "embedding", index_type=kind.upper(), metric_type="IP", params=dict(parameters)
    )
    client.create_index(collection, index_params)
    max_indexed, until = -1, 0.0
    while True:
        state = client.describe_index(collection, "embedding")
        if state.get("state") == "Failed":
            raise errors.AdIndexError(
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
                "log), and start the export again, which continues from there."
            )
        time.sleep(_POLL_SECONDS)
    client.load_collection(collection)


def drop(entry: Mapping[str, Any]) -> None:
    """Drops the collection that a manifest names, if it exists.

    Raises:
        IndexUnavailableError: Milvus does not answer.
    """
    uri, collection = entry["milvus"]["uri"], entry["milvus"]["collection"]
    client = connection.connect(uri)
    with connection.calls(uri, f"the collection {collection} cannot be dropped"):
        client.drop_collection(collection, timeout=connection.CALL_SECONDS)
