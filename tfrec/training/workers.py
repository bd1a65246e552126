"""Training on several workers, or on several devices of one (`tf.distribute`).

    with training.joined("multi_worker") as strategy:
        ranking.train_ranker(data_set, config, workdir, strategy=strategy)

Every worker runs the same program. Worker 0, the chief, writes all results; the others take part
in the steps, and write to directories that are deleted. The workers share the data set and the work
directory. `TF_CONFIG` says who they are:

    {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
     "task": {"type": "worker", "index": 0}}
"""

import contextlib
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import layers
from tfrecords import files

DISTRIBUTIONS = ("none", "mirrored", "multi_worker")
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
# Errors of a step or a gather after another worker has ended.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_TOKEN_FILE = "workers.json"


class WorkerLostError(ConnectionError):
    """Another worker ended, or can no longer be reached."""


@contextlib.contextmanager
def joined(distribution: str) -> Iterator[tf.distribute.Strategy]:
    """Joins the workers, and waits at the end until all have finished.

    Enter it before any other TensorFlow operation runs.

    Args:
        distribution: `none`; `mirrored`: all GPUs of this machine, or all logical devices of its
            CPU without GPUs; `multi_worker`: the workers of `TF_CONFIG`, with their GPUs.

    Yields:
        The strategy, for the functions that train.

    Raises:
        ValueError: `TF_CONFIG` is missing or wrong, or `distribution` is not known.
        OSError: This worker cannot listen on its address.
        WorkerLostError: Another worker ended.
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution is {distribution!r}; expected one of {', '.join(DISTRIBUTIONS)}."
        )
    if distribution == "none":
        yield tf.distribute.get_strategy()
    elif distribution == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        # Collective operations between devices of one CPU are not reliably ordered.
        on_cpu = {"cross_device_ops": tf.distribute.ReductionToOneDevice()}
        options = on_cpu if devices[0].device_type == "CPU" else {}
        yield tf.distribute.MirroredStrategy([device.name for device in devices], **options)
    else:
        addresses, index = addresses_of(os.environ.get("TF_CONFIG"))
        with _lost_workers_named(addresses, index):
            strategy = _connected(addresses, index)
            yield strategy
            gathered(strategy, "finished")
        # No worker ends before all others have received its part of the gather above. It may end
        # before they have received this one.
        with contextlib.suppress(*_LOST):
            gathered(strategy, "leaving")


def addresses_of(tf_config: str | None) -> tuple[list[str], int]:
    """Checks `TF_CONFIG`; returns the addresses of the workers and the index of this one.

    Raises:
        ValueError: The text is missing or wrong.
    """
    if not tf_config:
        raise ValueError(
            "TF_CONFIG is not set; expected the addresses of the workers, and which of them this "
            f"process is. Set it for each worker, with its own index: TF_CONFIG='{_EXAMPLE}'"
        )
    try:
        found = json.loads(tf_config)
        cluster, task = found["cluster"], found["task"]
        addresses, kind, index = cluster["worker"], task["type"], int(task["index"])
        ports = [int(address.rpartition(":")[2]) for address in addresses]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"TF_CONFIG is {tf_config!r}, which cannot be read ({type(error).__name__}: {error}); "
            f"expected JSON like {_EXAMPLE}"
        ) from error
    wrong = None
    if set(cluster) != {"worker"} or kind != "worker":
        wrong = (
            f"the jobs {sorted(cluster)}, and this process is a {kind!r}; expected only workers. "
            "Worker 0 is the chief, and there are no parameter servers"
        )
    elif not 0 <= index < len(addresses):
        wrong = f"task index {index}; expected 0 to {len(addresses) - 1}, one of its workers"
    elif len(set(addresses)) < len(addresses) or not all(0 < port < 65_536 for port in ports):
        wrong = f"the workers {addresses}; expected different addresses, each HOST:PORT"
    if wrong:
        raise ValueError(f"TF_CONFIG has {wrong}. An example: {_EXAMPLE}")
    return addresses, index


def _connected(addresses: list[str], index: int) -> tf.distribute.Strategy:
    """Returns the strategy of the workers, once all of them are there."""
    print(
        f"worker {index} of {len(addresses)} at {addresses[index]}, waiting for the others: "
        f"{', '.join(addresses)}",
        flush=True,
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        raise OSError(
            f"Worker {index} cannot listen on {addresses[index]} ({error.message}). Stop the "
            "process that uses this port, or give the worker another port in the TF_CONFIG of all "
            "workers."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"TensorFlow can no longer join the workers ({error}). Enter training.joined in a "
            "new process, before anything else of TensorFlow runs."
        ) from error
    gathered(strategy, "started")
    print(f"{len(addresses)} workers are connected; worker 0 writes all results", flush=True)
    return strategy


@contextlib.contextmanager
def _lost_workers_named(addresses: list[str], index: int) -> Iterator[None]:
    """Raises WorkerLostError where TensorFlow says that another worker is gone."""
    try:
        yield
    except _LOST as error:
        peers = ", ".join(a for number, a in enumerate(addresses) if number != index)
        reason = error.message.partition("\n")[0]  # the rest names nodes of the graph
        raise WorkerLostError(
            f"Worker {index} lost another worker ({peers}): it ended or cannot be reached "
            f"({type(error).__name__}: {reason}). See the output of that worker, and start all "
            "workers again with the same commands; training resumes from its last backup."
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the results of the training."""
    return strategy.extended.should_checkpoint


def number_of_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train."""
    resolver = strategy.cluster_resolver
    return 1 if resolver is None else resolver.cluster_spec().num_tasks("worker")


def gathered(strategy: tf.distribute.Strategy, value: Any) -> list[Any]:
    """Returns the values of all workers, the chief's first; waits until all have called it.

    Args:
        strategy: The strategy.
        value: A JSON-serializable value.
    """
    number = number_of_workers(strategy)
    if number == 1:
        return [value]
    text = np.frombuffer(f"{json.dumps(value)}\n".encode(), np.uint8).astype(np.int32)

    def gather() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.constant(text), axis=0)

    texts = tf.function(lambda: strategy.run(gather), autograph=False)()
    texts = strategy.experimental_local_results(texts)[0].numpy().astype(np.uint8).tobytes()
    # A worker has a line of each of its devices.
    lines = texts.decode().splitlines()
    return [json.loads(line) for line in lines[:: len(lines) // number]]


def chief_value(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Returns the chief's value on all workers, so that all make the same decision."""
    return gathered(strategy, value)[0]


def check_same(strategy: tf.distribute.Strategy, values: Mapping[str, Any]) -> None:
    """Checks that all workers have the same options, data and source of the model.

    Args:
        strategy: The strategy.
        values: Name -> JSON-serializable value.

    Raises:
        ValueError: A worker's values differ from the chief's.
    """
    answers = gathered(strategy, dict(values))
    for worker, answer in enumerate(answers):
        differing = [name for name in answer if answer[name] != answers[0].get(name)]
        if differing or set(answer) != set(answers[0]):
            name = min(differing or set(answer) ^ set(answers[0]))
            raise ValueError(
                f"Worker {worker} has {name} {answer.get(name)!r}, and worker 0 has "
                f"{answers[0].get(name)!r}; expected the same on all workers. Start all of them "
                "with the same flags, data set, version, and source of your own model."
            )


def check_shared(strategy: tf.distribute.Strategy, directory: pathlib.Path) -> None:
    """Checks that all workers see the files that the chief writes.

    Raises:
        ValueError: A worker has another directory of this name.
    """
    if number_of_workers(strategy) == 1:
        return
    path, token = directory / _TOKEN_FILE, secrets.token_hex(8)
    if is_chief(strategy):
        directory.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"token": token})
    token = chief_value(strategy, token)
    seen = path.is_file() and json.loads(path.read_text())["token"] == token
    answers = gathered(strategy, seen)
    if is_chief(strategy):
        path.unlink()
    if not all(answers):
        raise ValueError(
            f"Worker {answers.index(False)} does not see what worker 0 writes in "
            f"{directory.resolve()}; expected one work directory on a file system that all workers "
            "share, such as NFS, at the same path."
        )


@contextlib.contextmanager
def directory_to_write(
    strategy: tf.distribute.Strategy, directory: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Yields the directory on the chief, and elsewhere one that is deleted.

    All workers take the same steps, including saving: a variable that is a sum over the workers is
    read by all or by none.
    """
    if is_chief(strategy):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="tfrec-worker-") as scratch:
        yield pathlib.Path(scratch)


def shared_out(
    strategy: tf.distribute.Strategy, batches: tf.data.Dataset
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Cuts each batch into the shares of the replicas; see `layers.share_of`.

    Every worker reads all batches, and keeps its own rows: shards of files would give each worker
    different batches, and workers would run out of them at different times.

    Args:
        strategy: The strategy.
        batches: The same batches on each worker, in the same order.
    """
    number = strategy.num_replicas_in_sync
    if number == 1:
        return batches

    def input_shares(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = number // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def shares(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            replicas = tf.data.Dataset.range(first, first + local)
            return replicas.map(lambda replica: layers.share_of(batch, replica, number))

        cut = batches.flat_map(tf.autograph.experimental.do_not_convert(shares))
        # The number of steps is known, so that no step asks all workers whether they have a batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return cut.apply(endless).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(input_shares)
