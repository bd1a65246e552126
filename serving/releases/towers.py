"""The SavedModels of the query tower and the ad tower, run in process.

Every service has the query tower. The ad tower is loaded only in processes that update a live
index: it embeds and encodes ads that are not in the index yet.

Shapes: B requests or ads, D embedding size, F columns of ad features, L values of the longest list.
"""

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving import errors, requests, saved_model
from tfrecords import terminal

_SIGNATURE = "serving_default"
_ADS_PER_CALL = 4096
# SavedModel input of a raw field of each kind: [B], or [B, L] for lists.
_INPUTS = {
    "categorical": "string (None,)",
    "numeric": "float32 (None,)",
    "categorical_list": "string (None, None)",
}


class _Tower:
    """A SavedModel in a session, as a model server runs it. Calls from several threads are safe."""

    outputs: ClassVar[tuple[str, ...]]
    threads: ClassVar[config_pb2.ConfigProto]

    def __init__(
        self, runner: saved_model.SessionRunner, fields: Sequence[Mapping[str, Any]]
    ) -> None:
        signature = runner.signature_defs[_SIGNATURE]
        self._runner = runner
        self._fields = requests.QueryFields(fields, ())
        self._inputs = {name: info.name for name, info in signature.inputs.items()}
        self._outputs = [signature.outputs[name].name for name in self.outputs]
        # Frees the graph of a replaced release without waiting for the garbage collector.
        self._finalizer = weakref.finalize(self, runner.close)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], fields: Sequence[Mapping[str, Any]]) -> Self:
        """Loads the SavedModel.

        Args:
            directory: Directory of the SavedModel.
            fields: The tower's fields from the manifest.

        Raises:
            ManifestFormatError: The directory is not a SavedModel, its inputs are not the
                manifest's fields, or it lacks an output.
        """
        path = os.fspath(directory)
        remedy = "Export the bundle again."
        try:
            runner = saved_model.SessionRunner(path, config=cls.threads)
        except saved_model.StatusError as error:
            raise errors.ManifestFormatError(
                f"{path}: expected a SavedModel, got: {error}. {remedy}"
            ) from error
        signature = runner.signature_defs.get(_SIGNATURE, meta_graph_pb2.SignatureDef())
        expected = {field["name"]: _INPUTS[field["kind"]] for field in fields}
        found = {name: _described(info) for name, info in signature.inputs.items()}
        if found != expected or not set(cls.outputs) <= set(signature.outputs):
            runner.close()
            raise errors.ManifestFormatError(
                f"{path}: expected a signature from {expected} to {', '.join(cls.outputs)}, got "
                f"{found} to {sorted(signature.outputs)}. {remedy}"
            )
        return cls(runner, fields)

    def _run(self, columns: requests.Columns) -> list[np.ndarray]:
        feeds = saved_model.feeds_of(self._inputs, columns)
        found = self._runner.run(feeds, self._outputs)
        return [found[name] for name in self._outputs]


class QueryTower(_Tower):
    """Embeds raw query fields, in 0.4 ms; calling the same function eagerly takes 1.4 ms."""

    outputs = ("query_embedding",)
    threads = saved_model.session_config(inter_op=saved_model.IN_CALLER)

    def embed(self, columns: requests.Columns) -> np.ndarray:
        """Returns the query embeddings [B, D] float32, L2-normalized.

        Args:
            columns: Query field -> [B] or [B, L], as returned by `QueryFields.columns`.
        """
        return self._run(columns)[0]


class AdTower(_Tower):
    """Embeds and encodes raw ad fields."""

    outputs = ("ad_embedding", "ad_features")
    threads = saved_model.session_config(intra_op=os.cpu_count() or 1, inter_op=1)

    def embed(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Embeds and encodes ads.

        Args:
            rows: B mappings from ad field to value, as returned by `requests.check_value`.

        Returns:
            Embeddings [B, D] float32, L2-normalized, and features [B, F] int32 for the ranker.
        """
        starts = range(0, len(rows), _ADS_PER_CALL)
        parts = [
            self._run(self._fields.columns(rows[first : first + _ADS_PER_CALL]))
            for first in terminal.with_progress(starts, "embedding ads", "calls")
        ]
        embeddings, features = zip(*parts, strict=True)
        return np.concatenate(embeddings), np.concatenate(features)


def _described(info: meta_graph_pb2.TensorInfo) -> str:
    sizes = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    return f"{tf.as_dtype(info.dtype).name} {tuple(sizes)}"
