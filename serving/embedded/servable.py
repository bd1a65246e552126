"""One version of a SavedModel in a session of its own, run by its signatures.

The model is loaded as TensorFlow Serving loads it (a graph, a session, tensors fed and fetched by
name), so shapes, ranks and values are judged by the same operations with the same messages.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework import ops

from serving.embedded import rpc_status, tensor_codec

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# Each set of fetched outputs is a prepared executor; past this many, all outputs are run instead.
_MAX_PREPARED = 16

Tensor: TypeAlias = tensor_pb2.TensorProto | np.ndarray


def session_config(intra_op: int = 0, inter_op: int = 0) -> config_pb2.ConfigProto:
    """Returns the threads of a session.

    Args:
        intra_op: within an operation; 0 for one.
        inter_op: operations that run at once; 0 for all in the thread of the caller.
    """
    # A request of some hundred rows is many short operations: handing them from thread to
    # thread takes longer than they do, and other requests have the other cores.
    return config_pb2.ConfigProto(
        intra_op_parallelism_threads=intra_op or 1, inter_op_parallelism_threads=inter_op or -1
    )


class Servable:
    """A loaded model version that answers predictions from many threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str | os.PathLike[str],
        session_config: config_pb2.ConfigProto | None = None,
    ) -> None:
        """Loads the SavedModel.

        Args:
            name: the model's name.
            version: its version number.
            path: the directory that holds `saved_model.pb`.
            session_config: threads and devices; TensorFlow's defaults if None.

        Raises:
            StatusError: if the SavedModel cannot be loaded.
        """
        self.name = name
        self.version = version
        self.path = os.fspath(path)
        config = config_pb2.ConfigProto()
        config.gpu_options.allow_growth = True
        if session_config is not None:
            config.MergeFrom(session_config)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                meta_graph = _load(self._session, self.path)
        except Exception as error:
            self._session.close()
            raise rpc_status.from_exception(error) from error
        self.signature_defs = dict(meta_graph.signature_def.items())
        self._signatures = {
            key: _Signature(self._session, definition)
            for key, definition in self.signature_defs.items()
        }

    def predict(
        self, signature_name: str, inputs: Mapping[str, Tensor], output_filter: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: the signature's key; the serving default if empty.
            inputs: a tensor, as message or array, for each input without a default.
            output_filter: names of the outputs wanted; all if empty.

        Returns:
            The outputs by name; strings are object arrays of bytes.

        Raises:
            StatusError: FAILED_PRECONDITION if there is no such signature, INVALID_ARGUMENT if
                the inputs do not fit it, and whatever the model's operations raise.
        """
        key = signature_name or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise rpc_status.failed_precondition(f'Serving signature key "{key}" not found.')
        try:
            return self._signatures[key].run(dict(inputs.items()), list(output_filter))
        except tf.errors.OpError as error:
            raise rpc_status.from_exception(error) from error

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._signatures.clear()
        graph = self._session.graph
        self._session.close()
        del self._session
        # A graph and its operations refer to each other. Left to the garbage collector they pile
        # up over reloads, and a full collection stops all requests for 0.15 s.
        ops.dismantle_graph(graph)


class _Signature:
    """One signature, its names sorted as the session sorts what it is fed."""

    def __init__(
        self, session: tf.compat.v1.Session, definition: meta_graph_pb2.SignatureDef
    ) -> None:
        self._session = session
        self._feeds = {alias: info.name for alias, info in sorted(definition.inputs.items())}
        self._fetches = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self._dtypes = {
            alias: tf.dtypes.as_dtype(info.dtype) for alias, info in definition.inputs.items()
        }
        self._defaults = dict(definition.defaults.items())
        self._feed_order = sorted(self._feeds, key=self._feeds.__getitem__)
        self._prepared: dict[tuple[str, ...], Callable[..., list[np.ndarray]]] = {}
        self._lock = threading.Lock()

    def run(
        self, inputs: Mapping[str, Tensor], output_filter: Sequence[str]
    ) -> dict[str, np.ndarray]:
        self._check_names(inputs)
        arrays = self._decode(inputs)
        wanted = self._select(output_filter)
        self._check_dtypes(arrays)
        targets = tuple(sorted({self._fetches[alias] for alias in wanted}))
        targets, call = self._prepare(targets)
        values = dict(
            zip(targets, call(*(arrays[alias] for alias in self._feed_order)), strict=True)
        )
        return {alias: _as_array(values[self._fetches[alias]]) for alias in wanted}

    def _check_names(self, inputs: Mapping[str, Tensor]) -> None:
        too_few = len(inputs) < len(self._feeds) and not self._defaults
        if len(inputs) <= len(self._feeds) and not too_few:
            return
        raise rpc_status.invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(self._feeds)} "
            f"len({_braced(inputs)}) != len({_braced(self._feeds)}). "
            f"Sent extra: {_braced(inputs.keys() - self._feeds.keys())}. "
            f"Missing but required: {_braced(self._feeds.keys() - inputs.keys())}."
        )

    def _decode(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        arrays = {}
        for alias, feed in self._feeds.items():
            tensor = inputs.get(alias, self._defaults.get(alias))
            if tensor is None:
                raise rpc_status.invalid_argument(
                    f"Signature input alias: {alias}(feed name: {feed}) not found in request and "
                    "no default value provided. Inputs expected to be in the request "
                    f"{_braced(inputs)}, or default input alias set: "
                    f"{','.join(sorted(self._defaults))}"
                )
            try:
                arrays[alias] = (
                    tensor if isinstance(tensor, np.ndarray) else tensor_codec.decode(tensor)
                )
            except ValueError as error:
                raise rpc_status.invalid_argument(f"tensor parsing error: {alias}") from error
        used = sorted(inputs.keys() & self._feeds.keys())
        if len(used) != len(inputs):
            raise rpc_status.invalid_argument(
                f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
                f"request input: {','.join(sorted(inputs))}"
            )
        return arrays

    def _select(self, output_filter: Sequence[str]) -> Sequence[str]:
        seen: set[str] = set()
        for alias in output_filter:
            if alias not in self._fetches:
                raise rpc_status.invalid_argument(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {_braced(self._fetches)}."
                )
            if alias in seen:
                raise rpc_status.invalid_argument(f"duplicate output tensor alias: {alias}")
            seen.add(alias)
        return output_filter or list(self._fetches)

    def _check_dtypes(self, arrays: Mapping[str, np.ndarray]) -> None:
        for position, alias in enumerate(self._feed_order):
            expected, got = self._dtypes[alias], arrays[alias].dtype
            if got != expected.as_numpy_dtype:
                raise rpc_status.invalid_argument(
                    f"Expects arg[{position}] to be {tensor_codec.type_name(expected)} but "
                    f"{tensor_codec.type_name(tf.dtypes.as_dtype(got))} is provided"
                )

    def _prepare(
        self, targets: tuple[str, ...]
    ) -> tuple[tuple[str, ...], Callable[..., list[np.ndarray]]]:
        call = self._prepared.get(targets)
        if call is not None:
            return targets, call
        with self._lock:
            if len(self._prepared) >= _MAX_PREPARED:
                targets = tuple(sorted(set(self._fetches.values())))
            if targets not in self._prepared:
                options = config_pb2.CallableOptions(
                    feed=[self._feeds[alias] for alias in self._feed_order], fetch=targets
                )
                # `Session.make_callable` runs `Session.run` when there are feeds, which casts
                # what it is fed, replaces shape errors by its own and takes 0.1 ms longer.
                self._prepared[targets] = self._session._make_callable_from_options(options)
            return targets, self._prepared[targets]


def _as_array(value: Any) -> np.ndarray:
    # The session returns a scalar as a NumPy scalar, and a scalar string as bare bytes.
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _load(session: tf.compat.v1.Session, path: str) -> meta_graph_pb2.MetaGraphDef:
    # The replacement that its deprecation notice names (`tf.saved_model.load`) runs functions,
    # not sessions.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], path)
    finally:
        logger.setLevel(level)


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
