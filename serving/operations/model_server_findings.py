"""Checks a running model server, TensorFlow Serving or the embedded one, against a bundle.

Shapes: P probes, C candidates, D embedding size.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import ranker, releases, requests
from serving.operations import findings

_SIGNATURE = "serving_default"


def served_scores(
    address: str,
    release: releases.Bundle,
    calls: Iterable[tuple[requests.Columns, np.ndarray]],
    timeout_seconds: float,
) -> list[dict[str, np.ndarray]]:
    """Returns the scores of a model server: for each call, output -> [B, C].

    Args:
        address: host:port of the model server's gRPC API.
        release: Loaded release.
        calls: Inputs of each call: query field -> [B] or [B, L], and ad features [B, C, F] int32.
        timeout_seconds: Timeout of each call, in seconds.

    Raises:
        RankerError: The model server returned no scores.
    """
    outputs = release.manifest.outputs.values()
    client = ranker.RankerClient(address, version=release.version, outputs=outputs)

    async def predict_all() -> list[dict[str, np.ndarray]]:
        try:
            return [await client.predict(*inputs, timeout_seconds) for inputs in calls]
        finally:
            await client.close()

    return asyncio.run(predict_all())


class ModelServerCheck:
    """Checks of a model server and the release that it should serve.

    Args:
        address: host:port of its gRPC API.
        release: Loaded release.
        timeout_seconds: Timeout of each call, in seconds.
    """

    def __init__(self, address: str, release: releases.Bundle, timeout_seconds: float) -> None:
        self._address = address
        self._release = release
        self._timeout = timeout_seconds
        # Without the host's http_proxy, as the service connects.
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def look(self) -> Iterator[findings.DoctorFinding]:
        """Yields the result of each check; ends early if the server cannot be reached."""
        place = f"model server {self._address}"
        if not self._release.manifest.has_ranker:
            reason = f"release {self._release.version} has no ranker, so no model server is needed"
            yield findings.DoctorFinding(place, "skipped", reason)
            return
        reachable = findings.finding_of(f"{place}, reachable", self._reachable)
        yield reachable
        if reachable.status != "ok":
            return
        served = findings.finding_of(f"{place}, version of ranker", lambda: self._version("ranker"))
        yield served
        if served.status == "ok":
            yield findings.finding_of(f"{place}, signature of ranker", self._signature)
            yield findings.finding_of(f"{place}, probes of ranker", self._ranker_probes)
        yield findings.finding_of(f"{place}, probes of query_tower", self._tower_probes)

    def _reachable(self) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "ranker"})
        try:
            self._models.GetModelStatus(request, timeout=self._timeout)
        except grpc.RpcError as error:
            # A refused connection fails at once. With other codes, a server has answered.
            found = {
                grpc.StatusCode.UNAVAILABLE: f"no connection: {error.details()}",
                grpc.StatusCode.DEADLINE_EXCEEDED: f"no answer within {self._timeout:g} s",
            }.get(error.code())
            if found is not None:
                raise findings.WrongError(
                    f"a gRPC server at {self._address}",
                    found,
                    "Start it (tfrec serve, or python -m serving.model_server "
                    f"--model_name=ranker --model_base_path={self._release.base.resolve()}/ranker)"
                    ", or set the port of its gRPC API, not of its REST API.",
                ) from error
        return "yes"

    def _version(self, model: str) -> str:
        version = self._release.version
        expected = f"{model} version {version} AVAILABLE"
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
        reply = self._reply(self._models.GetModelStatus, request, expected, model)
        states = {
            status.version: get_model_status_pb2.ModelVersionStatus.State.Name(status.state)
            for status in reply.model_version_status
        }
        listed = ", ".join(f"{number} {state}" for number, state in sorted(states.items()))
        if states.get(version) != "AVAILABLE":
            raise findings.WrongError(expected, listed, self._remedy(model))
        return listed

    def _remedy(self, model: str) -> str:
        return (
            f"Configure it to serve version {self._release.version} of "
            f"{self._release.base.resolve() / model}: set model_version_policy to all "
            "{}, and make the directory available to the server."
        )

    def _signature(self) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"], model_spec=self._spec_of("ranker")
        )
        reply = self._reply(self._predictions.GetModelMetadata, request, "its signatures", "ranker")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(signatures)
        served = signatures.signature_def[_SIGNATURE]
        recorded = self._release.manifest.signatures["ranker"]
        for side in ("inputs", "outputs"):
            expected = {name: _recorded(spec) for name, spec in recorded.get(side, {}).items()}
            found = {name: _served(info) for name, info in getattr(served, side).items()}
            wrong = [name for name, spec in expected.items() if found.get(name) != spec]
            if wrong:
                name, more = wrong[0], f"; {len(wrong) - 1} more" if wrong[1:] else ""
                raise findings.WrongError(
                    f"{side}: {name} {expected[name]}{more}",
                    f"{name} {found.get(name, 'missing')}{more}",
                    "The server serves a different model under this version. "
                    f"{self._remedy('ranker')}",
                )
        outputs = ", ".join(served.outputs)
        return f"{_SIGNATURE} has {len(served.inputs)} inputs and the outputs {outputs}"

    def _spec_of(self, model: str) -> dict[str, Any]:
        return {"name": model, "version": {"value": self._release.version}}

    def _ranker_probes(self) -> str:
        release = self._release
        rows = releases.candidate_rows(release.manifest)
        call = releases.query_columns(release.manifest), release.ad_index.features(rows)
        (scores,) = served_scores(self._address, release, [call], self._timeout)
        releases.check_scores(release.manifest, scores)
        recorded = release.manifest.probes["scores"]
        worst = max(np.abs(scores[name] - np.array(recorded[name])).max() for name in recorded)
        return f"{rows.size} scores of {len(recorded)} outputs differ by at most {worst:.2g}"

    def _tower_probes(self) -> str:
        try:
            self._version("query_tower")
        except findings.WrongError as error:
            raise findings.SkippedError(
                f"not served ({error.found}); not needed, since the orchestrator runs its own"
            ) from error
        request = predict_pb2.PredictRequest(model_spec=self._spec_of("query_tower"))
        for name, column in releases.query_columns(self._release.manifest).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(column))
        reply = self._reply(self._predictions.Predict, request, "embeddings", "query_tower")
        found = tf.make_ndarray(reply.outputs["query_embedding"])
        expected = np.array(self._release.manifest.probes["query_embeddings"], np.float32)
        same_shape = found.shape == expected.shape
        worst = np.abs(found - expected).max() if same_shape else float("inf")
        # The condition is negated so that NaN fails.
        if not worst <= releases.SCORE_TOLERANCE:
            raise findings.WrongError(
                f"the recorded embeddings {list(expected.shape)}, "
                f"within {releases.SCORE_TOLERANCE}",
                f"{list(found.shape)}, which differ by {worst:.2g}",
                self._remedy("query_tower"),
            )
        return f"{len(found)} embeddings differ by at most {worst:.2g}"

    def _reply(self, method: Any, request: message.Message, expected: str, model: str) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            found = f"{error.code().name}: {error.details()}"
            raise findings.WrongError(expected, found, self._remedy(model)) from error


def _recorded(spec: Mapping[str, Any]) -> str:
    return f"{spec['dtype']} {list(spec['shape'])}"


def _served(info: Any) -> str:
    shape = [dim.size for dim in info.tensor_shape.dim]
    return f"{tf.dtypes.as_dtype(info.dtype).name} {shape}"
