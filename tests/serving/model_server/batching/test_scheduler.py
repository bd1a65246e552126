"""Batching: what runs together, what is refused and what is padded, as in TensorFlow Serving."""

import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import numpy as np
import pytest
import saved_models
import waiting
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import saved_model
from serving.model_server import server as model_server
from serving.model_server import tensor_codec
from serving.model_server.batching import batch_tensors, batching_options, scheduler
from serving.model_server.metrics import serving_metrics

Options = batching_options.BatchingOptions
Arrays = dict[str, np.ndarray]


class _Graph:
    """Doubles `x`, notes each batch it is given, and runs only while its gate is open."""

    def __init__(self) -> None:
        self.batches: list[Arrays] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Arrays:
        self.batches.append(dict(feeds))
        self.entered.release()
        assert self.gate.wait(20)
        return {"y": feeds["x"] * 2}

    def close(self) -> None:
        self.gate.set()


class _Batcher:
    def __init__(self, **options: object) -> None:
        self.graph = _Graph()
        self.metrics = serving_metrics.ServingMetrics()
        self._options = Options(**options)  # type: ignore[arg-type]
        self.scheduler = scheduler.BatchScheduler(self._options.num_batch_threads)
        self.runner = scheduler.BatchingRunner(
            self.graph, self.scheduler, self._options, self.metrics
        )
        self.pool = futures.ThreadPoolExecutor(16)

    def ask(self, *rows: float) -> futures.Future[Arrays]:
        return self.pool.submit(self.runner.run, {"x": np.array(rows)}, ["y"])

    def close(self) -> None:
        self.pool.shutdown()
        self.runner.close()
        self.scheduler.close()

    def occupy(self) -> futures.Future[Arrays]:
        """Keeps the one thread busy until the gate is opened again."""
        self.graph.gate.clear()
        while self.graph.entered.acquire(blocking=False):
            pass  # runs that have ended
        busy = self.ask(0.0)
        assert self.graph.entered.acquire(timeout=20)
        return busy

    def wait_for_queued(self, rows: int) -> None:
        """Returns when so many rows wait in the open batch."""
        queue = next(iter(self.runner._queues.values()))
        waiting.until(lambda: queue._open_rows == rows)


@pytest.fixture
def batcher() -> Iterator[Callable[..., _Batcher]]:
    made: list[_Batcher] = []

    def make(**options: object) -> _Batcher:
        made.append(_Batcher(num_batch_threads=1, **options))
        return made[-1]

    yield make
    for item in made:
        item.graph.gate.set()
        item.close()


def test_requests_that_wait_run_as_one_and_each_gets_its_own_rows(
    batcher: Callable[..., _Batcher],
) -> None:
    made = batcher(max_batch_size=8, max_execution_batch_size=8)
    busy = made.occupy()
    answers = [made.ask(1.0, 2.0)]
    made.wait_for_queued(2)
    answers.append(made.ask(3.0))
    made.wait_for_queued(3)
    made.graph.gate.set()
    assert busy.result(20)["y"].tolist() == [0.0]
    assert [answer.result(20)["y"].tolist() for answer in answers] == [[2.0, 4.0], [6.0]]
    assert [batch["x"].tolist() for batch in made.graph.batches] == [[0.0], [1.0, 2.0, 3.0]]
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} 2\n" in made.metrics.render()


def test_a_full_batch_runs_and_the_next_one_waits_for_its_time(
    batcher: Callable[..., _Batcher],
) -> None:
    made = batcher(max_batch_size=2, max_execution_batch_size=2, batch_timeout_seconds=60.0)
    answers = [made.ask(1.0), made.ask(1.0)]
    assert [answer.result(20)["y"].tolist() for answer in answers] == [[2.0], [2.0]]
    assert [len(batch["x"]) for batch in made.graph.batches] == [2]


def test_a_lone_request_waits_no_longer_than_the_timeout(batcher: Callable[..., _Batcher]) -> None:
    made = batcher(batch_timeout_seconds=0.05)
    assert made.ask(1.0).result(20)["y"].tolist() == [2.0]


def test_a_request_that_is_too_large_is_invalid(batcher: Callable[..., _Batcher]) -> None:
    made = batcher(max_batch_size=4, max_execution_batch_size=4)
    with pytest.raises(
        saved_model.StatusError,
        match=r"^INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4$",
    ):
        made.ask(*range(5)).result(20)


def test_a_full_queue_is_unavailable(batcher: Callable[..., _Batcher]) -> None:
    made = batcher(max_batch_size=2, max_execution_batch_size=2, max_enqueued_batches=1)
    made.occupy()
    waiting = made.ask(1.0, 2.0)
    made.wait_for_queued(2)
    with pytest.raises(saved_model.StatusError) as caught:
        made.ask(3.0).result(20)
    assert str(caught.value) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; "
        "currently 1 batches enqueued and max_enqueued_batches is 1"
    )
    made.graph.gate.set()
    assert waiting.result(20)["y"].tolist() == [2.0, 4.0]


def test_a_batch_is_filled_up_to_an_allowed_size_with_rows_of_its_own(
    batcher: Callable[..., _Batcher],
) -> None:
    made = batcher(max_batch_size=8, max_execution_batch_size=8, allowed_batch_sizes=(4, 8))
    assert made.ask(5.0, 6.0, 7.0).result(20)["y"].tolist() == [10.0, 12.0, 14.0]
    assert [batch["x"].tolist() for batch in made.graph.batches] == [[5.0, 6.0, 7.0, 5.0]]
    text = made.metrics.render()
    # Three rows and one of padding: the batch has 4.
    assert 'padding_size_sum{execution_batch_size="4"} 1\n' in text
    assert "processed_batch_size_sum{} 4\n" in text
    assert "input_batch_size_sum{} 3\n" in text


def test_a_large_request_is_split_where_that_is_asked_for(
    batcher: Callable[..., _Batcher],
) -> None:
    made = batcher(max_batch_size=8, max_execution_batch_size=3, split_large_requests=True)
    busy = made.occupy()
    small = made.ask(1.0)
    made.wait_for_queued(1)
    large = made.ask(*range(7))
    made.wait_for_queued(2)
    made.graph.gate.set()
    busy.result(20)
    assert small.result(20)["y"].tolist() == [2.0]
    assert large.result(20)["y"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    # The open batch has room for two of the seven rows, then come three and two.
    sizes = [batch["x"].tolist() for batch in made.graph.batches]
    assert sizes == [[0.0], [1.0, 0.0, 1.0], [2.0, 3.0, 4.0], [5.0, 6.0]]


def test_an_error_reaches_each_request_of_the_batch(batcher: Callable[..., _Batcher]) -> None:
    made = batcher()
    busy = made.occupy()
    answers = [made.pool.submit(made.runner.run, {"x": np.zeros([1, 2])}, ["y"])]
    made.wait_for_queued(1)
    answers.append(made.pool.submit(made.runner.run, {"x": np.zeros([1, 3])}, ["y"]))
    made.wait_for_queued(2)
    made.graph.gate.set()
    busy.result(20)
    for answer in answers:
        with pytest.raises(saved_model.StatusError) as caught:
            answer.result(20)
        assert str(caught.value).startswith(
            "FAILED_PRECONDITION: Tensors with name 'x' from different tasks have different shapes"
        )


def test_a_batch_that_nobody_waits_for_is_not_run(batcher: Callable[..., _Batcher]) -> None:
    made = batcher()
    busy = made.occupy()

    def ask() -> Arrays:
        with saved_model.deadline_within(0.0):
            return made.runner.run({"x": np.ones(1)}, ["y"])

    late = made.pool.submit(ask)
    made.wait_for_queued(1)
    made.graph.gate.set()
    busy.result(20)
    with pytest.raises(saved_model.StatusError) as caught:
        late.result(20)
    assert str(caught.value) == (
        "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue"
    )
    assert len(made.graph.batches) == 1


def test_empty_requests_are_answered_alone_and_among_others(
    batcher: Callable[..., _Batcher],
) -> None:
    made = batcher(allowed_batch_sizes=(2, 1000))
    assert made.ask().result(20)["y"].size == 0
    made.occupy()
    first = made.ask(3.0)
    made.wait_for_queued(1)
    second = made.ask()
    made.graph.gate.set()
    assert first.result(20)["y"].tolist() == [6.0]
    assert second.result(20)["y"].size == 0


def test_inputs_must_share_their_first_dimension() -> None:
    two, three = np.zeros(2), np.zeros(3)
    assert batch_tensors.num_rows({"a": two, "b": np.zeros([2, 5])}) == 2
    for feeds, message in (
        ({}, "Batching Run() must have at least one input tensor"),
        ({"a": np.array(1)}, "Batching Run() input tensors must have at least one dimension"),
        (
            {"a": two, "b": three},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ):
        with pytest.raises(saved_model.StatusError) as caught:
            batch_tensors.num_rows(feeds)
        assert str(caught.value) == f"INVALID_ARGUMENT: {message}"


def test_shapes_are_padded_with_the_requests_own_first_value() -> None:
    tasks = [{"a": np.array([[7, 8, 9]])}, {"a": np.array([[5], [6]])}]
    assert batch_tensors.merge(tasks, 0, True)["a"].tolist() == [
        [7, 8, 9],
        [5, 5, 5],
        [6, 5, 5],
    ]
    with pytest.raises(saved_model.StatusError, match="Got empty tensor in batch of non-empty"):
        batch_tensors.merge([*tasks, {"a": np.zeros([1, 0])}], 0, True)
    # A request without rows has no value to pad with, and needs none.
    merged = batch_tensors.merge([*tasks, {"a": np.zeros([0, 2], np.int64)}], 0, True)["a"]
    assert (merged.shape, merged.dtype) == ((3, 3), np.int64)
    with pytest.raises(saved_model.StatusError, match="different shapes"):
        batch_tensors.merge([*tasks, {"a": np.zeros([1])}], 0, True)
    deep = [{"a": np.zeros([1] * 7)}, {"a": np.zeros([1] * 6 + [2])}]
    with pytest.raises(saved_model.StatusError, match="rank from 1 to 6"):
        batch_tensors.merge(deep, 0, True)


def test_outputs_without_a_row_for_each_input_are_refused() -> None:
    for array, message in (
        (np.array(1.0), "Batched output tensor has 0 dimensions"),
        (np.zeros(2), "Batched output tensor's 0th dimension does not equal the sum"),
    ):
        with pytest.raises(saved_model.StatusError, match=f"FAILED_PRECONDITION: {message}"):
            batch_tensors.split({"y": array}, [1, 2], 0)


def test_the_smallest_allowed_size_that_holds_the_rows_is_taken() -> None:
    sizes = {rows: batch_tensors.padded_size(rows, (2, 4)) for rows in (0, 1, 2, 3, 5)}
    assert sizes == {0: 0, 1: 2, 2: 2, 3: 4, 5: 5}
    assert batch_tensors.padded_size(3, ()) == 3


def test_a_file_gives_the_options(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 1500 } "
        "max_enqueued_batches { value: 1000000 } num_batch_threads { value: 8 } "
        'allowed_batch_sizes: 32 allowed_batch_sizes: 128 thread_pool_name { value: "p" }'
        "pad_variable_length_inputs: true"
    )
    assert batching_options.read(path) == Options(
        max_batch_size=128,
        batch_timeout_seconds=0.0015,
        max_enqueued_batches=1000000,
        num_batch_threads=8,
        allowed_batch_sizes=(32, 128),
        pad_variable_length_inputs=True,
        max_execution_batch_size=128,
        thread_pool_name="p",
    )
    path.write_text("")
    read = batching_options.read(path)
    # TensorFlow's defaults.
    assert (read.max_batch_size, read.batch_timeout_seconds, read.max_enqueued_batches) == (
        1000,
        0.0,
        10,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 3", "Invalid protobuf file: "),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        (
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros must be non-negative; was -1",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 4",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        (
            "enable_large_batch_splitting { value: true } max_batch_size { value: 4 } "
            "max_execution_batch_size { value: 8 }",
            "When enable_large_batch_splitting is true, max_batch_size must be greater",
        ),
    ],
)
def test_parameters_that_contradict_each_other_are_named(
    tmp_path: pathlib.Path, text: str, message: str
) -> None:
    path = tmp_path / "batching.config"
    path.write_text(text)
    with pytest.raises(saved_model.StatusError) as caught:
        batching_options.read(path)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message.startswith(message)


def _request(uid: Sequence[int], x: Sequence[Sequence[float]]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["uid"].CopyFrom(tensor_codec.encode_tensor(np.array(uid, np.int64)))
    request.inputs["x"].CopyFrom(tensor_codec.encode_tensor(np.array(x, np.float32)))
    return request


def test_a_server_batches_concurrent_requests_and_answers_each_as_without(
    tmp_path: pathlib.Path,
) -> None:
    saved_models.save_score(tmp_path / "1")
    parameters = Options(max_batch_size=64, max_execution_batch_size=64, num_batch_threads=1)
    options = model_server.Options(batching=parameters)
    with (
        model_server.ModelServer({"m": tmp_path}, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        futures.ThreadPoolExecutor(16) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def ask(number: int) -> list[float]:
            reply = stub.Predict(_request([number], [[number, 1]]), timeout=20)
            return [*reply.outputs["id"].int64_val, *reply.outputs["s"].float_val]

        # n + 2 * 1.
        assert list(pool.map(ask, range(200))) == [[n, n + 2] for n in range(200)]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(_request([1, 2], [[1, 1]]), timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == (
            "Batching Run() input tensors must have equal 0th-dimension size"
        )
        lines = server.metrics.render().splitlines()
    count = next(line for line in lines if "wrapped_run_count{}" in line)
    assert int(count.split()[-1]) <= 200
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 200' in lines


def test_a_models_own_parameters_count_where_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "with" / "1")
    saved_models.save_score(tmp_path / "without" / "1")
    (tmp_path / "with" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 1 }")
    options = model_server.Options(batching=Options(), enable_per_model_batching_parameters=True)
    models = {name: tmp_path / name for name in ("with", "without")}
    with (
        model_server.ModelServer(models, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = _request([1, 2], [[1, 1], [2, 2]])
        request.model_spec.name = "without"
        assert list(stub.Predict(request, timeout=20).outputs["s"].float_val) == [3.0, 6.0]
        request.model_spec.name = "with"
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=20)
    assert caught.value.details() == "Task size 2 is larger than maximum input batch size 1"
