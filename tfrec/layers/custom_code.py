"""Detects models that contain custom layers, and provides inputs to test them with."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding
from tfrecords.fields import Field

# The retrieval task of TFRS requires it.
_WITHOUT_CONTROL_FLOW = (
    "tfrec.",
    "tf_keras.",
    "tensorflow.",
    "tensorflow_recommenders.tasks.ranking.",
)


def needs_autograph(model: tf.Module) -> bool:
    """Returns whether a model or a part of it is defined elsewhere, as in a notebook.

    AutoGraph turns Python control flow over tensors into a graph. No layer of this package has
    any, and tracing without AutoGraph starts training seconds sooner.
    """
    modules = {f"{type(part).__module__}." for part in (model, *model.submodules)}
    return not all(module.startswith(_WITHOUT_CONTROL_FLOW) for module in modules)


def ids_to_try(fitted: encoding.FittedSchema, fields: Sequence[Field]) -> np.ndarray:
    """Returns rows of ids [3, W] int32: the last, the first and the missing value of each field.

    Args:
        fitted: The fitted schema.
        fields: The fields of a side.
    """
    last = np.ones(encoding.width(fields), np.int32)
    for field, columns in encoding.value_columns(fields):
        # An id of a vector is a pair of its numbers.
        if not field.is_vector:
            last[columns] = fitted.cardinality(field) - 1
    return np.stack([last, np.ones_like(last), np.zeros_like(last)])
