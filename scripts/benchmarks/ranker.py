"""Measures the latency of the ranker over gRPC, for 500 candidates and for other numbers.

    python scripts/benchmarks/ranker.py
    python scripts/benchmarks/ranker.py --workdir=workdir/quickstart

Takes about two minutes on two cores. Exports the trained ranker of --workdir, or an untrained one,
since speed does not depend on the weights. Starts the embedded model server in a separate process
and calls it through `serving.ranker`, one request at a time, alternating with the same SavedModel
in this process. Then measures 50 to 5,000 candidates.

Requests have full histories if the data set has any, such as the sequence world's with
--workdir=workdir/benchmark_attention, after `attention.py`.

`overhead_ms` is the time that the embedded server adds in its process: from the bytes of the
request to the bytes of the reply, without the SavedModel itself. Prints a table, and JSON as the
last line. docs/results.md has results for two cores.
"""

import asyncio
import contextlib
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow_serving.apis import predict_pb2
from workload import fresh_process, full_requests, harness, running_service

from serving import cli, export, model_server, ranker, requests, saved_model
from tfrec import calibration, config, exported, ranking
from tfrecords import reader

WARM_UP_CALLS = 20
TIMEOUT_SECONDS = 60.0
Inputs = tuple[requests.Columns, np.ndarray]


def main() -> None:
    values = flags.FLAGS
    sizes = harness.flag_numbers("candidates", "50,500", 1)
    workdir = pathlib.Path(values.workdir)
    fresh_process.call(write_model, workdir, values.n_samples)
    data_set = reader.DataSet(workdir / "data")
    base = workdir / "benchmark_ranker" / "ranker"
    with _server(base) as address:
        result = measure(data_set, base, address, sizes)
    print_table(result)
    harness.print_json(result)


def write_model(workdir: pathlib.Path, n_samples: int) -> None:
    """Writes the SavedModel as version 1; call it in a fresh process."""
    log = export.Pipeline(workdir, False)
    if not (log.path("data") / "dataset.json").is_file():
        log.convert(log.synthesize(n_samples), config.ConvertConfig())
    data_set = reader.DataSet(log.path("data"))
    if (log.path("ranker") / "ranker.json").is_file():
        model, calibrators, _ = ranking.load_ranker(data_set, log.path("ranker"))
    else:
        model = ranking.build_ranker(data_set, config.RankerConfig())
        calibrators = calibration.Calibrators()
    module = exported.RankerModule(data_set.fitted, model, calibrators)
    directory = workdir / "benchmark_ranker" / "ranker" / "1"
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})


def measure(
    data_set: reader.DataSet, base: pathlib.Path, address: str, sizes: Sequence[int]
) -> dict[str, Any]:
    """Times all calls in turns, for 500 candidates and then for other numbers."""
    values = flags.FLAGS
    loaded = model_server.Servable("ranker", 1, base / "1", saved_model.session_config())
    outputs = list(loaded.predict("", full_requests.as_arrays(*full_requests.draw(data_set, 1))))
    client = ranker.RankerClient(address, version=1, outputs=outputs)
    loop = asyncio.new_event_loop()

    def grpc(inputs: Inputs) -> Callable[[], Any]:
        return lambda: loop.run_until_complete(client.predict(*inputs, TIMEOUT_SECONDS))

    inputs = full_requests.draw(data_set, 500)
    arrays = full_requests.as_arrays(*inputs)
    calls = {
        "grpc": grpc(inputs),
        "in_process": lambda: loaded.predict("", arrays),
        "bytes": _from_bytes(loaded, arrays),
    }
    seconds = harness.timed(calls, values.calls, min(WARM_UP_CALLS, values.calls))
    ms = {name: harness.percentiles(1e3 * np.array(v)) for name, v in seconds.items()}
    growth = []
    for size in sizes:
        count = max(10, values.calls // 6)
        calls = {"ms": grpc(full_requests.draw(data_set, size))}
        times = harness.timed(calls, count, min(WARM_UP_CALLS, count))
        growth.append({"candidates": size, "ms": 1e3 * float(np.median(times["ms"]))})
    loop.run_until_complete(client.close())
    loop.close()
    return {
        "candidates": 500,
        "calls": values.calls,
        **ms["grpc"],
        **{f"in_process_{name}": value for name, value in ms["in_process"].items()},
        "overhead_ms": ms["bytes"]["p50_ms"] - ms["in_process"]["p50_ms"],
        "growth": growth,
    }


def print_table(result: dict[str, Any]) -> None:
    """Prints the result as tables."""
    print(f"{result['candidates']} candidates, {result['calls']} calls each, alternating")
    prefixes = {"gRPC": "", "in process": "in_process_"}
    keys = ("p50_ms", "p99_ms")
    rows = [
        {"call": label, **{key: result[prefix + key] for key in keys}}
        for label, prefix in prefixes.items()
    ]
    harness.print_rows(rows, {"call": "", "p50_ms": ".2f", "p99_ms": ".2f"})
    print(f"  the server adds {result['overhead_ms']:.2f} ms in its process")
    harness.print_rows(result["growth"], {"candidates": ",", "ms": ".2f"})


def _from_bytes(model: model_server.Servable, arrays: dict[str, np.ndarray]) -> Callable[[], bytes]:
    """Returns a function that does the server's work from request bytes to reply bytes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model.name
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    data = request.SerializeToString()
    return lambda: model_server.run_predict(
        model, predict_pb2.PredictRequest.FromString(data)
    ).SerializeToString()


@contextlib.contextmanager
def _server(base: pathlib.Path) -> Iterator[str]:
    """Serves the model in a separate process; yields host:port."""
    with running_service.reserved_ports(1) as (port,):
        command = running_service.model_server_command(base.resolve(), port)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        try:
            if not child.stdout.readline():
                raise OSError("The model server did not start; see its message above.")
            yield f"127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "workdir/benchmark_ranker", "Work directory.")
    flags.DEFINE_integer(
        "n_samples", 20_000, "Number of impressions of a synthetic log, if there is no data.", 1
    )
    flags.DEFINE_integer("calls", 300, "Number of calls of each kind.", 1)
    flags.DEFINE_list(
        "candidates", ["50", "100", "250", "500", "1000", "2500", "5000"], "Numbers of candidates."
    )
    cli.run(main)
