"""Weights as constants of a traced graph, for serving.

TensorFlow folds expressions of constants and converts constant matrices to the memory layout of the
CPU once, at loading. Matrices in variables are converted in every call.
"""

import contextlib
from collections.abc import Collection, Iterator

import tensorflow as tf


@contextlib.contextmanager
def as_constants(module: tf.Module, but: Collection[tf.Variable] = ()) -> Iterator[None]:
    """Replaces the weights of a module and its parts with constants until the block ends.

    Functions traced inside keep the current weights. Metrics, which `add_metric` updates in each
    call, stay variables.

    Args:
        module: A built model.
        but: Variables to keep as variables; a graph holds at most 2 GB.
    """
    kept = {variable.ref() for variable in but}
    held: list[tuple[dict[str, object], str, tf.Variable]] = []
    for part in (module, *module.submodules):
        if isinstance(part, tf.keras.metrics.Metric):
            continue
        attributes = vars(part)
        for name, value in attributes.items():
            if isinstance(value, tf.Variable) and value.ref() not in kept:
                held.append((attributes, name, value))
    try:
        for attributes, name, variable in held:
            attributes[name] = tf.constant(variable.numpy())
        yield
    finally:
        for attributes, name, variable in held:
            attributes[name] = variable
