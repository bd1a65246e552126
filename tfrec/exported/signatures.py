"""The exported form of the trained models: raw fields in, the encoder inside.

    query_tower   raw query fields                          -> query_embedding [B, D] float32
      for_weights   and head_weights [B, H] float32         -> the same, for weights of the heads
    ad_tower      raw ad fields                             -> ad_embedding [B, D] float32,
                                                               ad_features [B, F] int32
    ranker        raw query fields, ad_features [B, C, F]   -> [B, C] float32 of each head

A raw field is [B] string ("" is missing), [B] float32 (NaN is missing), for a list [B, L] string
("" is padding), or for a vector [B, n] float32 (zeros are missing). The encoder is the one that
made the training data, so serving and training encode in the same way. Vectors are the last columns
of `ad_features`, two float16 values in each: `tf.bitcast(ad_features[..., -k:], tf.float16)`.

The query tower has the signature `for_weights` if it was distilled from the ranker. The heads are
in the order of the manifest, and a request without weights has the default ones.

Shapes: B requests or ads, C candidates, H heads, F columns of ad features, D embedding, L values of
a list, n values of a vector.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrec import calibration, layers, ranking, retrieval
from tfrec.config import CANDIDATE_PARTS
from tfrec.exported import candidate_scores, constants
from tfrecords import encoding


class QueryTowerModule(tf.Module):
    """Raw query fields to the query embedding.

    Attributes:
        serve: The concrete function of the default weights.
        by_signature: Signature -> concrete function.
    """

    def __init__(self, fitted: encoding.FittedSchema, tower: tf.keras.layers.Layer) -> None:
        super().__init__(name="query_tower")
        fields = fitted.schema.query_fields
        encoder = encoding.Encoder(fitted, fields)
        self._encoder = encoder  # Keeps the resources of its text encoders.

        def serve(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"query_embedding": tower(encoder(columns))}

        def for_weights(head_weights: tf.Tensor, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"query_embedding": tower(encoder(columns), head_weights)}

        raw = encoding.input_signature(fields)
        self.serve = _concrete(serve, tower, **raw)
        self.by_signature = {"serving_default": self.serve}
        if isinstance(tower, retrieval.WeightedQueryTower):
            weights = tf.TensorSpec([None, len(tower.heads)], tf.float32, name="head_weights")
            self.by_signature["for_weights"] = _concrete(
                for_weights, tower, head_weights=weights, **raw
            )
        self._variables, self._resources = _read_by(tower, *self.by_signature.values())


class AdTowerModule(tf.Module):
    """Raw ad fields to the ad embedding and the ranker's ad features."""

    def __init__(self, fitted: encoding.FittedSchema, tower: tf.keras.layers.Layer) -> None:
        super().__init__(name="ad_tower")
        encoder = encoding.Encoder(fitted, fitted.schema.ad_fields)
        self._encoder = encoder  # Keeps the resources of its text encoders.

        def serve(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
            ids = encoder(columns)
            return {"ad_embedding": tower(ids), "ad_features": ids}

        raw = encoding.input_signature(fitted.schema.ad_fields)
        self.serve = _concrete(serve, tower, **raw)
        self.by_signature = {"serving_default": self.serve}
        self._variables, self._resources = _read_by(tower, self.serve)


class RankerModule(tf.Module):
    """Raw query fields and encoded ads to calibrated scores, with the current weights.

    Args:
        fitted: The fitted schema.
        model: The trained ranker.
        calibrators: The ranker's calibrators.
        parts: Number of parts of a request's candidates that can be scored in parallel.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        model: ranking.RankingModel,
        calibrators: calibration.Calibrators,
        parts: int = CANDIDATE_PARTS,
    ) -> None:
        super().__init__(name="ranker")
        encoder = encoding.Encoder(fitted, fitted.schema.query_fields)
        self._encoder = encoder  # Keeps the resources of its text encoders.

        def serve(ad_features: tf.Tensor, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = candidate_scores.score_candidates(model, encoder(columns), ad_features, parts)
            scores = calibrators.apply(logits)
            return ranking.undo_down_sampling(scores, fitted.schema.negative_keep_rate)

        schema = fitted.schema
        ad_features = tf.TensorSpec(
            [None, None, encoding.width(schema.ad_fields)], tf.int32, name="ad_features"
        )
        raw = encoding.input_signature(schema.query_fields)
        self.serve = _concrete(serve, model, ad_features=ad_features, **raw)
        self.by_signature = {"serving_default": self.serve}
        self._variables, self._resources = _read_by(model, self.serve)


def _concrete(
    function: Callable[..., dict[str, tf.Tensor]],
    model: tf.Module,
    /,  # A field may be named "model".
    **specs: tf.TensorSpec,
) -> Any:
    """Returns the concrete function of a function that calls a model, for tensors of the specs.

    Variables become constants, except large ones and tables: a call reads only a few of their rows.
    """
    traced = tf.function(function, autograph=layers.needs_autograph(model))
    tables = [*layers.embedding_tables(model), *layers.history_tables(model)]
    with constants.as_constants(model, but=tables):
        return traced.get_concrete_function(**specs)


def _read_by(model: tf.Module, *functions: Any) -> tuple[list[tf.Variable], list[Any]]:
    """Returns the variables and resources of a model that functions read, for a SavedModel to find.

    If found through the model, each Keras layer would be saved with its own functions, which takes
    longer than everything else and is never used.
    """
    variables = [variable for function in functions for variable in function.variables]
    kind = tf.saved_model.experimental.TrackableResource
    return variables, list(model._flatten(predicate=lambda part: isinstance(part, kind)))
