"""Logs to data sets: formats, columns, the encoder, conversion, and `tf.data` batches.

    data_set = tfrecords.from_pandas(frame, "schema.json", "workdir/shop/data")

Importing the package does not load TensorFlow; it only suppresses TensorFlow's start messages.
`from_pandas` and `from_arrow` load it on first use.
"""

from typing import TYPE_CHECKING, Any

from tfrecords.terminal import quiet_tensorflow

if TYPE_CHECKING:
    from tfrecords.frames import from_arrow, from_pandas

__all__ = ["from_arrow", "from_pandas"]

quiet_tensorflow()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tfrecords import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
