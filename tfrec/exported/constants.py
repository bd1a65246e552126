"""Weights as constants of a traced graph, for serving.

TensorFlow folds what depends on constants alone, and lays constant matrices out for the
processor once, at loading. Read from variables they would be laid out in every call.
"""

import contextlib
from collections.abc import Collection, Iterator

import tensorflow as tf


@contextlib.contextmanager
def as_constants(module: tf.Module, but: Collection[tf.Variable] = ()) -> Iterator[None]:
    """Lets a module and its parts hold their weights as constants, until the block ends.

    What is traced inside keeps the weights as they are now.

    Args:
        module: A model, built.
        but: Variables that stay variables: a graph holds at most 2 GB.
    """
    kept = {variable.ref() for variable in but}
    held: list[tuple[dict[str, object], str, tf.Variable]] = []
    for part in (module, *module.submodules):
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
