"""The client of the ranker, where the orchestrator's own tests do not reach."""

import asyncio

import numpy as np
import pytest
import serving_fixtures

from serving import errors, ranker, releases
from serving.model_server import server as model_server


def predict(release, address, ad_features, timeout_seconds=60.0):
    """Returns the scores of the bundle's first probe with other ads."""
    columns = releases.query_columns(release.manifest)

    async def call():
        client = ranker.RankerClient(
            address, version=release.version, outputs=release.manifest.outputs.values()
        )
        try:
            return await client.predict(columns, ad_features, timeout_seconds)
        finally:
            await client.close()

    return asyncio.run(call())


@pytest.mark.parametrize("shape", [(0, 20), (3, 0)])
def test_an_empty_batch_is_not_sent(tiny_bundle, shape):
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    features = np.zeros([*shape, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    scores = predict(tiny_bundle, nobody, features)
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(
        serving_fixtures.OUTPUTS.values(), shape
    )


def test_the_proxy_of_the_host_is_not_used(ranker_address, tiny_bundle, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{serving_fixtures.free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    scores = predict(tiny_bundle, ranker_address, features)
    assert {values.shape for values in scores.values()} == {(3, 2)}


def test_a_call_that_is_too_large_is_not_repeated(tiny_base, tiny_bundle):
    options = model_server.Options(max_request_bytes=1000)
    features = np.zeros([3, 100, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    with (
        model_server.ModelServer({"ranker": tiny_base / "ranker"}, options=options) as server,
        pytest.raises(errors.RankerReplyError, match=r"RESOURCE_EXHAUSTED: .*larger than max"),
    ):
        # It would be repeated until then.
        predict(tiny_bundle, f"127.0.0.1:{server.port}", features, 600.0)


def test_a_call_for_more_than_the_server_scores_is_refused(ranker_address, tiny_bundle):
    features = np.zeros([3, 50_000, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    with pytest.raises(errors.RankerReplyError, match="ad_features has 150000 rows; expected at"):
        predict(tiny_bundle, ranker_address, features)


def test_a_client_that_outlives_its_loop_leaves_no_event_for_it(tiny_bundle, caplog):
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    columns, outputs = releases.query_columns(tiny_bundle.manifest), list("c")
    client = ranker.RankerClient(nobody, version=tiny_bundle.version, outputs=outputs)

    async def call():
        with pytest.raises(errors.RankerUnavailableError):
            await client.predict(columns, features, 0.2)
        await client.close()

    for _ in range(3):
        asyncio.run(call())
    # What gRPC raises in a callback, asyncio logs.
    assert [record for record in caplog.records if record.name == "asyncio"] == []
