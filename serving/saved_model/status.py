"""Errors with TensorFlow's status codes; TensorFlow, gRPC and absl use the same numbers."""

import functools

import grpc
import tensorflow as tf

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Python's session prepends this to the message of an operation.
_PYTHON_PREFIX = "Graph execution error:\n\n"


class StatusError(Exception):
    """A request or a load that ends in a status other than OK.

    Attributes:
        code: gRPC status code.
        message: Message without the code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


# Each takes the message.
invalid_argument = functools.partial(StatusError, grpc.StatusCode.INVALID_ARGUMENT)
not_found = functools.partial(StatusError, grpc.StatusCode.NOT_FOUND)


def status_from_exception(error: BaseException) -> StatusError:
    """Maps any exception to a status."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        code = _GRPC_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        return StatusError(code, error.message.removeprefix(_PYTHON_PREFIX))
    if isinstance(error, MemoryError):
        return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Out of memory: {error}")
    return StatusError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
