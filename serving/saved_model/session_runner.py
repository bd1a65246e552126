"""Runs a SavedModel in its own session, with tensors fed and fetched by name.

TensorFlow Serving runs models in the same way, so invalid shapes and values cause the same errors
with the same codes.
"""

import contextlib
import contextvars
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import ops

# TensorFlow adds the timeout to a clock of 64-bit nanoseconds.
_MAX_TIMEOUT_MS = 365 * 86_400_000

# For graphs of short sequential operations, which take less time than switching threads.
IN_CALLER = -1
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Python's session prepends this to the message of an operation.
_PYTHON_PREFIX = "Graph execution error:\n\n"

Arrays = dict[str, np.ndarray]

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=math.inf)


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


@contextlib.contextmanager
def deadline_at(deadline: float) -> Iterator[None]:
    """Ends the runs of this thread or task within the block at a time of `time.monotonic`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def session_config(intra_op: int = 0, inter_op: int = 0) -> config_pb2.ConfigProto:
    """Returns a session config with the given numbers of threads.

    Args:
        intra_op: Number of threads within an operation. 0 uses one.
        inter_op: Number of operations that run in parallel. 0 uses the number of cores, and
            `IN_CALLER` runs all operations in the calling thread.
    """
    # An operation on a few hundred rows is too short to split. Independent operations, such as the
    # parts of a ranker's candidates, run faster in parallel.
    return config_pb2.ConfigProto(
        intra_op_parallelism_threads=intra_op or 1,
        inter_op_parallelism_threads=inter_op,
        # The first session of a process configures the shared threads, perhaps with none.
        use_per_session_threads=inter_op != IN_CALLER,
    )


class SessionRunner:
    """A loaded SavedModel. `run` is thread-safe.

    Attributes:
        signature_defs: The signatures by name.
        operation_types: Types of the operations of the graph and its functions, such as "MatMul".
    """

    def __init__(self, path: str, config: config_pb2.ConfigProto | None = None) -> None:
        """Loads the SavedModel.

        Args:
            path: Directory with `saved_model.pb`.
            config: Threads and devices. None uses TensorFlow's defaults.

        Raises:
            StatusError: The SavedModel cannot be loaded.
        """
        merged = config_pb2.ConfigProto()
        merged.gpu_options.allow_growth = True
        if config is not None:
            merged.MergeFrom(config)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=merged)
        self._tensors: dict[str, Any] = {}
        try:
            with graph.as_default():
                meta_graph = _load(self._session, path)
            # Adds operations that were created after the last run of the loader.
            self._session._extend_graph()
        except Exception as error:
            self._session.close()
            raise status_from_exception(error) from error
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = dict(
            meta_graph.signature_def.items()
        )
        graph_def = meta_graph.graph_def
        groups = (graph_def.node, *(function.node_def for function in graph_def.library.function))
        self.operation_types = frozenset(node.op for group in groups for node in group)

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Arrays:
        """Returns the fetched tensors by name.

        Args:
            feeds: Tensor name -> array of the tensor's dtype.
            fetches: Names of the tensors to return.

        Raises:
            StatusError: DEADLINE_EXCEEDED if the deadline of `deadline_at` passed before the run,
                INVALID_ARGUMENT if the graph has no such tensor or an operation's message is not
                UTF-8.
            tf.errors.OpError: An operation failed, or the deadline passed during the run.
        """
        targets = sorted(set(fetches))
        fed = {self._tensor(name): feeds[name] for name in sorted(feeds)}
        fetched = [self._tensor(name) for name in targets]
        options = _run_options(_deadline.get())
        try:
            # The public `Session.run` casts its feeds, replaces shape errors and takes 0.1 ms
            # longer. A callable from `make_callable` has the same timeout for all calls.
            values = self._session._call_tf_sessionrun(options, fed, fetched, [], None)
        except UnicodeDecodeError as error:
            # TensorFlow's binding cannot decode the message, and loses the error code.
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        return {name: _as_array(value) for name, value in zip(targets, values, strict=True)}

    def close(self) -> None:
        """Frees the session. No call may be running, and none may follow."""
        self._tensors.clear()
        graph = self._session.graph
        self._session.close()
        del self._session
        # A graph and its operations are a reference cycle. Without this they accumulate over
        # reloads, and a full garbage collection pauses all requests for 0.15 s.
        ops.dismantle_graph(graph)

    def _tensor(self, name: str) -> Any:
        tensor = self._tensors.get(name)
        if tensor is None:
            try:
                full = name if ":" in name else f"{name}:0"
                tensor = self._session.graph.get_tensor_by_name(full)._as_tf_output()
            except (KeyError, ValueError) as error:
                raise invalid_argument(f"The graph has no tensor {name}.") from error
            self._tensors[name] = tensor
        return tensor


def feeds_of(
    inputs: Mapping[str, str], columns: Mapping[str, np.ndarray | Sequence[bytes]]
) -> Arrays:
    """Returns the feeds of a signature for `SessionRunner.run`.

    Args:
        inputs: Input name -> tensor name.
        columns: Input name -> array, or a list of strings.
    """
    return {
        inputs[name]: column if isinstance(column, np.ndarray) else np.array(column, dtype=object)
        for name, column in columns.items()
    }


def _run_options(deadline: float) -> Any:
    """Returns the options of a run, which the caller deletes; None without a deadline."""
    if deadline == math.inf:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline has passed.")
    options = config_pb2.RunOptions(timeout_in_ms=math.ceil(min(seconds * 1e3, _MAX_TIMEOUT_MS)))
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())


def _as_array(value: Any) -> np.ndarray:
    # The session returns a scalar as a NumPy scalar, and a scalar string as bare bytes.
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _load(session: tf.compat.v1.Session, path: str) -> meta_graph_pb2.MetaGraphDef:
    # `tf.saved_model.load`, which its deprecation notice names, runs functions, not sessions.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], path)
    finally:
        logger.setLevel(level)
