"""Small SavedModels whose outputs can be computed by hand.

`score`: uid int64 [B], x float32 [B, 2] -> id = uid, s [B] = factor * (x[:, 0] + 2 * x[:, 1]).
`text`: text string [B] -> text, unchanged; signature `binary`: image_bytes -> image_bytes.
`loop`: steps int64 [B] -> count [B] = the largest of steps, counted one by one; signature
    `number`: text string [B] -> number [B]; the error of a text that is not a number contains it.
`lookup`: rows int32 [B] -> value [B] = [10, 20, 30][rows], a failing gather beyond 2.
"""

import pathlib
import sys

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.model_server import tensor_codec


class _Score(tf.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weights = tf.Variable([[1.0], [2.0]])
        self.factor = tf.Variable(factor)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, "uid"),
            tf.TensorSpec([None, None], tf.float32, "x"),
        ]
    )
    def score(self, uid: tf.Tensor, x: tf.Tensor) -> dict[str, tf.Tensor]:
        score = tf.squeeze(tf.matmul(x, self.weights), 1) * self.factor
        return {"id": tf.identity(uid), "s": score}


class _Text(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": tf.identity(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def binary(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image_bytes": tf.identity(image_bytes)}


class _Lookup(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "rows")])
    def lookup(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"value": tf.gather(tf.constant([10.0, 20.0, 30.0]), rows)}


# What `loop` writes to standard error.
LOOP_BEGINS = "The loop begins."


class _Loop(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "steps")])
    def loop(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        last = tf.reduce_max(steps)
        with tf.control_dependencies([tf.print(LOOP_BEGINS, output_stream=sys.stderr)]):
            last = tf.identity(last)
        count = tf.while_loop(lambda i: i < last, lambda i: i + 1, [tf.constant(0, tf.int64)])[0]
        return {"count": tf.fill(tf.shape(steps), count)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def number(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": tf.strings.to_number(text)}


def save_score(directory: pathlib.Path, factor: float = 1.0) -> None:
    """Writes `score` as the version directory."""
    module = _Score(factor)
    tf.saved_model.save(module, str(directory), signatures=module.score)


def save_text(directory: pathlib.Path) -> None:
    """Writes `text` as the version directory."""
    module = _Text()
    tf.saved_model.save(
        module,
        str(directory),
        signatures={"serving_default": module.text, "binary": module.binary},
    )


def save_lookup(directory: pathlib.Path) -> None:
    """Writes `lookup` as the version directory."""
    module = _Lookup()
    tf.saved_model.save(module, str(directory), signatures=module.lookup)


def save_loop(directory: pathlib.Path) -> None:
    """Writes `loop` as the version directory."""
    module = _Loop()
    tf.saved_model.save(
        module,
        str(directory),
        signatures={"serving_default": module.loop, "number": module.number},
    )


def set_default_input(directory: pathlib.Path, alias: str, value: tf.Tensor) -> None:
    """Gives an input of the default signature a value for requests that lack it."""
    path = directory / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    signature.defaults[alias].CopyFrom(tensor_codec.encode_tensor(value.numpy()))
    path.write_bytes(model.SerializeToString())


def write_warm_up(directory: pathlib.Path, logs: list[prediction_log_pb2.PredictionLog]) -> None:
    """Writes the records that the server replays before the version serves."""
    extra = directory / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
