"""Tells models that contain layers of a user."""

import tensorflow as tf

# The retrieval task of TFRS does need it.
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
