"""TensorFlow Serving's gRPC services: PredictionService and ModelService."""

import functools
import math
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving import saved_model
from serving.model_server import operations, servable_manager

_OPTIONS = (
    # The default of 4 MB is less than a reply may have.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Otherwise a second server would share the port and take half of the requests.
    ("grpc.so_reuseport", 0),
)
# A message travels in a header, whose size is limited. As in TensorFlow Serving.
_MAX_MESSAGE_BYTES = 1024


def build(
    manager: servable_manager.ServableManager,
    address: str,
    max_threads: int,
    free: threading.Semaphore,
) -> tuple[grpc.Server, int]:
    """Binds a server without starting it; no request waits for a `free` thread."""
    methods = {
        "tensorflow.serving.PredictionService": {
            "Predict": (predict_pb2.PredictRequest, operations.predict),
            "GetModelMetadata": (
                get_model_metadata_pb2.GetModelMetadataRequest,
                operations.model_metadata,
            ),
        },
        "tensorflow.serving.ModelService": {
            "GetModelStatus": (
                get_model_status_pb2.GetModelStatusRequest,
                operations.model_status,
            ),
            "HandleReloadConfigRequest": (
                model_management_pb2.ReloadConfigRequest,
                operations.reload_config,
            ),
        },
    }
    handlers = [
        grpc.method_handlers_generic_handler(
            service,
            {
                name: _method(free, request_type, functools.partial(operation, manager))
                for name, (request_type, operation) in named.items()
            },
        )
        for service, named in methods.items()
    ]
    # One more thread than running requests: it refuses further ones.
    pool = futures.ThreadPoolExecutor(max_threads + 1, thread_name_prefix="grpc")
    server = grpc.server(pool, options=_OPTIONS)
    server.add_generic_rpc_handlers(handlers)
    try:
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Cannot bind gRPC to {address}; is the port in use? ({error})") from error


def _method(
    free: threading.Semaphore, request_type: Any, operation: Callable[[Any], Any]
) -> grpc.RpcMethodHandler:
    def run(request: Any, context: grpc.ServicerContext) -> Any:
        seconds = context.time_remaining()
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        if not free.acquire(blocking=False):
            raise saved_model.StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"
            )
        try:
            with saved_model.deadline_at(deadline):
                return operation(request)
        finally:
            free.release()

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return run(request, context)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            message = status.message.encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES]
            context.abort(status.code, message.decode("utf-8", "ignore"))

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )
