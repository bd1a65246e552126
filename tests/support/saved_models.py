"""Small SavedModels whose outputs can be computed by hand.

`score`: uid int64 [B], x float32 [B, 2] -> id = uid, s [B] = factor * (x[:, 0] + 2 * x[:, 1]).
`text`: text string [B] -> text, unchanged; signature `binary`: image_bytes -> image_bytes.
`examples`: inputs string [B], serialized tf.Example with x and bias float, y = x / 2 + 2 + bias;
    signatures `regress` -> outputs [B] = y; `classify` -> classes [B, 2] = low, high and scores
    [B, 2] = y, -y; `scores` and `labels` -> one of the two; and some that are wrong.
`loop`: steps int64 [B] -> count [B] = the largest of steps, counted one by one; signature
    `number`: text string [B] -> number [B]; the error of a text that is not a number contains it.
`lookup`: rows int32 [B] -> value [B] = [10, 20, 30][rows], a failing gather beyond 2.
"""

import pathlib
import sys
from typing import Any

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


class _Examples(tf.Module):
    def _y(self, inputs: tf.Tensor) -> tf.Tensor:  # [B]
        default = tf.io.FixedLenFeature([], tf.float32, 0.0)
        parsed = tf.io.parse_example(inputs, {"x": default, "bias": default})
        return parsed["x"] / 2 + 2 + parsed["bias"]

    def _scores(self, inputs: tf.Tensor) -> tf.Tensor:  # [B, 2]
        y = self._y(inputs)
        return tf.stack([y, -y], 1)

    def _labels(self, inputs: tf.Tensor) -> tf.Tensor:  # [B, 2]
        return tf.repeat(tf.constant([["low", "high"]]), tf.size(inputs), 0)

    def signatures(self) -> dict[str, Any]:
        outputs = {
            "serving_default": lambda inputs: {"outputs": self._y(inputs)},
            "regress": lambda inputs: {"outputs": self._y(inputs)[:, tf.newaxis]},
            "classify": lambda inputs: {
                "classes": self._labels(inputs),
                "scores": self._scores(inputs),
            },
            "scores": lambda inputs: {"scores": self._scores(inputs)},
            "labels": lambda inputs: {"classes": self._labels(inputs)},
            "flat_scores": lambda inputs: {"scores": self._y(inputs)},
            "double": lambda inputs: {"outputs": tf.cast(self._y(inputs), tf.float64)},
            "wide": lambda inputs: {"outputs": self._scores(inputs)},
            "one_row": lambda inputs: {"outputs": self._y(inputs)[:1]},
            "other": lambda inputs: {"other": self._y(inputs)},
        }
        spec = tf.TensorSpec([None], tf.string, "inputs")
        return {key: tf.function(call, input_signature=[spec]) for key, call in outputs.items()}


def save_examples(directory: pathlib.Path) -> None:
    """Writes `examples` as the version directory."""
    module = _Examples()
    tf.saved_model.save(module, str(directory), signatures=module.signatures())


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
