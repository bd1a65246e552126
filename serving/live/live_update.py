"""An update of a live index, as a record of the journal.

A record is an Arrow stream. Its rows are the added and changed ads, with their embeddings and
encoded features, so that readers do not need the ad tower. The metadata has the ids of removed ads.

Shapes: B ads, D embedding size, F columns of ad features.
"""

import dataclasses
import json

import numpy as np
import pyarrow as pa

from serving import errors

# Field names never start with two underscores.
_EMBEDDING, _FEATURES = "__embedding__", "__features__"
_REMOVED = b"removed"


@dataclasses.dataclass(frozen=True)
class Update:
    """Ads that were added, changed and removed together.

    Attributes:
        removed: Ids of removed ads.
        ads: [B] added or changed ads: ids and raw fields, each id once.
        embeddings: [B, D] float32.
        features: [B, F] int32.
    """

    removed: tuple[str, ...]
    ads: pa.Table
    embeddings: np.ndarray
    features: np.ndarray


def encode(update: Update) -> bytes:
    """Returns the record of an update."""
    table = update.ads.replace_schema_metadata({_REMOVED: json.dumps(update.removed)})
    for name, values in ((_EMBEDDING, update.embeddings), (_FEATURES, update.features)):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        table = table.append_column(name, column)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(record: bytes) -> Update:
    """Returns the update of a record."""
    try:
        table = pa.ipc.open_stream(record).read_all().combine_chunks()
        removed = json.loads((table.schema.metadata or {})[_REMOVED])
        embeddings = _matrix(table[_EMBEDDING], np.float32)
        features = _matrix(table[_FEATURES], np.int32)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise errors.LiveIndexError(
            f"A record of the live index is not a valid update ({error}). Another version of tfrec "
            "may have written it. Remove the journal and apply its updates again."
        ) from error
    ads = table.drop_columns([_EMBEDDING, _FEATURES]).replace_schema_metadata(None)
    return Update(tuple(removed), ads, embeddings, features)


def _matrix(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.empty(0, dtype), *flat]).reshape(-1, column.type.list_size)
