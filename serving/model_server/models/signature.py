"""One signature of a model: what a Predict request may send and ask for.

References: TensorFlow Serving, `servables/tensorflow/predict_util.cc`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving import saved_model
from serving.model_server import tensor_codec

# Each set of fetched outputs is a prepared executor; past this many, all outputs are run instead.
_MAX_PREPARED = 16

Tensor: TypeAlias = tensor_pb2.TensorProto | np.ndarray


class Signature:
    """Checks inputs, runs the graph and names the outputs."""

    def __init__(self, definition: meta_graph_pb2.SignatureDef) -> None:
        """Reads the definition; its feeds are sorted as a session sorts them."""
        self.feeds = {alias: info.name for alias, info in sorted(definition.inputs.items())}
        self.fetches = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self._dtypes = {
            alias: tf.dtypes.as_dtype(info.dtype) for alias, info in definition.inputs.items()
        }
        self._defaults = dict(definition.defaults.items())
        self._feed_order = sorted(self.feeds, key=self.feeds.__getitem__)
        self._fetched: set[tuple[str, ...]] = set()

    def run(
        self,
        runner: saved_model.Runner,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
    ) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Raises:
            StatusError: INVALID_ARGUMENT if the inputs do not fit, and whatever `runner` raises.
        """
        self._check_names(inputs)
        arrays = self._decode(inputs)
        wanted = self._select(output_filter)
        self._check_dtypes(arrays)
        feeds = {self.feeds[alias]: array for alias, array in arrays.items()}
        values = runner.run(feeds, self._targets(wanted))
        return {alias: values[self.fetches[alias]] for alias in wanted}

    def _check_names(self, inputs: Mapping[str, Tensor]) -> None:
        too_few = len(inputs) < len(self.feeds) and not self._defaults
        if len(inputs) <= len(self.feeds) and not too_few:
            return
        raise saved_model.invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(self.feeds)} "
            f"len({_braced(inputs)}) != len({_braced(self.feeds)}). "
            f"Sent extra: {_braced(inputs.keys() - self.feeds.keys())}. "
            f"Missing but required: {_braced(self.feeds.keys() - inputs.keys())}."
        )

    def _decode(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        arrays = {}
        for alias, feed in self.feeds.items():
            tensor = inputs.get(alias, self._defaults.get(alias))
            if tensor is None:
                raise saved_model.invalid_argument(
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
                raise saved_model.invalid_argument(f"tensor parsing error: {alias}") from error
        used = sorted(inputs.keys() & self.feeds.keys())
        if len(used) != len(inputs):
            raise saved_model.invalid_argument(
                f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
                f"request input: {','.join(sorted(inputs))}"
            )
        return arrays

    def _select(self, output_filter: Sequence[str]) -> Sequence[str]:
        seen: set[str] = set()
        for alias in output_filter:
            if alias not in self.fetches:
                raise saved_model.invalid_argument(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {_braced(self.fetches)}."
                )
            if alias in seen:
                raise saved_model.invalid_argument(f"duplicate output tensor alias: {alias}")
            seen.add(alias)
        return output_filter or list(self.fetches)

    def _check_dtypes(self, arrays: Mapping[str, np.ndarray]) -> None:
        for position, alias in enumerate(self._feed_order):
            expected, got = self._dtypes[alias], arrays[alias].dtype
            if got != expected.as_numpy_dtype:
                raise saved_model.invalid_argument(
                    f"Expects arg[{position}] to be {tensor_codec.type_name(expected)} but "
                    f"{tensor_codec.type_name(tf.dtypes.as_dtype(got))} is provided"
                )

    def _targets(self, wanted: Sequence[str]) -> tuple[str, ...]:
        targets = tuple(sorted({self.fetches[alias] for alias in wanted}))
        if targets in self._fetched:
            return targets
        if len(self._fetched) >= _MAX_PREPARED:
            return tuple(self.fetches.values())
        self._fetched.add(targets)
        return targets


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
