"""Embeds and encodes the ads of a release in pieces, from which a killed export resumes.

    embeddings.npy     float32 [N, D]
    ad_features.npy    int32 [N, F]
    embedded.json      `key` of the ads and models, and the number of `ads` that are finished
    collection.json    the collection in Milvus, if any, see `index.build_index`

The arrays are memory-mapped, so that a catalog does not have to fit in memory. The caller has read
the ads: rows appended to the log in the meantime are in the next release.

Shapes: N ads, D embedding size, F columns of ad features.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import tensorflow as tf

from serving import errors, index, saved_model
from serving.releases import models
from tfrecords import files, terminal

ADS_PER_PIECE = 65_536
EMBEDDINGS_FILE, FEATURES_FILE = "embeddings.npy", "ad_features.npy"
_PROGRESS_FILE, _COLLECTION_FILE = "embedded.json", "collection.json"


@dataclasses.dataclass(frozen=True)
class EmbeddedCatalog:
    """The ads of a release, memory-mapped.

    Attributes:
        embeddings: [N, D] float32.
        features: [N, F] int32.
        resume_file: Argument `resume_file` of `index.build_index`.
    """

    embeddings: np.ndarray
    features: np.ndarray
    resume_file: pathlib.Path


def embed(
    directory: pathlib.Path, ad_tower: models.AdTower, ads: pa.Table, model_id: str
) -> EmbeddedCatalog:
    """Embeds ads into files, from the first one that an earlier call did not finish.

    Args:
        directory: Directory of the files. Embeddings of other ads or models are replaced.
        ad_tower: The ad tower.
        ads: N ads with a column for each ad field.
        model_id: Id of the ad tower, which changes with its weights.

    Raises:
        InvalidModelError: The ad tower fails, or returns values that cannot be served.
    """
    directory.mkdir(parents=True, exist_ok=True)
    progress_file = directory / _PROGRESS_FILE
    key = _key(ads, model_id)
    progress = json.loads(progress_file.read_text()) if progress_file.is_file() else {}
    if progress.get("key") != key:
        discard(directory)
        directory.mkdir()
        progress = {}
    done: int = progress.get("ads", 0)
    paths = (directory / EMBEDDINGS_FILE, directory / FEATURES_FILE)
    arrays = [np.load(path, mmap_mode="r+") for path in paths] if done else []
    for first in terminal.with_progress(
        range(done, ads.num_rows, ADS_PER_PIECE), "embedding ads", "pieces"
    ):
        piece = ads.slice(first, ADS_PER_PIECE)
        values = _embedded(ad_tower, piece)
        if not arrays:
            arrays = [
                files.create_array(path, value.dtype, (ads.num_rows, *value.shape[1:]))
                for path, value in zip(paths, values, strict=True)
            ]
        for array, value in zip(arrays, values, strict=True):
            array[first : first + len(value)] = value
            # On disk before the progress file says so.
            array.flush()
        files.write_json(progress_file, {"key": key, "ads": first + piece.num_rows}, durable=True)
    # Mapped again: pages that were written stay in memory otherwise.
    embeddings, features = (np.load(path, mmap_mode="r") for path in paths)
    return EmbeddedCatalog(embeddings, features, directory / _COLLECTION_FILE)


def discard(directory: pathlib.Path) -> None:
    """Removes the files of an export, and its unfinished collection, if any."""
    index.drop_unfinished(directory / _COLLECTION_FILE)
    files.remove(directory)


def _key(ads: pa.Table, model_id: str) -> str:
    digest = hashlib.sha256(model_id.encode())
    for first in range(0, ads.num_rows, ADS_PER_PIECE):
        piece = pa.BufferOutputStream()
        with pa.ipc.new_stream(piece, ads.schema) as writer:
            writer.write_table(ads.slice(first, ADS_PER_PIECE))
        digest.update(piece.getvalue())
    return digest.hexdigest()


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
        raise errors.InvalidModelError(
            f"ad_tower: expected ad_features [{ads.num_rows}, F], got {list(features.shape)}. "
            "Return one row of features for each ad."
        )
    return embeddings, features


@contextlib.contextmanager
def running(model: models.QueryTower | models.AdTower | models.RankerModel) -> Iterator[None]:
    """Converts the errors of a model that is run in the `with` block.

    Raises:
        InvalidModelError: The model fails.
    """
    try:
        yield
    except (tf.errors.OpError, saved_model.StatusError) as error:
        raise errors.InvalidModelError(
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
    """Checks the embeddings of a tower.

    Raises:
        InvalidModelError: The shape is not [num_rows, D], or a value is not finite.
    """
    if values.ndim != 2 or len(values) != num_rows or not values.shape[1]:
        raise errors.InvalidModelError(
            f"{model.part}: expected embeddings [{num_rows}, D] for {num_rows} rows, got "
            f"{list(values.shape)}. Return one vector for each row."
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise errors.InvalidModelError(
            f"{model.part}: expected finite embeddings, got NaN or infinity for "
            f"{name_of(int(bad[0]))} and {len(bad) - 1} more. A missing number is NaN, a missing "
            "string is empty: replace them in the model."
        )
