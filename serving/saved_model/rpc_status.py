"""Errors with TensorFlow's status codes.

TensorFlow, gRPC and absl use the same numbers. HTTP status codes are mapped in a table.

References: TensorFlow Serving, `model_servers/http_server.cc` (the HTTP codes) and
    `model_servers/grpc_status_util.cc` (the length limit of a gRPC message).
"""

import functools
import http

import grpc
import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow_serving.apis import status_pb2

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
_GRPC_MESSAGE_LIMIT = 1024
# Python's session prepends this to the message of an operation.
_PYTHON_PREFIX = "Graph execution error:\n\n"
_HTTP_CODES = {
    grpc.StatusCode.OK: http.HTTPStatus.OK,
    grpc.StatusCode.INVALID_ARGUMENT: http.HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: http.HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: http.HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: http.HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: http.HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: http.HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: http.HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: http.HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: http.HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: http.HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: http.HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: http.HTTPStatus.GATEWAY_TIMEOUT,
}
_CLIENT_CLOSED_REQUEST = 499


class StatusError(Exception):
    """A request or a load that ends in a status other than OK.

    Attributes:
        code: gRPC status code.
        message: Message without the code, worded as in TensorFlow Serving.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    def http_code(self) -> int:
        """Returns the HTTP status that TensorFlow Serving answers with for this code."""
        if self.code is grpc.StatusCode.CANCELLED:
            return _CLIENT_CLOSED_REQUEST
        return _HTTP_CODES.get(self.code, http.HTTPStatus.INTERNAL_SERVER_ERROR).value

    def grpc_message(self) -> str:
        """Returns the message, truncated as in TensorFlow Serving."""
        encoded = self.message.encode("utf-8", "replace")
        if len(encoded) <= _GRPC_MESSAGE_LIMIT:
            return self.message
        # Drops a character that the limit splits.
        return encoded[:_GRPC_MESSAGE_LIMIT].decode("utf-8", "ignore") + "...TRUNCATED"

    def to_proto(self) -> status_pb2.StatusProto:
        """Returns the status as GetModelStatus and HandleReloadConfigRequest report it."""
        return status_pb2.StatusProto(error_code=self.code.value[0], error_message=self.message)


# Each takes the message.
invalid_argument = functools.partial(StatusError, grpc.StatusCode.INVALID_ARGUMENT)
not_found = functools.partial(StatusError, grpc.StatusCode.NOT_FOUND)
failed_precondition = functools.partial(StatusError, grpc.StatusCode.FAILED_PRECONDITION)
unimplemented = functools.partial(StatusError, grpc.StatusCode.UNIMPLEMENTED)


def status_from_exception(error: BaseException) -> StatusError:
    """Maps any exception to a status."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        code = _GRPC_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        return StatusError(code, error.message.removeprefix(_PYTHON_PREFIX))
    if isinstance(error, RecursionError):
        return invalid_argument("Expected a value of fewer nested levels")
    if isinstance(error, MemoryError):
        return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Out of memory: {error}")
    if isinstance(error, FileNotFoundError):
        return not_found(str(error))
    if isinstance(error, protobuf_message.DecodeError):
        return StatusError(grpc.StatusCode.DATA_LOSS, f"Cannot parse a message: {error}")
    return StatusError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
