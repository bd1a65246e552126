"""The ad tower's SavedModel: embeds and encodes ads that are not in the index yet.

It is loaded only in processes that update a live index. Serving requests does not need it.

Shapes: B ads, D embedding size, F columns of ad features, L values of the longest list.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from serving import errors, requests
from serving.releases import query_tower
from tfrecords import terminal

_EMBEDDING, _FEATURES = "ad_embedding", "ad_features"
_ADS_PER_CALL = 4096


class AdTower:
    """Embeds raw ad fields."""

    def __init__(self, model: Any, signature: Any, fields: requests.QueryFields) -> None:
        # Keeps a reference to the model, which owns the variables.
        self._model = model
        self._signature = signature
        self._fields = fields

    @classmethod
    def load(cls, directory: str | os.PathLike[str], fields: Sequence[Mapping[str, Any]]) -> Self:
        """Loads the SavedModel.

        Args:
            directory: Directory of the SavedModel.
            fields: Ad fields from the manifest.

        Raises:
            ManifestFormatError: The inputs are not the manifest's ad fields, or the outputs are
                not an embedding and features.
        """
        model = tf.saved_model.load(os.fspath(directory))
        signature = model.signatures["serving_default"]
        expected = query_tower.expected_inputs(fields)
        inputs = signature.structured_input_signature[1]
        found = {name: f"{spec.dtype.name} {spec.shape}" for name, spec in inputs.items()}
        outputs = set(signature.structured_outputs)
        if found != expected or outputs != {_EMBEDDING, _FEATURES}:
            raise errors.ManifestFormatError(
                f"{directory}: expected a signature from {expected} to {_EMBEDDING} and "
                f"{_FEATURES}, got {found} to {sorted(outputs)}. Export the bundle again."
            )
        return cls(model, signature, requests.QueryFields(fields, ()))

    def embed(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Embeds and encodes ads.

        Args:
            rows: B mappings from ad field to value, as returned by `requests.check_value`.

        Returns:
            Embeddings [B, D] float32, L2-normalized, and features [B, F] int32 for the ranker.
        """
        starts = range(0, len(rows), _ADS_PER_CALL)
        parts = [
            self._call(rows[first : first + _ADS_PER_CALL])
            for first in terminal.with_progress(starts, "embedding ads", "calls")
        ]
        embeddings, features = zip(*parts, strict=True)
        return np.concatenate(embeddings), np.concatenate(features)

    def _call(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        columns = self._fields.columns(rows)
        outputs = self._signature(**{name: tf.constant(v) for name, v in columns.items()})
        return outputs[_EMBEDDING].numpy(), outputs[_FEATURES].numpy()
