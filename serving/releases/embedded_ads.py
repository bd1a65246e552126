"""Embeds and encodes the ads of a release in pieces, into memory-mapped files.

A catalog does not have to fit in memory.

Shapes: N ads, D embedding size, F columns of ad features.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import tensorflow as tf

from serving import errors, index, saved_model
from serving.releases import models
from tfrecords import files, terminal

_ADS_PER_PIECE = 65_536


def embed(
    directory: pathlib.Path, ad_tower: models.AdTower, ads: pa.Table
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds ads into files.

    Returns:
        Embeddings [N, D] float32 and features [N, F] int32, memory-mapped.
    """
    paths = directory / "embeddings.npy", directory / "ad_features.npy"
    arrays: list[np.ndarray] = []
    for first in terminal.with_progress(
        range(0, ads.num_rows, _ADS_PER_PIECE), "embedding ads", "pieces"
    ):
        values = _embedded(ad_tower, ads.slice(first, _ADS_PER_PIECE))
        if not arrays:
            arrays = [
                files.create_array(path, value.dtype, (ads.num_rows, *value.shape[1:]))
                for path, value in zip(paths, values, strict=True)
            ]
        for array, value in zip(arrays, values, strict=True):
            array[first : first + len(value)] = value
    del arrays
    # Mapped again: pages that were written stay in memory otherwise.
    embeddings, features = (np.load(path, mmap_mode="r") for path in paths)
    return embeddings, features


def _embedded(ad_tower: models.AdTower, ads: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    with running(ad_tower):
        embeddings, features = ad_tower.embed_table(ads)
    check_embeddings(
        ad_tower,
        embeddings,
        ads.num_rows,
        lambda row: f"ad {ads[index.AD_ID][row].as_py()!r}",
    )
    if features.ndim != 2 or len(features) != ads.num_rows or not features.shape[1]:
        raise errors.BundleError(
            f"ad_tower: expected ad_features [{ads.num_rows}, F], got {list(features.shape)}. "
            "Return one row of features for each ad."
        )
    return embeddings, features


@contextlib.contextmanager
def running(model: models.QueryTower | models.AdTower | models.RankerModel) -> Iterator[None]:
    """Converts the errors of a model that is run in the `with` block."""
    try:
        yield
    except (tf.errors.OpError, saved_model.StatusError) as error:
        raise errors.BundleError(
            f"{model.part}: expected outputs for every ad and request, got the error: "
            f"{error}. Make the model accept all values of its fields, and save it so that "
            "TensorFlow Serving can run it."
        ) from error


def check_embeddings(
    model: models.QueryTower | models.AdTower,
    values: np.ndarray,
    num_rows: int,
    name_of: Callable[[int], str],
) -> None:
    """Checks the embeddings of a tower."""
    if values.ndim != 2 or len(values) != num_rows or not values.shape[1]:
        raise errors.BundleError(
            f"{model.part}: expected embeddings [{num_rows}, D] for {num_rows} rows, got "
            f"{list(values.shape)}. Return one vector for each row."
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise errors.BundleError(
            f"{model.part}: expected finite embeddings, got NaN or infinity for "
            f"{name_of(int(bad[0]))} and {len(bad) - 1} more. A missing number is NaN, a missing "
            "string is empty: replace them in the model."
        )
