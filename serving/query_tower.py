"""The query tower's SavedModel, run in process.

Shapes: B requests, D embedding size, L values of the longest list.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from serving import errors, query_fields

_OUTPUT = "query_embedding"
# What a raw field of each kind is to the SavedModel: [B], and [B, L] for lists.
_INPUTS = {
    "categorical": "string (None,)",
    "numeric": "float32 (None,)",
    "categorical_list": "string (None, None)",
}


def inputs_of(
    signature: Any, fields: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the inputs that a tower of these raw fields takes, and those of its signature.

    Args:
        signature: Of the SavedModel.
        fields: The manifest's query or ad fields.
    """
    expected = {field["name"]: _INPUTS[field["kind"]] for field in fields}
    inputs = signature.structured_input_signature[1]
    return expected, {name: f"{spec.dtype.name} {spec.shape}" for name, spec in inputs.items()}


class QueryTower:
    """Embeds raw query fields. Calls from several threads are safe."""

    def __init__(self, model: Any, signature: Any) -> None:
        # The model is kept because its variables die with it.
        self._model = model
        self._signature = signature

    @classmethod
    def load(cls, directory: str | os.PathLike[str], fields: Sequence[Mapping[str, Any]]) -> Self:
        """Loads the SavedModel.

        Args:
            directory: Of the version.
            fields: The manifest's query fields.

        Raises:
            ManifestFormatError: The model takes other fields than the manifest names, or
                gives no embedding.
        """
        model = tf.saved_model.load(os.fspath(directory))
        signature = model.signatures["serving_default"]
        expected, found = inputs_of(signature, fields)
        if found != expected or _OUTPUT not in signature.structured_outputs:
            raise errors.ManifestFormatError(
                f"{directory}: expected a signature from {expected} to {_OUTPUT}, got {found} to "
                f"{sorted(signature.structured_outputs)}. Export the bundle again."
            )
        return cls(model, signature)

    def embed(self, columns: query_fields.Columns) -> np.ndarray:
        """Returns the query embeddings, [B, D] float32, L2-normalised.

        Args:
            columns: Query field -> [B] or [B, L], as `QueryFields.columns` gives them.
        """
        inputs = {name: tf.constant(column) for name, column in columns.items()}
        return self._signature(**inputs)[_OUTPUT].numpy()
