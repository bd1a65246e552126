"""Requests scores from the ranker by plain gRPC, as any client of TensorFlow Serving would.

    python examples/predict_grpc.py --bundle=workdir/quickstart/bundle --address=localhost:8500

Takes seconds. Sends a request whose fields are all missing ("" and NaN) with three ads of the
release's index, and prints the click probabilities [1, 3]. Works against TensorFlow Serving and
against the model server that scripts/serve.py starts.
"""

import pathlib
import sys

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import grpc
import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import errors, manifest, releases
from serving.cli import command_line

flags.DEFINE_string("bundle", "workdir/quickstart/bundle", "Base directory of the bundles.")
flags.DEFINE_string("address", "localhost:8500", "The model server's host and gRPC port.")
FLAGS = flags.FLAGS


def request(base: pathlib.Path) -> predict_pb2.PredictRequest:
    """Makes a request for the stable release: every query field missing, three ads."""
    version = releases.stable(base)
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "ranker"
    message.model_spec.version.value = version
    for field in manifest.read(base, version).query_fields:
        missing = {
            "numeric": np.array([np.nan], np.float32),
            "categorical": np.array([b""]),
            "categorical_list": np.array([[b""]]),  # [B, L]
            "numeric_list": np.array([[np.nan]], np.float32),
            "text": np.array([b""]),
            "dense": np.zeros([1, field.get("length", 0)], np.float32),
        }[field["kind"]]
        message.inputs[field["name"]].CopyFrom(tf.make_tensor_proto(missing))
    ads = np.load(base / "ad_index" / str(version) / "ad_features.npy", mmap_mode="r")[:3]
    message.inputs["ad_features"].CopyFrom(tf.make_tensor_proto(ads[None]))  # [B, C, F]
    return message


def main() -> None:
    try:
        with grpc.insecure_channel(FLAGS.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            answer = stub.Predict(request(pathlib.Path(FLAGS.bundle)), timeout=5)
    except (grpc.RpcError, errors.ServingError) as error:
        sys.exit(f"error: {error.details() if isinstance(error, grpc.RpcError) else error}")
    print(tf.make_ndarray(answer.outputs["click_probability"]))


if __name__ == "__main__":
    command_line.run(main)
