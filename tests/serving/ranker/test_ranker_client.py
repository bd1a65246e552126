"""Cases of the ranker's client that the tests of the orchestrator do not cover."""

import asyncio
import contextlib
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import serving_fixtures
import tensorflow as tf
import waiting
from tensorflow_serving.apis import predict_pb2

from serving import errors, ranker, releases


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


def test_a_client_that_outlives_its_loop_leaves_no_event_for_it(tiny_bundle, caplog):
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    columns, outputs = releases.query_columns(tiny_bundle.manifest), list("c")
    client = ranker.RankerClient(nobody, version=tiny_bundle.version, outputs=outputs)

    async def call():
        with pytest.raises(errors.RankerError):
            await client.predict(columns, features, 0.2)
        await client.close()

    for _ in range(3):
        asyncio.run(call())
    # What gRPC raises in a callback, asyncio logs.
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@contextlib.contextmanager
def answering(answer, options=()):
    """Runs a server whose Predict answers with the bytes that `answer(context)` returns."""
    predict_method = grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": predict_method}
    )
    server = grpc.server(futures.ThreadPoolExecutor(1), options=options)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def test_a_call_that_is_too_large_is_not_repeated(tiny_bundle):
    features = np.zeros([3, 100, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    with (
        answering(lambda _: b"", [("grpc.max_receive_message_length", 1000)]) as address,
        pytest.raises(errors.RankerReplyError, match=r"RESOURCE_EXHAUSTED: .*larger than max"),
    ):
        # It would be repeated until then.
        predict(tiny_bundle, address, features, 600.0)


def test_a_timeout_below_a_millisecond_is_not_called_0_ms(tiny_bundle):
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)

    def never(context):
        given_up = threading.Event()
        if context.add_callback(given_up.set):
            given_up.wait()
        return b""

    # A server that answers may do so first, although the timeout is over.
    with (
        answering(never) as address,
        pytest.raises(errors.RankerDeadlineError, match=r"did not answer within 0\.1 ms\.$"),
    ):
        predict(tiny_bundle, address, features, 0.0001)


def truncated_reply():
    reply = predict_pb2.PredictResponse(model_spec={"version": {"value": 1}})
    scores = tf.make_tensor_proto(np.zeros([3, 2], np.float32))
    scores.tensor_content = scores.tensor_content[:-1]
    for name in serving_fixtures.OUTPUTS.values():
        reply.outputs[name].CopyFrom(scores)
    return reply.SerializeToString()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"\xff", r"The reply of the server at .* is not a PredictResponse\."),
        (truncated_reply(), r"Expected 6 values of click_probability, got 5\.75\."),
    ],
    ids=["another message", "truncated content"],
)
def test_a_reply_that_cannot_be_read_is_an_error_of_the_ranker(tiny_bundle, reply, message):
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    with (
        answering(lambda _: reply) as address,
        pytest.raises(errors.RankerReplyError, match=message),
    ):
        predict(tiny_bundle, address, features)


def client_of(bundle, address):
    """Returns a client, and the arguments of a call that may take ten minutes."""
    client = ranker.RankerClient(address, version=bundle.version, outputs=["c"])
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    return client, (releases.query_columns(bundle.manifest), features, 600.0)


def test_a_busy_server_is_called_again_and_then_named(tiny_bundle):
    calls = []

    def refuse(context):
        calls.append(context)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    with (
        answering(refuse) as address,
        pytest.raises(errors.RankerBusyError, match="had no free thread"),
    ):
        predict(tiny_bundle, address, features)
    assert len(calls) == 5


def test_a_call_that_one_server_refuses_is_answered_by_the_next(tiny_bundle, ranker_address):
    """A server that stops, is busy, or has not loaded the version yet."""
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    for status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND"):

        def refuse(context, status=status):
            context.abort(grpc.StatusCode[status], "injected")

        with answering(refuse) as other:
            for _ in range(4):
                scores = predict(tiny_bundle, f"{other},{ranker_address}", features)
                assert {values.shape for values in scores.values()} == {(3, 2)}


def test_calls_go_on_while_one_of_two_servers_is_down(tiny_bundle, ranker_address):
    features = np.zeros([3, 2, serving_fixtures.NUM_AD_COLUMNS], np.int32)
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    for _ in range(4):
        assert predict(tiny_bundle, f"{nobody},{ranker_address}", features)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ranker:8500", "dns:///ranker:8500"),
        ("[::1]:8500", "dns:///[::1]:8500"),
        ("dns:///ranker:8500", "dns:///ranker:8500"),
        ("unix:/tmp/ranker", "unix:/tmp/ranker"),
        ("10.0.0.1:8500, 10.0.0.2:8500", "ipv4:10.0.0.1:8500,10.0.0.2:8500"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_an_address_becomes_a_target_of_grpc(address, expected):
    assert ranker.target(address) == expected


@pytest.mark.parametrize(
    "address", ["", "ranker", "ranker:x", "ranker:70000", "::1:8500", "http://ranker:1", "a:1,b:2"]
)
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(ValueError, match=r"HOST:PORT|one name that DNS resolves"):
        ranker.target(address)


def test_a_closed_client_is_an_error_of_the_ranker_and_opens_no_other_channel(tiny_bundle):
    called, go_on = threading.Event(), threading.Event()

    def hold(context):
        called.set()
        go_on.wait(waiting.GUARD_SECONDS)
        return b""

    async def leave(address):
        client, arguments = client_of(tiny_bundle, address)
        call = asyncio.create_task(client.predict(*arguments))
        await asyncio.to_thread(called.wait)
        await client.close()
        for late in (call, client.predict(*arguments)):
            with pytest.raises(errors.RankerError, match="channel is closed"):
                await late

    with answering(hold) as address:
        asyncio.run(leave(address))
        go_on.set()
