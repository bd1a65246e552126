"""A tiny real release bundle, and the servers around it, for the tests of serving.

The models are hashed tables with fixed seeds: no training, but real SavedModels with the
signatures that an export gives.

Shapes: B requests, C candidates, F columns of ad features, D embedding size, P probes,
L values of the longest list.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import pathlib
import socket
import threading
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pytest
import shared
import tensorflow as tf
import waiting
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import (
    index,
    manifest,
    model_config,
    model_server,
    orchestrator,
    process,
    ranker,
    releases,
    requests,
)
from serving.config import HttpConfig, OrchestratorConfig, UserStoreConfig
from serving.requests import Answer, Request
from serving.service import http_server, release_router
from serving.service.rest import app
from tfrecords.schema import SHOWN


def changed(request: requests.Request, **changes: Any) -> requests.Request:
    """Returns a request with some fields replaced, checked like a new one."""
    return requests.parse(requests.Request, {**dict(request), **changes})


QUERY_FIELDS = [
    {"name": "country", "kind": "categorical"},
    {"name": "device", "kind": "categorical"},
    {"name": "age", "kind": "numeric"},
    {"name": "history", "kind": "categorical_list"},
]
AD_KINDS = {
    "advertiser": "categorical",
    "category": "categorical",
    "price": "numeric",
    "tags": "categorical_list",
}
AD_FIELDS = list(AD_KINDS)
# The list `tags` takes two columns.
NUM_AD_COLUMNS = 5
OUTPUTS = {
    "click": "click_probability",
    "engagement": "engagement_probability",
    "revenue": "expected_revenue",
}
KINDS = {"click": "probability", "engagement": "probability_after_click", "revenue": "amount"}
NUM_ADS = 300
DIMENSION = 16
_BUCKETS = 64
_FIELD_SPECS = {
    "country": tf.TensorSpec([None], tf.string, name="country"),
    "device": tf.TensorSpec([None], tf.string, name="device"),
    "age": tf.TensorSpec([None], tf.float32, name="age"),
    "history": tf.TensorSpec([None, None], tf.string, name="history"),
}
_RANKER_SPECS = {
    **_FIELD_SPECS,
    "ad_features": tf.TensorSpec([None, None, NUM_AD_COLUMNS], tf.int32, name="ad_features"),
}
_AD_FIELD_SPECS = {
    "advertiser": tf.TensorSpec([None], tf.string, name="advertiser"),
    "category": tf.TensorSpec([None], tf.string, name="category"),
    "price": tf.TensorSpec([None], tf.float32, name="price"),
    "tags": tf.TensorSpec([None, None], tf.string, name="tags"),
}
PROBE_REQUESTS = [
    {"country": "CH", "device": "phone", "age": 41, "history": ["ad-3", "ad-5"]},
    {"country": "never seen", "device": None, "age": None},
    {"country": None, "device": "tablet", "age": -3.5, "history": ["ad-7"]},
]


class _Embedder(tf.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        table = np.random.default_rng(seed).normal(size=(_BUCKETS, DIMENSION))
        self.table = tf.Variable(table, dtype=tf.float32)

    def embed(self, fields: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns [B, D]."""
        age = tf.where(tf.math.is_nan(fields["age"]), 7.0, tf.sin(fields["age"]))
        buckets = [
            tf.strings.to_hash_bucket_fast(tf.strings.join([name, fields[name]]), _BUCKETS)
            for name in ("country", "device")
        ]
        hashed = tf.add_n([tf.gather(self.table, bucket) for bucket in buckets])
        shown = tf.gather(
            self.table, tf.strings.to_hash_bucket_fast(fields["history"], _BUCKETS)
        )  # [B, L, D]
        present = tf.cast(fields["history"] != "", tf.float32)
        hashed += tf.reduce_sum(shown * present[..., None], axis=1)
        return hashed + age[:, None] * self.table[0]


class QueryTowerModule(_Embedder):
    """Query fields -> query_embedding [B, D]."""

    @tf.function(input_signature=[_FIELD_SPECS])
    def serve(self, fields: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"query_embedding": tf.math.l2_normalize(self.embed(fields), axis=-1)}


class RankerModule(_Embedder):
    """Query fields and ad_features [B, C, F] -> the present heads' scores [B, C]."""

    def __init__(self, seed: int, heads: tuple[str, ...]) -> None:
        super().__init__(seed)
        self._heads = heads

    @tf.function(input_signature=[_RANKER_SPECS])
    def serve(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        query = self.embed(inputs)[:, None, :]
        ads = tf.reduce_sum(tf.gather(self.table, inputs["ad_features"] % _BUCKETS), axis=2)
        logits = tf.reduce_sum(query * ads, axis=-1) / 4.0
        click = tf.sigmoid(logits)
        scores = {
            "click": click,
            "engagement": click * tf.sigmoid(tf.reduce_sum(ads, -1)),
            "revenue": click * tf.exp(tf.sin(logits)),
        }
        return {OUTPUTS[head]: scores[head] for head in self._heads}


class AdTowerModule(tf.Module):
    """Ad fields -> ad_embedding [B, D] and ad_features [B, F]: hashes of the values."""

    def __init__(self) -> None:
        super().__init__()
        table = np.random.default_rng(6).normal(size=(NUM_AD_COLUMNS * 1000, DIMENSION))
        self.table = tf.Variable(table, dtype=tf.float32)

    @tf.function(input_signature=[_AD_FIELD_SPECS])
    def serve(self, fields: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tags = tf.pad(fields["tags"], [[0, 0], [0, 2]])[:, :2]
        price = tf.strings.as_string(fields["price"])
        values = [fields["advertiser"], fields["category"], price, tags[:, 0], tags[:, 1]]
        # The price goes into each column: few advertisers and categories would give many ties.
        columns = [
            tf.strings.to_hash_bucket_fast(tf.strings.join([str(number), value, "|", price]), 1000)
            for number, value in enumerate(values)
        ]
        features = tf.cast(tf.stack(columns, axis=1), tf.int32)
        rows = features + np.arange(NUM_AD_COLUMNS, dtype=np.int32) * 1000
        embedding = tf.reduce_sum(tf.gather(self.table, rows), axis=1)
        return {
            "ad_embedding": tf.math.l2_normalize(embedding, axis=-1),
            "ad_features": features,
        }


@functools.cache
def _encoded_ads(num_ads: int) -> dict[str, np.ndarray]:
    """Returns the outputs of the ad tower for the ads of `ads_table`."""
    ads = ads_table(num_ads).to_pydict()
    inputs = {
        name: tf.constant([value or "" for value in ads[name]])
        for name in ("advertiser", "category")
    }
    inputs["price"] = tf.constant(ads["price"], tf.float32)
    inputs["tags"] = tf.constant([(value or ["", ""]) for value in ads["tags"]], tf.string)
    tower = AdTowerModule()
    return {name: value.numpy() for name, value in tower.serve(inputs).items()}


def ad_features(num_ads: int = NUM_ADS) -> np.ndarray:
    """Returns the encoded ads, [N, F] int32."""
    return _encoded_ads(num_ads)["ad_features"]


def ad_embeddings(num_ads: int = NUM_ADS) -> np.ndarray:
    """Returns the ads' embeddings, [N, D] float32, of unit length."""
    return _encoded_ads(num_ads)["ad_embedding"]


def ads_table(num_ads: int = NUM_ADS) -> pa.Table:
    """Returns the ad ids and the raw ad fields; some prices are NaN, some have tags."""
    return pa.table(
        {
            index.AD_ID: [f"ad-{row}" for row in range(num_ads)],
            "advertiser": [f"advertiser-{row % 9}" for row in range(num_ads)],
            "category": [None if row % 5 == 0 else f"c{row % 4}" for row in range(num_ads)],
            "price": [float("nan") if row % 7 == 0 else row / 2 for row in range(num_ads)],
            # Null, an empty list and two values in turn.
            "tags": pa.array(
                [[None, [], ["new", f"t{row}"]][row % 3] for row in range(num_ads)],
                pa.list_(pa.string()),
            ),
            SHOWN: pa.array([_shown(row) for row in range(num_ads)], pa.large_string()),
        }
    )


def _shown(row: int) -> str:
    """Returns the fields to show: a title, null for every tenth ad, and the number in stock."""
    return json.dumps({"title": f"Ad {row}" if row % 10 else None, "stock": row})


FLAT = index.IndexConfig(kind="Flat")
# The machine of a test may be slow, and lateness has its own tests.
PATIENT_USERS = UserStoreConfig(read_timeout_ms=30_000, write_timeout_seconds=60)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a tiny bundle; another seed is another training.

    Without heads there is no ranker.
    """

    seed: int = 0
    num_ads: int = NUM_ADS
    heads: tuple[str, ...] = ("click", "engagement", "revenue")
    weak: dict[str, str] = dataclasses.field(default_factory=dict)
    index_config: index.IndexConfig = FLAT

    @property
    def training_id(self) -> str:
        return f"training-{self.seed}"

    def write(self, staged: releases.Staged) -> manifest.Content:
        """Fills the directories and returns the manifest's content."""
        tower, ad_tower, ranker = _traced(self.seed, self.heads)
        models = [(tower, staged.query_tower), (ad_tower, staged.ad_tower)]
        if self.heads:
            models.append((ranker, staged.ranker))
        for model, directory in models:
            tf.saved_model.save(model, str(directory), signatures={"serving_default": model.serve})
        ads = ads_table(self.num_ads)
        built = index.build_index(ad_embeddings(self.num_ads), self.index_config, ads=ads)
        built.save(staged.ad_index, ad_features(self.num_ads), ads)
        parts = tuple(part for part in manifest.PARTS if self.heads or part != "ranker")
        return manifest.Content(
            training_id=self.training_id,
            dataset_fingerprint="fingerprint-1",
            schema={"name": "tiny", "show": ["title", "stock"]},
            query_fields=QUERY_FIELDS,
            ad_fields=[{"name": name, "kind": kind} for name, kind in AD_KINDS.items()],
            heads=tuple(
                manifest.ReleaseHead(
                    head,
                    output,
                    KINDS[head],
                    trained=head in self.heads,
                    weak=self.weak.get(head),
                    utility_weight=0.0 if head in self.weak else 1.0,
                )
                for head, output in OUTPUTS.items()
            ),
            weights_source="equal",
            signatures={
                "ranker": {
                    "inputs": {"ad_features": {"dtype": "int32", "shape": [-1, -1, NUM_AD_COLUMNS]}}
                }
            },
            index=built.manifest_index(recall=1.0),
            metrics={
                "impressions": 600,
                "ranker": {
                    "click": {
                        "metrics": {
                            "auc": {"value": 0.75, "interval": [0.7, 0.8]},
                            "calibration_ratio": {"value": 1.05, "interval": [0.9, 1.2]},
                        }
                    }
                },
            },
            probes=_probes(tower, ranker if self.heads else None, built, ad_features(self.num_ads)),
            parts=parts,
        )


@functools.cache
def _traced(
    seed: int, heads: tuple[str, ...]
) -> tuple[QueryTowerModule, AdTowerModule, RankerModule]:
    """Returns the models of a training: tracing them takes half of the time of a publish."""
    return QueryTowerModule(seed), AdTowerModule(), RankerModule(seed + 100, heads)


def raw_inputs(rows: list[dict]) -> dict[str, tf.Tensor]:
    """Returns the model inputs of raw rows, without the code under test."""
    lists = [row.get("history") or [] for row in rows]
    longest = max(1, *map(len, lists))
    return {
        "country": tf.constant([row.get("country") or "" for row in rows]),
        "device": tf.constant([row.get("device") or "" for row in rows]),
        "age": tf.constant(
            [float("nan") if row.get("age") is None else row["age"] for row in rows], tf.float32
        ),
        "history": tf.constant([[*values, *[""] * (longest - len(values))] for values in lists]),
    }


def _probes(
    tower: QueryTowerModule,
    ranker: RankerModule | None,
    built: index.BuiltIndex,
    features: np.ndarray,
) -> dict:
    inputs = raw_inputs(PROBE_REQUESTS)
    embeddings = tower.serve(inputs)["query_embedding"].numpy()
    _, rows = built.searcher.search(embeddings, 20)
    scores = {}
    if ranker is not None:
        scores = ranker.serve({**inputs, "ad_features": tf.constant(features[rows])})
    return {
        "requests": PROBE_REQUESTS,
        "query_embeddings": embeddings.tolist(),
        "candidates": rows.tolist(),
        # Rows 0 and 7 have no price; a catalog may be of one ad.
        "ads": {"rows": [0], "embeddings": ad_embeddings(1).tolist()},
        "scores": {name: values.numpy().tolist() for name, values in scores.items()},
    }


def publish(base: pathlib.Path, recipe: Recipe | None = None) -> int:
    """Publishes a tiny bundle and returns its version."""
    return releases.publish(base, (recipe or Recipe()).write).version


def publish_trainings(base: pathlib.Path, count: int, **recipe: Any) -> pathlib.Path:
    """Publishes releases 1 to `count`, each of its own training; returns the base directory."""
    for seed in range(count):
        publish(base, Recipe(seed=seed, **recipe))
    return base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Base directory with version 1. Read only: copy it to change it."""
    return shared.directory(tmp_path_factory, "tiny", publish)


@pytest.fixture(scope="session")
def trainings_base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Base directory with the releases 1 to 3 of different trainings. Read only."""
    return shared.directory(
        tmp_path_factory, "trainings", lambda base: publish_trainings(base, count=3)
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_base: pathlib.Path) -> releases.Bundle:
    """The loaded bundle of `tiny_base`."""
    return releases.load(tiny_base)


@contextlib.contextmanager
def serve_ranker(
    base: pathlib.Path, port: int = 0, all_versions: bool = False
) -> Iterator[model_server.ModelServer]:
    """Runs the embedded server on the ranker of a base directory: its latest or all versions."""
    versions = "all" if all_versions else "latest"
    config = model_config.build({"ranker": base.resolve() / "ranker"}, versions)
    with model_server.ModelServer(config, port=port) as server:
        yield server


@pytest.fixture(scope="session")
def ranker_address(tiny_base: pathlib.Path) -> Iterator[str]:
    """Address of a server of the ranker of `tiny_base`."""
    with serve_ranker(tiny_base) as server:
        yield f"127.0.0.1:{server.port}"


_reserved: list[socket.socket] = []


def free_port() -> int:
    """Returns a port on which nothing listens, for a server that is started or is missing.

    A socket that is bound to the port without listening reserves it while this process lives: the
    system assigns it to no other process, connections are refused, and a server can still bind it.
    """
    reserving = socket.socket()
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserving.bind(("127.0.0.1", 0))
    _reserved.append(reserving)
    return reserving.getsockname()[1]


def make_orchestrator(
    release: releases.Bundle,
    address: str,
    config: OrchestratorConfig | None = None,
    **options: Any,
) -> orchestrator.Orchestrator:
    """Connects a bundle to the server at an address; options are the orchestrator's."""
    client = ranker.connect(release, address)
    # The machine of a test may be slow, and lateness has its own tests.
    patient = OrchestratorConfig(default_deadline_ms=30_000)
    return orchestrator.Orchestrator(release, client, config or patient, **options)


async def together(service: orchestrator.Orchestrator, requests: Sequence[Request]) -> list[Answer]:
    """Returns the answers to requests that are sent at once."""
    return await asyncio.gather(*map(service.recommend, requests))


class _Altering(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, address: str, edit: Callable) -> None:
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            grpc.insecure_channel(address)
        )
        self._edit = edit

    def Predict(self, request, context):
        reply = self._stub.Predict(request)
        self._edit(reply)
        return reply


@contextlib.contextmanager
def altering_server(address: str, edit: Callable, port: int = 0) -> Iterator[str]:
    """Runs a real server that forwards calls; `edit` may change or delay the replies."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Altering(address, edit), server
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


@contextlib.contextmanager
def taken_thread(server: model_server.ModelServer) -> Iterator[None]:
    """Occupies the gRPC threads of a model server until the block ends."""
    with unittest.mock.patch.object(server.free_threads, "acquire", return_value=False):
        yield


@contextlib.contextmanager
def serve_app(
    service: orchestrator.Orchestrator | release_router.ReleaseRouter,
    draining: threading.Event | None = None,
    http: HttpConfig | None = None,
    **options: Any,
) -> Iterator[str]:
    """Runs the REST service in a thread and yields its URL."""
    with process.bound_socket("127.0.0.1", 0) as sock:
        # Listening before the server runs: early connections wait instead of failing.
        sock.listen(2048)
        draining = draining or threading.Event()
        if isinstance(service, orchestrator.Orchestrator):
            service = release_router.ReleaseRouter(service)
        application = app.create_app(service, draining=draining, **options)
        server = http_server.HttpServer(application, draining, http)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            scheme = "https" if http and http.tls_certificate else "http"
            yield f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def service_url(tiny_bundle: releases.Bundle, ranker_address: str) -> Iterator[str]:
    """URL of a REST service with everything real behind it."""
    with serve_app(make_orchestrator(tiny_bundle, ranker_address)) as url:
        wait_until_ready(url)
        yield url


def wait_until_ready(url: str) -> None:
    """Returns once the ranker behind a service is verified, which may take long."""
    waiting.until(lambda: httpx.get(f"{url}/readyz", timeout=60, verify=False).is_success)
