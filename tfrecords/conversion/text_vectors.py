"""The vectors of request texts: each distinct text of the log is encoded once.

Encoders may be slow, and may round differently in another batch. So texts are encoded in the order
of the log, in batches that do not depend on the number of workers, and chunks look their vectors up
by fingerprint.

Shapes: V distinct texts, W columns of a vector.
"""

import pathlib
from collections.abc import Iterable

import numpy as np

from tfrecords import encoding, files
from tfrecords.columns import KeyIndex, Strings, first_seen
from tfrecords.schema import Field


class TextVectors:
    """Finds the vectors of the texts of a field that `write_text_vectors` wrote; memory-mapped."""

    def __init__(self, path: pathlib.Path) -> None:
        self._rows = KeyIndex(files.read_array(_keys_path(path)))
        self._columns = files.read_array(path, mapped=True)

    def find(self, fingerprints: np.ndarray) -> np.ndarray:
        """Returns the columns [N, W] int32 of the vectors of texts by fingerprint [N]."""
        return np.asarray(self._columns[self._rows.find(fingerprints)])


def write_text_vectors(
    encoder: encoding.Encoder, field: Field, chunks: Iterable[Strings], path: pathlib.Path
) -> None:
    """Encodes the distinct texts of a field, and writes their vectors to an `.npy` file.

    Their fingerprints are in a file next to it.
    """
    new = list(first_seen(chunks))
    keys = np.concatenate([strings.fingerprints for strings in new])
    with files.replacing(_keys_path(path)) as partial:
        files.write_array(partial, keys)
    with files.replacing(path) as partial:
        columns = files.create_array(partial, np.int32, (len(keys), field.width))
        first = 0
        for strings in new:
            texts = strings.values.to_numpy(zero_copy_only=False)
            columns[first : first + len(texts)] = encoder.encode_texts(field, texts)
            first += len(texts)
        columns.flush()


def _keys_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".keys.npy")
