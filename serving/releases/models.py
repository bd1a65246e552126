"""The SavedModels of a release, run in process.

    query_tower   raw query fields                         -> query_embedding [B, D] float32
      for_weights   and head_weights [B, H] float32        -> the same (optional signature)
    ad_tower      raw ad fields                            -> ad_embedding [B, D] float32,
                                                              ad_features [B, F] int32 (optional)
    ranker        raw query fields, ad_features [B, C, F]  -> [B, C] float32 of each head

A raw field is [B] string ("" is missing), [B] float32 (NaN is missing), for a list [B, L] string
("" is padding), or for a vector [B, n] float32 (zeros are missing). The ad features of an ad tower
without `ad_features` are the bits of the embedding, which the ranker reads with
`tf.bitcast(ad_features, tf.float32)`.

Every service has the query tower. The ad tower is loaded only in processes that update a live
index: it embeds and encodes ads that are not in the index yet.

The query tower may have a second signature, for queries that depend on the weights of the ranker's
heads, in the order of the manifest.

Shapes: B requests or ads, C candidates, H heads, D embedding size, F columns of ad features,
L values of the longest list, n values of a vector.
"""

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving import errors, requests, saved_model
from tfrecords import plugins

SIGNATURE = "serving_default"
FOR_WEIGHTS, HEAD_WEIGHTS = "for_weights", "head_weights"
FEATURES = "ad_features"
_ADS_PER_CALL = 4096
# SavedModel input of a raw field of each kind: [B], [B, L] for lists, or [B, n] for vectors. A
# history is several inputs.
_INPUTS = {
    "categorical": "string (None,)",
    "numeric": "float32 (None,)",
    "categorical_list": "string (None, None)",
    "numeric_list": "float32 (None, None)",
    "dense": "float32 (None, {length})",
    "text": "string (None,)",
}

Fields = Sequence[Mapping[str, Any]]
_Tensors = dict[str, str]


class _Model:
    """A SavedModel in a session, as a model server runs it. Calls from several threads are safe.

    Attributes:
        part: Part of a release.
        free: Frees the model. No call may be running, and none may follow.
        signature: `inputs` and `outputs`, each name -> `{"dtype", "shape"}`, for the manifest.
    """

    part: ClassVar[str]
    threads: ClassVar[config_pb2.ConfigProto]

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        optional: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self._runner = saved_model.SessionRunner(os.fspath(path), self.threads)
        except saved_model.StatusError as error:
            raise errors.BundleError(
                f"{self.part}: expected a SavedModel, got: {error}. Save the model again with "
                "tf.saved_model.save."
            ) from error
        # Frees the graph of a replaced release without waiting for the garbage collector.
        self.free = weakref.finalize(self, self._runner.close)
        if self._runner.operation_types & plugins.PYTHON_OPERATIONS:
            self._refuse(
                "expected a model of TensorFlow operations, got one that calls Python, which a "
                "model server cannot run. Replace tf.py_function and tf.numpy_function."
            )
        self.signature = self._checked(SIGNATURE, inputs, outputs, optional or {})
        self._inputs, self._outputs = _tensors(self._runner.signature_defs[SIGNATURE])

    def _checked(
        self,
        name: str,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        optional: Mapping[str, str],
    ) -> dict[str, dict[str, Any]]:
        """Returns a signature with these inputs, exactly, and at least these outputs."""
        found = self._runner.signature_defs.get(name)
        if found is None:
            self._refuse(
                f"expected a SavedModel with the signature {name}, got one with "
                f"{sorted(self._runner.signature_defs)}."
            )
        signature = {
            side: {name: _spec(info) for name, info in tensors.items()}
            for side, tensors in (("inputs", found.inputs), ("outputs", found.outputs))
        }
        wanted = {**outputs, **{n: t for n, t in optional.items() if n in found.outputs}}
        given = {name: _spec_text(spec) for name, spec in signature["inputs"].items()}
        produced = {n: spec["dtype"] for n, spec in signature["outputs"].items() if n in wanted}
        faults = [
            f"{side} {tensor!r}: expected {expected.get(tensor, 'none')}, got "
            f"{got.get(tensor, 'none')}."
            for side, expected, got in (("input", inputs, given), ("output", wanted, produced))
            for tensor in {**expected, **got}
            if expected.get(tensor) != got.get(tensor)
        ]
        if faults:
            self._refuse(
                f"the signature {name} does not fit the schema and the other models.\n  "
                + "\n  ".join(faults)
                + "\nSave the model again with this signature, or correct the schema."
            )
        return signature

    def _refuse(self, reason: str) -> NoReturn:
        self.free()
        raise errors.BundleError(f"{self.part}: {reason}")

    def _run(self, columns: Mapping[str, Any], outputs: Sequence[str]) -> list[np.ndarray]:
        names = [self._outputs[output] for output in outputs]
        found = self._runner.run(saved_model.feeds_of(self._inputs, columns), names)
        return [found[name] for name in names]


class QueryTower(_Model):
    """Embeds raw query fields, in 0.4 ms; calling the same function eagerly takes 1.4 ms.

    Attributes:
        num_weights: Number H of heads whose weights it takes; None: it takes no weights.
    """

    part = "query_tower"
    threads = saved_model.session_config(inter_op=saved_model.IN_CALLER)

    def __init__(self, directory: str | os.PathLike[str], query_fields: Fields) -> None:
        super().__init__(directory, _inputs_of(query_fields), {"query_embedding": "float32"})
        self._fields = requests.QueryFields(query_fields, ())
        self.num_weights: int | None = None
        found = self._runner.signature_defs.get(FOR_WEIGHTS)
        if found is not None:
            weights = _spec(found.inputs[HEAD_WEIGHTS])["shape"]
            # H is a number in the shape (None, H).
            num_weights = weights[-1] if weights and weights[-1] > 0 else "H"
            inputs = {**_inputs_of(query_fields), HEAD_WEIGHTS: f"float32 (None, {num_weights})"}
            self._checked(FOR_WEIGHTS, inputs, {"query_embedding": "float32"}, {})
            self._for_weights = _tensors(found)
            self.num_weights = weights[-1]

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> requests.Columns:
        """Lays out checked requests; see `QueryFields.columns`."""
        return self._fields.columns(rows)

    def embed(self, columns: requests.Columns, weights: np.ndarray | None = None) -> np.ndarray:
        """Returns the query embeddings [B, D] float32.

        Args:
            columns: Query field -> [B] or [B, L], as returned by `QueryFields.columns`.
            weights: [B, H] float32 weights of the heads; None: the default weights. The defaults
                are also used for a tower that takes no weights, or a different number of them.
        """
        if weights is None or weights.shape[1] != self.num_weights:
            return self._run(columns, ["query_embedding"])[0]
        inputs, outputs = self._for_weights
        feeds = saved_model.feeds_of(inputs, {**columns, HEAD_WEIGHTS: weights})
        (embeddings,) = self._runner.run(feeds, [outputs["query_embedding"]]).values()
        return embeddings


class AdTower(_Model):
    """Embeds and encodes raw ad fields."""

    part = "ad_tower"
    threads = saved_model.session_config(intra_op=os.cpu_count() or 1, inter_op=1)

    def __init__(self, directory: str | os.PathLike[str], ad_fields: Fields) -> None:
        outputs = {"ad_embedding": "float32"}
        super().__init__(directory, _inputs_of(ad_fields), outputs, {FEATURES: "int32"})
        self._fields = ad_fields

    @property
    def encodes(self) -> bool:
        """Whether the model has its own ad features."""
        return FEATURES in self._outputs

    def embed_table(self, ads: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Embeds and encodes ads.

        Args:
            ads: B rows with a column for each ad field, as in the catalog.

        Returns:
            Embeddings [B, D] float32 and features [B, F] int32 for the ranker.
        """
        starts = range(0, ads.num_rows, _ADS_PER_CALL)
        parts = [
            self._embed(_columns(ads.slice(first, _ADS_PER_CALL), self._fields)) for first in starts
        ]
        embeddings, features = zip(*parts, strict=True)
        return np.concatenate(embeddings), np.concatenate(features)

    def _embed(self, columns: requests.Columns) -> tuple[np.ndarray, np.ndarray]:
        if self.encodes:
            embeddings, features = self._run(columns, ["ad_embedding", FEATURES])
            return embeddings, features
        (embeddings,) = self._run(columns, ["ad_embedding"])
        return embeddings, np.ascontiguousarray(embeddings).view(np.int32)


class RankerModel(_Model):
    """Scores candidates with F columns of ad features."""

    part = "ranker"
    threads = saved_model.session_config()

    def __init__(
        self,
        directory: str | os.PathLike[str],
        query_fields: Fields,
        num_columns: int,
        outputs: Sequence[str] = (),
    ) -> None:
        inputs = {**_inputs_of(query_fields), FEATURES: f"int32 (None, None, {num_columns})"}
        super().__init__(directory, inputs, dict.fromkeys(outputs, "float32"))

    def score(
        self, columns: requests.Columns, ad_features: np.ndarray, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Returns output -> scores [B, C] float32.

        Args:
            columns: Query field -> [B] or [B, L], as returned by `QueryFields.columns`.
            ad_features: [B, C, F] int32.
            outputs: Outputs to compute.
        """
        found = self._run({**columns, FEATURES: ad_features}, outputs)
        return dict(zip(outputs, found, strict=True))


def _inputs_of(fields: Fields) -> dict[str, str]:
    return {field["name"]: _INPUTS[field["kind"]].format(**field) for field in fields}


def _columns(ads: pa.Table, fields: Fields) -> requests.Columns:
    """Returns the columns of a table as the inputs of the ad tower."""
    columns: requests.Columns = {}
    for field in fields:
        name, kind = field["name"], field["kind"]
        column = ads[name].combine_chunks()
        if kind == "dense":
            values = np.zeros((len(column), field["length"]), np.float32)
            flat = column.drop_null().flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
            values[np.flatnonzero(column.is_valid())] = flat.reshape(-1, field["length"])
            columns[name] = values
        elif kind == "numeric":
            columns[name] = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
        elif kind == "categorical_list":
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            padded = np.full((len(column), max(1, lengths.max())), b"", object)
            padded[np.arange(padded.shape[1]) < lengths[:, None]] = _bytes(column.flatten())
            columns[name] = padded
        else:
            columns[name] = _bytes(column)
    return columns


def _bytes(strings: pa.Array) -> np.ndarray:
    return pc.fill_null(strings, "").cast(pa.binary()).to_numpy(zero_copy_only=False)


def _tensors(signature: meta_graph_pb2.SignatureDef) -> tuple[_Tensors, _Tensors]:
    """Returns the names of the tensors of each input and output."""
    inputs, outputs = (
        {name: info.name for name, info in side.items()}
        for side in (signature.inputs, signature.outputs)
    )
    return inputs, outputs


def _spec(info: meta_graph_pb2.TensorInfo) -> dict[str, Any]:
    shape = [dim.size for dim in info.tensor_shape.dim]
    return {"dtype": tf.as_dtype(info.dtype).name, "shape": shape}


def _spec_text(spec: Mapping[str, Any]) -> str:
    sizes = [None if size < 0 else size for size in spec["shape"]]
    return f"{spec['dtype']} {tuple(sizes)}"
