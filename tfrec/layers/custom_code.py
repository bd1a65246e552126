"""Detects models that contain custom layers, and provides inputs to test them with."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding, plugins
from tfrecords.fields import Field

# Modules without control flow over tensors. The retrieval task of TFRS has some.
_WITHOUT_CONTROL_FLOW = (
    "tfrec.",
    "tf_keras.",
    "tensorflow.",
    "tensorflow_recommenders.tasks.ranking.",
)
# Number of elements of the largest variable that is compared.
_MAX_STATE = 1 << 20


def ids_error(where: str, error: tf.errors.InvalidArgumentError) -> ValueError:
    """Returns the error of a custom layer that fails for the result of `ids_to_try`."""
    # Keras puts its own line before the reason.
    lines = [line for line in error.message.splitlines() if line]
    reason = next((line for line in lines if "calling layer" not in line), error.message)
    return ValueError(
        f"{where} fails for ids from 0 to the last one of each field: {reason}. The ids of `field` "
        "are below fitted.cardinality(field)."
    )


@contextlib.contextmanager
def check_stateless(model: tf.keras.layers.Layer, where: str) -> Iterator[None]:
    """Checks that the calls of a custom layer in the block do not change its variables.

    Raises:
        ValueError: A variable changes, which serving cannot do, or one is read that the layer does
            not hold, so that it would be neither trained nor saved.
    """
    variables = [variable for variable in model.non_trainable_weights if _is_compared(variable)]
    before = [variable.numpy() for variable in variables]
    with tf.GradientTape() as tape:
        yield
    # A replicated variable is read as its copy on a device.
    copies = tf.distribute.get_strategy().experimental_local_results
    # With the variables of loaded models, which are not weights, but are saved.
    tracked = tf.train.TrackableView(model).descendants()
    weights = {
        copy.ref()
        for variable in tracked
        if isinstance(variable, tf.Variable)
        for copy in copies(variable)
    }
    for variable in tape.watched_variables():
        if variable.ref() not in weights:
            raise ValueError(
                f"{where} reads the variable {variable.name!r}, which is none of its weights, so "
                "it would be neither trained nor saved. Create layers and variables in the "
                "constructor, as attributes, and use layers of tf.keras, which is Keras 2, not "
                "those of keras, which is Keras 3."
            )
    for variable, value in zip(variables, before, strict=True):
        if not np.array_equal(variable.numpy(), value, equal_nan=True):
            raise ValueError(
                f"{where} changes the variable {variable.name!r} outside of training; expected the "
                "same scores and embeddings in every call. Change it only if `training` is true."
            )


def check_operations(graph: tf.Graph, where: str) -> None:
    """Checks that the graph of a custom layer calls no Python.

    Raises:
        ValueError: It does, so it cannot be exported.
    """
    if any(op.type in plugins.PYTHON_OPERATIONS for op in graph.get_operations()):
        raise ValueError(
            f"{where} calls Python, which a model server cannot run. Replace tf.py_function and "
            "tf.numpy_function by TensorFlow operations."
        )


def _is_compared(variable: object) -> bool:
    # Keras also lists tables of lookups; frozen embeddings are too large to copy.
    return (
        isinstance(variable, tf.Variable)
        and variable.dtype != tf.string
        and 0 < (variable.shape.num_elements() or 0) < _MAX_STATE
    )


def needs_autograph(model: tf.Module) -> bool:
    """Returns whether a model or a part of it is defined elsewhere, as in a notebook.

    AutoGraph turns Python control flow over tensors into a graph. No layer of this package has
    any, and tracing without AutoGraph starts training seconds sooner.
    """
    modules = {f"{type(part).__module__}." for part in (model, *model.submodules)}
    return not all(module.startswith(_WITHOUT_CONTROL_FLOW) for module in modules)


def ids_to_try(fitted: encoding.FittedSchema, fields: Sequence[Field]) -> np.ndarray:
    """Returns rows of ids [3, W] int32: the last, the first and the missing value of each field."""
    last = np.ones(encoding.width(fields), np.int32)
    for field, columns in encoding.value_columns(fields):
        # An id of a vector is a pair of its numbers.
        if not field.is_vector:
            last[columns] = fitted.cardinality(field) - 1
    return np.stack([last, np.ones_like(last), np.zeros_like(last)])
