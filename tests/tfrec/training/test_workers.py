"""Several workers: the losses and gradients of one, its result, and one worker that is killed."""

import concurrent.futures
import json

import numpy as np
import pytest
import scripts_in_forks
import tensorflow as tf
import training_worker
from repository import ROOT
from serving_fixtures import free_port

from tfrec import ranking, retrieval, training
from tfrec.training import workers

PROGRAM = ROOT / "tests" / "support" / "training_worker.py"


def tf_config(index, ports):
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return training_worker.shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def runners():
    started = [scripts_in_forks.Runner() for _ in range(2)]
    yield started
    for runner in started:
        runner.process.kill()
        runner.process.wait()


@pytest.fixture(scope="module")
def run_pair(shop, runners):
    """Runs two workers, each with its options, and returns the finished processes."""

    def run(*options):
        ports = [free_port() for _ in range(2)]

        def start(index):
            common = {"data": str(shop.directory), "tf_config": tf_config(index, ports)}
            return runners[index].run(PROGRAM, json.dumps({**common, **options[index]}))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(pool.map(start, range(2)))

    return run


@pytest.fixture(scope="module")
def pair(run_pair, tmp_path_factory):
    """The directory with what two workers computed and trained; nothing interrupts them."""
    directory = tmp_path_factory.mktemp("pair")
    trainings = [
        ("retrieval", training_worker.PLAIN, str(directory / "retrieval")),
        ("ranker", training_worker.RANDOM, str(directory / "ranker")),
    ]
    ended = run_pair(
        *(
            {"trainings": trainings, "gradients": str(directory / f"{index}.npz")}
            for index in range(2)
        )
    )
    assert [one.returncode for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    return directory


@pytest.mark.engines
def test_losses_and_gradients_are_those_of_one_worker(shop, pair):
    expected = training_worker.first_batches(tf.distribute.get_strategy(), shop)
    for index in range(2):
        found = np.load(pair / f"{index}.npz")
        assert set(found) == set(expected)
        for name, value in expected.items():
            scale = max(float(np.abs(value).max()), 1e-3)
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.engines
def test_a_training_ends_with_the_result_of_one_worker(shop, pair, tmp_path):
    single = tf.distribute.get_strategy()
    training_worker.train(single, shop, "retrieval", training_worker.PLAIN, tmp_path)
    losses = [[logs["loss"] for logs in history_of(d)] for d in (tmp_path, pair / "retrieval")]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    alone_variables, shared_variables = (
        retrieval.load_two_tower(shop, directory)[0].trainable_variables
        for directory in (tmp_path, pair / "retrieval")
    )
    for alone, shared in zip(alone_variables, shared_variables, strict=True):
        np.testing.assert_allclose(alone, shared, rtol=0, atol=0.01)


def history_of(directory):
    return json.loads((directory / "history.json").read_text())


@pytest.mark.engines
def test_the_chief_alone_writes(pair):
    for directory in (pair / "ranker", pair / "retrieval"):
        assert len(list((directory / "tensorboard").glob("events*"))) == 1
        assert {path.name for path in (directory / "checkpoints").iterdir()} == {"chief"}
        assert not list(directory.rglob("workertemp*"))
        assert not (directory / "workers.json").exists()


@pytest.mark.engines
def test_a_killed_worker_ends_the_other_and_both_resume_exactly(shop, pair, run_pair, tmp_path):
    options = {"trainings": [("ranker", training_worker.RANDOM, str(tmp_path / "ranker"))]}
    # In the tenth step of the second epoch; the last backup is of the eighth.
    survivor, killed = run_pair(options, {**options, "killed_at": [1, 9]})
    assert killed.returncode == -9
    assert survivor.returncode == 1
    assert survivor.stderr.strip().splitlines()[-1].startswith("Worker 0 lost another worker (127.")
    assert "start all workers again" in survivor.stderr
    assert "Traceback" not in survivor.stderr
    assert len(history_of(tmp_path / "ranker")) == 1

    ended = run_pair(options, options)
    assert [one.returncode for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    resumed, whole = (
        ranking.load_ranker(shop, directory)[0].trainable_variables
        for directory in (tmp_path / "ranker", pair / "ranker")
    )
    for ours, theirs in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.engines
def test_the_command_reports_missing_addresses(runners, tmp_path):
    flags = ("--distribution=multi_worker", f"--workdir={tmp_path}")
    done = runners[0].run("train_retrieval.py", *flags)
    assert done.returncode == 1
    assert "TF_CONFIG is not set; expected the addresses of the workers" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"TF_CONFIG is not set; expected .* Set it for each worker"),
        ("{", r"TF_CONFIG is '\{', which cannot be read \(JSONDecodeError"),
        ('{"cluster": {}}', r"cannot be read \(KeyError: 'task'\); expected JSON like"),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            r"the jobs \['ps', 'worker'\], and this process is a 'ps'; expected only workers",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            r"task index 2; expected 0 to 1",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            r"the workers \['a:1', 'a:1'\]; expected different addresses, each HOST:PORT",
        ),
        (
            '{"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}',
            r"expected different addresses, each HOST:PORT",
        ),
    ],
)
def test_a_missing_or_wrong_tf_config_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        workers.addresses_of(text)


def test_the_addresses_and_the_index_are_read():
    assert workers.addresses_of(tf_config(1, [7, 8])) == (["127.0.0.1:7", "127.0.0.1:8"], 1)


def test_an_unknown_distribution_is_refused():
    with (
        pytest.raises(ValueError, match=r"'parameter_server'; expected one of none, mirrored"),
        training.joined("parameter_server"),
    ):
        pass


def test_the_error_of_a_lost_worker_has_the_message_of_tensorflow():
    with (
        pytest.raises(training.WorkerLostError, match="InternalError: no room on the device"),
        workers._lost_workers_named(["a:1", "b:1"], 0),
    ):
        raise tf.errors.InternalError(None, None, "no room on the device")


@pytest.mark.parametrize("stage", ["ranker", "retrieval"])
def test_workers_with_another_source_of_a_model_are_refused(stage, shop, tmp_path, monkeypatch):
    def gathered(_, value):
        return [value, {**value, "source": "abc"}]

    monkeypatch.setattr(workers, "gathered", gathered)
    with pytest.raises(ValueError, match="Worker 1 has source 'abc', and worker 0 has None"):
        training_worker.train(None, shop, stage, training_worker.PLAIN, tmp_path)
