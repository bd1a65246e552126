"""Two-stage ad recommender: TFRS retrieval and a multi-head-attention ranker.

Importing this package settles which Keras is used. TensorFlow Recommenders needs
Keras 2, which recent TensorFlow offers as `tf_keras` behind an environment
variable that is read when `tf.keras` is first touched. Import `tfrec` before
that happens; afterwards it is too late, and this module says so.
"""

import os
import sys

import tfrecords  # noqa: F401  (TensorFlow starts quietly)

__version__ = "0.1.0"


def _require_legacy_keras() -> None:
    """Selects Keras 2 for `tf.keras`.

    Raises:
        ImportError: `tf.keras` was used as Keras 3 before `tfrec` was imported.
    """
    if os.environ.setdefault("TF_USE_LEGACY_KERAS", "1").lower() in ("1", "true"):
        if "keras" not in sys.modules or "tensorflow" not in sys.modules:
            return
        import tensorflow as tf

        if tf.keras.Model.__module__.startswith("tf_keras"):
            return
    raise ImportError(
        "tfrec needs Keras 2 (tf_keras) behind tf.keras, but this process already uses "
        "Keras 3. Import tfrec before TensorFlow, or set TF_USE_LEGACY_KERAS=1 in the "
        "environment before Python starts."
    )


_require_legacy_keras()
