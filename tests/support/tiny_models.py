"""A tiny synthetic world, its log and the data set converted from it, built once a run."""

import functools
import gc
import importlib
import os
import sys

# Workers share the cores: threads of FAISS (OpenMP) and of TensorFlow would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# For each new pipeline of a data set, oneDNN looks up the kernels of each operation, which takes
# longer than reading a tiny data set.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from repository import EXAMPLES, ROOT, SCRIPTS

import tfrec  # noqa: F401  (first: it selects Keras 2)

import lessons  # isort: skip
import logs  # isort: skip
import pytest
import shared
import tensorflow as tf
from absl import flags

from tfrec import config, ranking, retrieval
from tfrecords import reader, synthetic

# Optimizing a test's graph takes longer than running it. Commands in processes of their own do it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

lessons.give(lessons.FEW)

_WITH_FLAGS = tuple(
    f"{directory}{os.sep}"
    for directory in (
        SCRIPTS,
        EXAMPLES,
        *(ROOT / "serving" / "cli" / part for part in ("flags", "offline", "online")),
    )
)
NUM_IMPRESSIONS = 4_000


def pytest_collection_finish():
    """Excludes imported modules and thousands of operations from garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def synthetic_log(tmp_path_factory):
    world = synthetic.WorldConfig(
        seed=5,
        num_users=400,
        num_ads=300,
        num_campaigns=60,
        num_advertisers=20,
        num_categories=10,
        num_publishers=40,
        num_cities=40,
    )
    directory = shared.directory(
        tmp_path_factory,
        "synthetic",
        lambda empty: synthetic.write_log(empty, NUM_IMPRESSIONS, world),
    )
    return synthetic.SyntheticLog(directory)


@pytest.fixture(scope="session")
def data_set(synthetic_log, tmp_path_factory):
    def build(empty):
        logs.converted(
            synthetic_log.log,
            empty / "data",
            synthetic.schema(),
            ads_path=synthetic_log.ads,
            format=synthetic_log.format,
            validation_fraction=0.15,
            test_fraction=0.15,
        )

    return reader.DataSet(shared.directory(tmp_path_factory, "converted", build) / "data")


@pytest.fixture(scope="session")
def ranker_config():
    return config.RankerConfig(
        field_dim=4,
        model_dim=16,
        num_blocks=2,
        num_heads=2,
        feed_forward_dim=16,
        num_cross_layers=1,
        epochs=3,
        batch_size=64,
    )


@pytest.fixture(scope="session")
def retrieval_config():
    return config.RetrievalConfig(
        embedding_dim=16,
        field_dim=4,
        hidden_dim=32,
        epochs=3,
        batch_size=64,
        uniform_negatives=32,
    )


@pytest.fixture(scope="session")
def trained(data_set, ranker_config, retrieval_config, tmp_path_factory):
    """The directory of a tiny trained ranker and two-tower model of `data_set`."""

    def build(empty):
        ranking.train_ranker(data_set, ranker_config, empty / "ranker")
        model, calibrators, _ = ranking.load_ranker(data_set, empty / "ranker")
        teacher = retrieval.Teacher(
            dict.fromkeys(model.heads, 1.0),
            functools.partial(ranking.served_scores, model, calibrators, 1.0),
        )
        directory = empty / "retrieval"
        retrieval.train_two_tower(data_set, retrieval_config, directory, teacher=teacher)

    return shared.directory(tmp_path_factory, "trained", build)


@pytest.fixture(scope="session")
def learned_from_clicks(data_set, retrieval_config, tmp_path_factory):
    """The directory of a tiny two-tower model that no ranker taught."""

    def build(empty):
        retrieval.train_two_tower(data_set, retrieval_config, empty)

    return shared.directory(tmp_path_factory, "learned_from_clicks", build)


@pytest.fixture(scope="module")
def deterministic():
    """Makes TensorFlow add up in one order: threads otherwise decide the last bit of a gradient."""
    from tensorflow.python.framework import config as framework_config

    framework_config.enable_op_determinism()
    yield
    framework_config.disable_op_determinism()


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark's module or a command by its name; afterward its flags are free."""
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(SCRIPTS / folder))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        # Text: there are thousands of modules.
        if not (getattr(module, "__file__", None) or "").startswith(_WITH_FLAGS):
            continue
        # A copy: a flag that goes leaves the list too.
        for flag in list(flags.FLAGS.flags_by_module_dict().get(name, [])):
            delattr(flags.FLAGS, flag.name)
        del sys.modules[name]
        # `from PACKAGE import MODULE` would find the old one, a package without a file stays.
        package, _, module_name = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(module_name, None)
