"""Two-stage ad recommender: TFRS retrieval and a multi-head-attention ranker.

    stages = tfrec.train(data_set, "workdir/shop", ranking=tfrec.RankerConfig(epochs=4))

`train` comes from `serving.workflow`, which is loaded on first use.

Importing this package determines which Keras is used. TensorFlow Recommenders needs Keras 2, which
recent TensorFlow offers as `tf_keras` behind an environment variable that is read when `tf.keras`
is first touched. Import `tfrec` before that happens; afterward it is too late, and this module
raises an error. On two cores, TensorFlow uses one thread within an operation, unless
`TF_NUM_INTRAOP_THREADS` is set.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

import tfrecords  # noqa: F401  (TensorFlow starts quietly)

if TYPE_CHECKING:
    from serving.workflow import train
    from tfrec.config import EvaluationConfig, RankerConfig, RetrievalConfig

__version__ = "0.2.0.dev0"
__all__ = ["EvaluationConfig", "RankerConfig", "RetrievalConfig", "train"]


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


def _use_one_thread() -> None:
    """Gives an operation one thread if there are two cores: two would mostly wait for each other.

    Training takes 13 to 18 % less processor time (docs/results.md#training).
    """
    if (os.cpu_count() or 1) <= 2:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


_require_legacy_keras()
_use_one_thread()


def __getattr__(name: str) -> Any:
    if name == "train":
        from serving import workflow

        return workflow.train
    if name in __all__:
        from tfrec import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
