"""Checks a custom ranker before and after training, for clear error messages.

Shapes: R requests, which differ, with R candidates each, which are the same for all requests.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers
from tfrec.heads import HEADS
from tfrec.ranking import ranking_model

# Sums of float32 in another order differ by less, in relation to logits above 1.
_TOLERANCE = 1e-3
# Operations whose outputs are probabilities, and those that only rearrange their first input.
_PROBABILITIES = {"Sigmoid", "Softmax"}
_REARRANGING = {"Cast", "ExpandDims", "Identity", "Reshape", "Squeeze", "StridedSlice", "Unpack"}


def check_model(model: ranking_model.RankingModel) -> None:
    """Checks the tasks of a model, and the outputs of `call` for ids at the ends of their ranges.

    Raises:
        ValueError: A head is missing; logits have another shape or type, are probabilities, or are
            not finite or not the same each time; a call changes a variable, reads one that is not a
            weight, or calls Python; the score of a candidate depends on other candidates or
            requests; or the task of a head is missing, is not a TFRS task, or has no loss per row.
    """
    where = f"{type(model).__name__}.call"
    fitted = model._fitted
    query = layers.ids_to_try(fitted, fitted.schema.query_fields)
    ads, requests = layers.ids_to_try(fitted, fitted.schema.ad_fields), len(query)
    inputs = {"query": tf.constant(query), "ad": tf.constant(np.stack([ads] * requests))}
    logits = _call(model, inputs, where)
    _check_heads(model, logits, where)
    for head, head_logits in logits.items():
        _check_tensor(head, head_logits, requests, where)
    with layers.check_stateless(model, where):
        again = _call(model, inputs, where)
    _check_same(logits, again, "between two calls with the same ids", where)
    reordered = _call(model, {**inputs, "ad": inputs["ad"][:, ::-1]}, where)
    reordered = {head: head_logits[:, ::-1] for head, head_logits in reordered.items()}
    rows = [{side: ids[i : i + 1] for side, ids in inputs.items()} for i in range(requests)]
    alone = _concat([_call(model, row, where) for row in rows], 0)
    single = [{**inputs, "ad": inputs["ad"][:, i : i + 1]} for i in range(requests)]
    isolated = _concat([_call(model, candidate, where) for candidate in single], 1)
    isolation = (
        "; expected a score of each candidate alone: lists are padded, and longer at serving"
    )
    for changed, difference in (
        (isolated, f"if other candidates are scored with it{isolation}"),
        (reordered, f"if the candidates are in another order{isolation}"),
        (alone, "if other requests are in the batch; expected the score of each request alone"),
    ):
        _check_same(logits, changed, difference, where)
    _check_graph(model, inputs, where)
    if set(model.tasks) != set(model.heads):
        raise ValueError(
            f"{type(model).__name__}.tasks: expected tasks of {list(model.heads)}, got "
            f"{list(model.tasks)}. To leave a head out of the loss, set its weight to 0."
        )
    for head, task in model.tasks.items():
        _check_task(head, task, type(model).__name__)


def _call(
    model: ranking_model.RankingModel, inputs: Mapping[str, tf.Tensor], where: str
) -> layers.Logits:
    try:
        return model(inputs)
    except tf.errors.InvalidArgumentError as error:
        raise layers.ids_error(where, error) from error


def _concat(parts: list[layers.Logits], axis: int) -> layers.Logits:
    return {head: tf.concat([part[head] for part in parts], axis) for head in parts[0]}


def _check_heads(model: ranking_model.RankingModel, logits: object, where: str) -> None:
    if not isinstance(logits, Mapping) or set(logits) != set(model.heads):
        got = list(logits) if isinstance(logits, Mapping) else type(logits).__name__
        raise ValueError(
            f"{where}: expected a dict with the logits of {list(model.heads)}, got {got}. Return "
            "self.head_logits(features)."
        )


def _check_tensor(head: str, logits: tf.Tensor, size: int, where: str) -> None:
    logits = tf.convert_to_tensor(logits)
    expected = [size, size, 3] if HEADS[head].is_amount else [size, size]
    if list(logits.shape) != expected:
        raise ValueError(
            f"{where}: expected logits of {head} of shape {expected} for {size} requests with "
            f"{size} candidates, got {list(logits.shape)}. Return "
            f"self.head_logits(features [{size}, {size}, W])."
        )
    if logits.dtype != tf.float32:
        raise ValueError(
            f"{where}: expected logits of {head} of type float32, got {logits.dtype.name}. Cast "
            "them with tf.cast(logits, tf.float32)."
        )
    if not bool(tf.reduce_all(tf.math.is_finite(logits))):
        raise ValueError(
            f"{where}: expected finite logits of {head}, got NaN or infinity for ids from 0, which "
            "is missing, to the last one of each field. Look for a division by 0 or a log of 0."
        )


def _check_same(first: layers.Logits, second: layers.Logits, when: str, where: str) -> None:
    for head, values in first.items():
        differences = tf.abs(values - second[head])
        difference = float(tf.reduce_max(differences))
        if not bool(tf.reduce_all(differences <= _TOLERANCE * tf.maximum(1.0, tf.abs(values)))):
            raise ValueError(
                f"{where}: the {head} logit of a candidate changes by {difference:.3g} {when}."
            )


def _check_graph(
    model: ranking_model.RankingModel, inputs: Mapping[str, tf.Tensor], where: str
) -> None:
    autograph = layers.needs_autograph(model)
    traced = tf.function(lambda inputs: model(inputs), autograph=autograph)
    function = traced.get_concrete_function(inputs)
    layers.check_operations(function.graph, where)
    for head, tensor in function.structured_outputs.items():
        operation = tensor.op
        while operation.type in _REARRANGING:
            operation = operation.inputs[0].op
        if operation.type in _PROBABILITIES:
            raise ValueError(
                f"{where}: expected logits of {head}, got the output of a {operation.type.lower()}"
                ", a probability. Return its input: the loss and the calibration take logits."
            )


def _check_task(head: str, task: object, name: str) -> None:
    if not isinstance(task, tfrs.tasks.Ranking):
        raise ValueError(
            f"{name}.tasks[{head!r}]: expected a tfrs.tasks.Ranking, got {type(task).__name__}. "
            "Give a loss as tfrs.tasks.Ranking(loss)."
        )
    reduction = getattr(task._loss, "reduction", tf.keras.losses.Reduction.NONE)
    if reduction != tf.keras.losses.Reduction.NONE:
        raise ValueError(
            f"{name}.tasks[{head!r}]: expected a loss per row, got one with the reduction "
            f"{reduction!r}. Give reduction=tf.keras.losses.Reduction.NONE."
        )
    width = 3 if HEADS[head].is_amount else 1
    try:
        loss = task._loss(y_true=tf.zeros([2, 1]), y_pred=tf.zeros([2, width]), sample_weight=None)
    except TypeError as error:
        raise ValueError(
            f"{name}.tasks[{head!r}]: the loss cannot be called with y_true, y_pred and "
            f"sample_weight: {error}. Give a function with these arguments, or an object of a "
            "subclass of tf.keras.losses.Loss."
        ) from error
    if tf.size(loss) != 2:
        raise ValueError(
            f"{name}.tasks[{head!r}]: expected a loss per row, got losses of shape "
            f"{list(loss.shape)} for labels [2, 1] and predictions [2, {width}]. Return the losses "
            "[2], without tf.reduce_mean or tf.reduce_sum."
        )
