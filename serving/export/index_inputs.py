"""Embeddings of ads and queries for the commands and benchmarks of the index.

Shapes: N ads, Q queries, D embedding size.
"""

import pathlib

import numpy as np

from serving.export import pipeline
from tfrec import retrieval
from tfrecords import reader


def embeddings_from_files(embeddings: str, queries: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads [N, D] and [Q, D] from .npy files, memory-mapped.

    Raises:
        ValueError: A file does not contain such an array.
    """
    ads = _load(embeddings, None)
    return ads, _load(queries, ads.shape[1])


def _load(path: str, dimension: int | None) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path}: expected an array of numpy.save (.npy), got {error}.") from error
    if array.ndim != 2 or array.dtype.kind != "f" or dimension not in (None, array.shape[1]):
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}; expected floats "
            f"[rows, {dimension or 'dimensions'}]. Save the outputs of the towers with numpy.save."
        )
    return array


def trained_tower(workdir: pathlib.Path) -> tuple[reader.DataSet, retrieval.RetrievalModel]:
    """Opens a work directory's data set and its trained tower.

    Raises:
        FileNotFoundError, ValueError: The data set or the tower is missing.
    """
    data_set = pipeline.Pipeline(workdir).data_set()
    return data_set, retrieval.load_two_tower(data_set, workdir / "retrieval")[0]


def ad_embeddings(data_set: reader.DataSet, two_tower: retrieval.RetrievalModel) -> np.ndarray:
    """Embeds the catalog with a trained tower, [N, D]."""
    ads = np.asarray(data_set.catalog().features)
    return retrieval.embed_in_batches(two_tower.ad_tower, ads)
