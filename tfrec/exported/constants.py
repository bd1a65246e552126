"""Weights as constants of a traced graph, for serving.

TensorFlow folds expressions of constants and converts constant matrices to the memory layout of the
CPU once, at loading. Matrices in variables are converted in every call.
"""

import contextlib
from collections.abc import Collection, Iterator

import tensorflow as tf

_MAX_CONSTANT_BYTES = 1 << 26


@contextlib.contextmanager
def as_constants(module: tf.Module, but: Collection[tf.Variable] = ()) -> Iterator[None]:
    """Replaces the weights of a module and its parts with constants until the block ends.

    Functions traced inside keep the current weights. Large variables stay variables, as a graph
    holds at most 2 GB; so do metrics, which `add_metric` updates in each call.

    Args:
        module: A built model.
        but: Other variables to keep as variables.
    """
    kept = {variable.ref() for variable in but}
    held: list[tuple[dict[str, object], str, tf.Variable]] = []
    for part in (module, *module.submodules):
        if isinstance(part, tf.keras.metrics.Metric):
            continue
        attributes = vars(part)
        for name, value in attributes.items():
            if not isinstance(value, tf.Variable) or value.ref() in kept or _is_large(value):
                continue
            held.append((attributes, name, value))
    try:
        for attributes, name, variable in held:
            attributes[name] = tf.constant(variable.numpy())
        yield
    finally:
        for attributes, name, variable in held:
            attributes[name] = variable


def _is_large(variable: tf.Variable) -> bool:
    num_elements = variable.shape.num_elements()
    return num_elements is None or num_elements * variable.dtype.size > _MAX_CONSTANT_BYTES
