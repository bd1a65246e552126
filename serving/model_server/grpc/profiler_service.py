"""TensorFlow's profiler service: records what the server runs, for TensorBoard.

`tf.profiler.experimental.client.trace("grpc://localhost:8500", logdir, duration_ms=2000)` asks it.
Its messages are declared here as far as they are used.

References: TensorFlow, `tsl/profiler/protobuf/profiler_service.proto` and
    `xla/tsl/profiler/rpc/profiler_service_impl.cc`.
"""

import glob
import os
import shutil
import tempfile
import threading
import time
from typing import Any

import grpc
import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from serving import saved_model
from serving.model_server import config_messages

_SERVICE = "tensorflow.ProfilerService"
# How often a trace looks whether it is to end early.
_STEP_SECONDS = 0.1


class ProfilerService:
    """Traces on demand, one at a time in a process."""

    def __init__(self) -> None:
        """Starts without a trace."""
        self._stopped: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns what the gRPC server asks."""
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Profile": grpc.unary_unary_rpc_method_handler(
                    self._profile,
                    request_deserializer=config_messages.ProfileRequest.FromString,
                    response_serializer=config_messages.ProfileResponse.SerializeToString,
                ),
                "Terminate": grpc.unary_unary_rpc_method_handler(
                    self._terminate,
                    request_deserializer=config_messages.TerminateRequest.FromString,
                ),
            },
        )

    def _profile(self, request: Any, context: grpc.ServicerContext) -> Any:
        stop = threading.Event()
        with self._lock:
            self._stopped[request.session_id] = stop
        try:
            with tempfile.TemporaryDirectory() as directory:
                session = _pywrap_profiler.ProfilerSession()
                session.start(directory, {})
                _wait(request.duration_ms / 1e3, stop, context)
                session.export_to_tb()
                found = glob.glob(os.path.join(directory, "**", "*.xplane.pb"), recursive=True)
                empty = not found or _is_empty(found[0])
                if found:
                    _save(found[0], request)
        except (tf.errors.OpError, OSError) as error:
            context.abort(
                grpc.StatusCode.INTERNAL, saved_model.status_from_exception(error).message
            )
        finally:
            with self._lock:
                self._stopped.pop(request.session_id, None)
        return config_messages.ProfileResponse(empty_trace=empty)

    def _terminate(self, request: Any, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            stop = self._stopped.get(request.session_id)
        if stop is not None:
            stop.set()
        return b""


def _wait(seconds: float, stop: threading.Event, context: grpc.ServicerContext) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and context.is_active():
        if stop.wait(min(left, _STEP_SECONDS)):
            return


def _is_empty(path: str) -> bool:
    with open(path, "rb") as file:
        space = xplane_pb2.XSpace.FromString(file.read())
    return not any(line.events for plane in space.planes for line in plane.lines)


def _save(path: str, request: Any) -> None:
    """Puts the trace where the request wants it, in a directory of the session's own."""
    directory = os.path.join(request.repository_root, os.path.basename(request.session_id))
    os.makedirs(directory, exist_ok=True)
    host = os.path.basename(request.host_name).replace(":", "_")
    shutil.move(path, os.path.join(directory, f"{host}.xplane.pb"))
