"""A SavedModel in a session of its own, run by the names of its tensors.

The model is loaded as TensorFlow Serving loads it (a graph, a session, tensors fed and fetched by
name), so shapes, ranks and values are judged by the same operations with the same messages.
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import ops

from serving.saved_model import call_deadline, rpc_status

# The words of TensorFlow's session, also for a request whose time was over before its run.
TIMED_OUT = "Timed out waiting for notification"
# TensorFlow adds the time to its clock, in nanoseconds of 64 bits.
_MAX_TIMEOUT_MS = 365 * 86_400_000

Arrays = dict[str, np.ndarray]


# For graphs that are a row of short operations: changing threads takes longer than they do.
IN_CALLER = -1


def session_config(intra_op: int = 0, inter_op: int = 0) -> config_pb2.ConfigProto:
    """Returns the threads of a session.

    Args:
        intra_op: within an operation; 0 for one.
        inter_op: operations that run at once; 0 for one a core, `IN_CALLER` for all in the
            thread of the caller.
    """
    # An operation on some hundred rows is too short to be cut up; what can run beside it, as the
    # parts of a ranker's candidates, is not.
    return config_pb2.ConfigProto(
        intra_op_parallelism_threads=intra_op or 1,
        inter_op_parallelism_threads=inter_op,
        # Those of the process are as its first session wants them, and it may want none.
        use_per_session_threads=inter_op != IN_CALLER,
    )


class SessionRunner:
    """A loaded SavedModel that many threads may run at once."""

    def __init__(
        self,
        path: str,
        tags: Sequence[str] = (tf.saved_model.SERVING,),
        config: config_pb2.ConfigProto | None = None,
    ) -> None:
        """Loads the SavedModel.

        Args:
            path: the directory that holds `saved_model.pb`.
            tags: which of its graphs to load.
            config: threads and devices; TensorFlow's defaults if None.

        Raises:
            StatusError: if the SavedModel cannot be loaded.
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
                meta_graph = _load(self._session, path, tags)
            # What was added after the last run of the load, if anything was.
            self._session._extend_graph()
        except Exception as error:
            self._session.close()
            raise rpc_status.status_from_exception(error) from error
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = dict(
            meta_graph.signature_def.items()
        )

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Arrays:
        """Returns the fetched tensors by name, or ends at the deadline of the request.

        Args:
            feeds: Arrays by tensor name, each of its tensor's type.
            fetches: Tensor names.

        Raises:
            StatusError: DEADLINE_EXCEEDED if `call_deadline` passed before the run,
                INVALID_ARGUMENT or OUT_OF_RANGE if the graph has no such tensor, INVALID_ARGUMENT
                if an operation's message is not UTF-8.
            tf.errors.OpError: whatever the graph's operations raise; DEADLINE_EXCEEDED.
        """
        targets = sorted(set(fetches))
        fed = {self._tensor(name): feeds[name] for name in sorted(feeds)}
        wanted = [self._tensor(name) for name in targets]
        options = _run_options(call_deadline.current_deadline())
        try:
            # `Session.run` around it casts what it is fed, replaces shape errors by its own and
            # takes 0.1 ms longer; a callable made in advance has one time-out for all its calls.
            values = self._session._call_tf_sessionrun(options, fed, wanted, [], None)
        except UnicodeDecodeError as error:
            # TensorFlow's binding cannot raise what the operation said, and hides its code.
            raise rpc_status.invalid_argument(error.object.decode("utf-8", "replace")) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        return {name: _as_array(value) for name, value in zip(targets, values, strict=True)}

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._tensors.clear()
        graph = self._session.graph
        self._session.close()
        del self._session
        # A graph and its operations refer to each other. Left to the garbage collector they pile
        # up over reloads, and a full collection stops all requests for 0.15 s.
        ops.dismantle_graph(graph)

    def _tensor(self, name: str) -> Any:
        tensor = self._tensors.get(name)
        if tensor is None:
            try:
                full = name if ":" in name else f"{name}:0"
                tensor = self._session.graph.get_tensor_by_name(full)._as_tf_output()
            except (KeyError, ValueError) as error:
                raise self._missing(name) from error
            self._tensors[name] = tensor
        return tensor

    def _missing(self, name: str) -> rpc_status.StatusError:
        operation_name, _, index = name.partition(":")
        try:
            operation = self._session.graph.get_operation_by_name(operation_name)
        except (KeyError, ValueError):
            return rpc_status.invalid_argument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found "
                "in the Graph"
            )
        return rpc_status.StatusError(
            grpc.StatusCode.OUT_OF_RANGE,
            f"Node '{operation.name}' (type: '{operation.type}', num of outputs: "
            f"{len(operation.outputs)}) does not have output {index or 0}",
        )


def _run_options(deadline: float) -> Any:
    """Returns the buffer of a run's options, to be deleted; None for a run without a deadline."""
    if deadline == math.inf:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise rpc_status.StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, TIMED_OUT)
    options = config_pb2.RunOptions(timeout_in_ms=math.ceil(min(seconds * 1e3, _MAX_TIMEOUT_MS)))
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())


def _as_array(value: Any) -> np.ndarray:
    # The session returns a scalar as a NumPy scalar, and a scalar string as bare bytes.
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _load(
    session: tf.compat.v1.Session, path: str, tags: Sequence[str]
) -> meta_graph_pb2.MetaGraphDef:
    # The replacement that its deprecation notice names (`tf.saved_model.load`) runs functions,
    # not sessions.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return tf.compat.v1.saved_model.load(session, list(tags), path)
    except (OSError, RuntimeError) as error:
        raise _load_error(error, path, tags) from error
    finally:
        logger.setLevel(level)


def _load_error(error: Exception, path: str, tags: Sequence[str]) -> Exception:
    """Returns what Python's loader raises with the code and words of the C++ one.

    References: TensorFlow, `cc/saved_model/reader.cc`.
    """
    message = str(error)
    if message.startswith("SavedModel file does not exist"):
        return rpc_status.not_found(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. "
            "Check that the directory exists and that you have the right permissions for "
            "accessing it."
        )
    if message.startswith("Cannot parse file"):
        file = os.path.join(path, tf.saved_model.SAVED_MODEL_FILENAME_PB)
        return rpc_status.StatusError(
            grpc.StatusCode.DATA_LOSS, f"Can't parse {file} as binary proto"
        )
    if message.startswith("MetaGraphDef associated with tags"):
        return rpc_status.not_found(
            "Could not find meta graph def matching supplied tags: "
            f"{{ {' '.join(sorted(tags))} }}. To inspect available tag-sets in the SavedModel, "
            "please use the SavedModel CLI: `saved_model_cli`"
        )
    return error
