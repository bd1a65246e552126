"""The standard gRPC health check, without its package.

Its messages have one field each, so well-known wrappers of the same wire form replace them.

References: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import threading
from collections.abc import Callable

import grpc
from google.protobuf import wrappers_pb2

_SERVICE = "grpc.health.v1.Health"
_SERVING = 1
_SERVICE_UNKNOWN = 3
_KNOWN = ("", "ModelService", "PredictionService")

_Send = Callable[[wrappers_pb2.Int32Value | None], None]


class HealthService:
    """Answers `Check` and `Watch`: a server that answers is serving."""

    def __init__(self) -> None:
        """Starts without watchers."""
        self._watchers: set[_Send] = set()
        self._lock = threading.Lock()

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the handler to add to a gRPC server."""

        def watch(
            request: wrappers_pb2.StringValue, context: grpc.ServicerContext, send: _Send
        ) -> None:
            self._watch(request, context, send)

        # Otherwise each watcher would occupy one of the threads that answer requests.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        types = {
            "request_deserializer": wrappers_pb2.StringValue.FromString,
            "response_serializer": wrappers_pb2.Int32Value.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(_check, **types),
                "Watch": grpc.unary_stream_rpc_method_handler(watch, **types),
            },
        )

    def close(self) -> None:
        """Ends the streams of all watchers; they would outlast any grace period."""
        with self._lock:
            watchers = list(self._watchers)
            self._watchers.clear()
        for send in watchers:
            send(None)

    def _watch(
        self, request: wrappers_pb2.StringValue, context: grpc.ServicerContext, send: _Send
    ) -> None:
        with self._lock:
            self._watchers.add(send)
        if not context.add_callback(lambda: self._forget(send)):
            self._forget(send)
            return
        # The state never changes; the stream stays open until the watcher or the server ends it.
        known = request.value in _KNOWN
        send(wrappers_pb2.Int32Value(value=_SERVING if known else _SERVICE_UNKNOWN))

    def _forget(self, send: _Send) -> None:
        with self._lock:
            self._watchers.discard(send)


def _check(
    request: wrappers_pb2.StringValue, context: grpc.ServicerContext
) -> wrappers_pb2.Int32Value:
    if request.value not in _KNOWN:
        context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
    return wrappers_pb2.Int32Value(value=_SERVING)
