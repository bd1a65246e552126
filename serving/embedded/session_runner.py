"""A SavedModel in a session of its own, run by the names of its tensors.

The model is loaded as TensorFlow Serving loads it (a graph, a session, tensors fed and fetched by
name), so shapes, ranks and values are judged by the same operations with the same messages.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework import ops

from serving.embedded import rpc_status

Arrays = dict[str, np.ndarray]


class Runner(Protocol):
    """Runs a graph, alone or together with other requests."""

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Arrays:
        """Returns the fetched tensors by name.

        Args:
            feeds: arrays by tensor name, each of its tensor's type.
            fetches: tensor names; one that comes twice is fetched once.

        Raises:
            StatusError, tf.errors.OpError: whatever the graph's operations raise.
        """

    def close(self) -> None:
        """Frees the graph; no call may be running or follow."""


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
        self._prepared: dict[tuple[tuple[str, ...], ...], Callable[..., list[Any]]] = {}
        self._lock = threading.Lock()
        try:
            with graph.as_default():
                meta_graph = _load(self._session, path, tags)
        except Exception as error:
            self._session.close()
            raise rpc_status.from_exception(error) from error
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = dict(
            meta_graph.signature_def.items()
        )

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Arrays:
        """Returns the fetched tensors by name; see `Runner`."""
        names = tuple(sorted(feeds))
        targets = tuple(sorted(set(fetches)))
        call = self._prepared.get((names, targets)) or self._prepare(names, targets)
        values = call(*(feeds[name] for name in names))
        return {name: _as_array(value) for name, value in zip(targets, values, strict=True)}

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._prepared.clear()
        graph = self._session.graph
        self._session.close()
        del self._session
        # A graph and its operations refer to each other. Left to the garbage collector they pile
        # up over reloads, and a full collection stops all requests for 0.15 s.
        ops.dismantle_graph(graph)

    def _prepare(
        self, names: tuple[str, ...], targets: tuple[str, ...]
    ) -> Callable[..., list[Any]]:
        with self._lock:
            if (names, targets) not in self._prepared:
                options = config_pb2.CallableOptions(feed=names, fetch=targets)
                # `Session.make_callable` runs `Session.run` when there are feeds, which casts
                # what it is fed, replaces shape errors by its own and takes 0.1 ms longer.
                self._prepared[names, targets] = self._session._make_callable_from_options(options)
            return self._prepared[names, targets]


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
    finally:
        logger.setLevel(level)
