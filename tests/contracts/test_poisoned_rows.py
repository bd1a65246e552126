"""What each split affects: poisoning a split must not change a bit of anything else.

Training is deterministic here: seeds are fixed, ops are deterministic, and a split is one window of
records, so no two threads share a random generator. Any difference comes from the poison.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import split_logs
import tensorflow as tf

from serving import export, index, manifest
from serving.releases import assembly
from tfrec import config, layers, ranking, retrieval
from tfrec.ranking import ranker_training
from tfrec.retrieval import retrieval_training
from tfrec.training import fitting
from tfrecords import reader

# TensorFlow warns that data pipelines are not run eagerly.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Even though the")]

OTHER_LABELS = (split_logs.with_other_labels,)
OTHER_ROWS = (split_logs.with_other_labels, split_logs.with_other_values)
# Training takes most of the time, so one training covers two poisoned splits.
POISONS = {
    "none": {},
    "test": {"test": OTHER_ROWS},
    "held out": {"validation": OTHER_LABELS, "test": OTHER_ROWS},
    "all but validation": {"train": OTHER_LABELS, "test": OTHER_ROWS},
}
# With one epoch, no best epoch is chosen, so any difference was learned.
RANKER = config.RankerConfig(
    field_dim=4, model_dim=16, num_blocks=0, num_cross_layers=1, epochs=1, batch_size=256,
)  # fmt: skip
RETRIEVAL = config.RetrievalConfig(
    embedding_dim=16, field_dim=4, hidden_dim=16, epochs=1, batch_size=256, uniform_negatives=32
)
# The tuning queries widen its search.
INDEX = index.IndexConfig(kind="IVF", num_lists=16, num_probes=1, num_candidates=20)


@pytest.fixture(scope="module", autouse=True)
def eager(deterministic):
    """Runs functions eagerly, because tracing them takes longer than the few steps here."""
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        # Large batches: with the smallest usual ones, there would be four times as many steps.
        patch.setattr(fitting, "_MIN_BATCH_SIZE", 256)
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory) -> dict[str, reader.DataSet]:
    """Name of a poison -> data set."""
    root = tmp_path_factory.mktemp("poisoned")
    return {name: split_logs.convert(root / name, **how) for name, how in POISONS.items()}


class Runs:
    """Trains each stage on each data set, on first use.

    Args:
        data_sets: Name of a poison -> data set.
        root: Directory for the trained stages.
    """

    def __init__(self, data_sets: dict[str, reader.DataSet], root: pathlib.Path) -> None:
        self.data_sets, self._root = data_sets, root

    def directory(self, poison, stage):
        """Returns the directory of a trained stage, `ranker` or `retrieval`."""
        path = self._root / poison / stage
        if not path.is_dir():
            if stage == "ranker":
                train_ranker(self.data_sets[poison], path)
            else:
                retrieval.train_two_tower(self.data_sets[poison], RETRIEVAL, path)
        return path

    def ranker(self, poison):
        """Returns a ranker's weights, and the description next to them."""
        return weights_and_written(*self.load(poison, "ranker"))

    @functools.cache  # noqa: B019  (it lives as long as the module's tests)
    def load(self, poison, stage):
        """Returns what `load_ranker` or `load_two_tower` returns."""
        load = ranking.load_ranker if stage == "ranker" else retrieval.load_two_tower
        return load(self.data_sets[poison], self.directory(poison, stage))

    def first_towers(self, poison):
        """Returns the variables of the towers before the refit, and the temperature."""
        best = self.directory(poison, "retrieval") / "best"
        saved = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(best)))
        variables = {
            name: saved.get_tensor(name).tobytes()
            for name in saved.get_variable_to_shape_map()
            if name.endswith("VARIABLE_VALUE")
        }
        return variables, variables.pop("temperature/.ATTRIBUTES/VARIABLE_VALUE")

    def refitted_towers(self, poison):
        """Returns the weights of the served towers."""
        return weights_of(self.load(poison, "retrieval")[0])

    def refitted_again(self, poison):
        """Returns the same weights after a refit on the poisoned data alone."""
        path = self._root / poison / "refit_again"
        shutil.copytree(self.directory("none", "retrieval"), path)
        shutil.rmtree(path / "refit")
        for name in ("retrieval.json", "config.json"):  # The latter names the data.
            (path / name).unlink()
        retrieval.train_two_tower(self.data_sets[poison], RETRIEVAL, path)
        return weights_of(retrieval.load_two_tower(self.data_sets[poison], path)[0])

    def history(self, poison, stage):
        """Returns the metrics of the only epoch of a stage."""
        return json.loads((self.directory(poison, stage) / "history.json").read_text())[0]


def train_ranker(data_set, directory):
    """Trains a ranker without pair rates, whose pairs are chosen with validation rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "find_pair_rates", lambda _: [])
        ranking.train_ranker(data_set, RANKER, directory)


def weights_and_written(model, _, description):
    # The shares of mixed models are fitted on validation rows, as calibrators are.
    shares = [model.engagement_shares, *(machine.share for machine in model.machines.values())]
    written = {key: description[key] for key in ("calibrators", "validation")}
    written["shares"] = [share.numpy().tolist() for share in shares]
    return weights_of(model, {share.ref() for share in shares}), written


def weights_of(model, left_out=()):
    kept = [variable for variable in model.variables if variable.ref() not in left_out]
    return [variable.numpy().tobytes() for variable in kept]


@pytest.fixture(scope="module")
def runs(data_sets, tmp_path_factory):
    return Runs(data_sets, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def whole_ranker(runs):
    return runs.ranker("none")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A bundle, and the query embeddings that tuned and measured its index."""

    base: pathlib.Path
    tuned_with: np.ndarray
    measured_with: np.ndarray


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> dict[str, Exported]:
    """Name of a poison -> release of the unpoisoned models with the poisoned data set."""
    two_tower, _ = runs.load("none", "retrieval")
    ranker, calibrators, _ = runs.load("none", "ranker")

    def build(embeddings, settings, *, tuning_queries, **options):
        recorded.append(tuning_queries)
        return index.build_index(embeddings, settings, tuning_queries=tuning_queries, **options)

    def measure(searcher, embeddings, queries, k):
        recorded.append(queries)
        return index.recall_against_exact(searcher, embeddings, queries, k)

    result = {}
    for name in ("none", "test"):
        base, recorded = tmp_path_factory.mktemp(name), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembly, "build_index", build)
            patch.setattr(assembly, "recall_against_exact", measure)
            export.export_release(
                base, runs.data_sets[name], two_tower, ranker, calibrators, INDEX, {}
            )
        tuned_with, measured_with, *again = recorded
        assert all(queries is measured_with for queries in again)
        result[name] = Exported(base, tuned_with, measured_with)
    return result


def files_of_index(base):
    return {path.name: path.read_bytes() for path in (base / "ad_index" / "1").iterdir()}


def test_only_the_named_splits_are_poisoned(data_sets):
    def checksums(name, split):
        return [shard.sha256 for shard in data_sets[name].description.splits[split].shards]

    for split in ("train", "validation", "test"):
        whole = checksums("none", split)
        for name, poisoned in POISONS.items():
            assert (checksums(name, split) == whole) == (split not in poisoned), (name, split)


def test_test_rows_affect_neither_encoder_nor_catalog(data_sets):
    whole, poisoned = data_sets["none"], data_sets["test"]
    assert poisoned.fingerprint == whole.fingerprint
    assert poisoned.catalog().table.equals(whole.catalog().table)
    np.testing.assert_array_equal(poisoned.catalog().features, whole.catalog().features)


def test_test_rows_do_not_affect_pair_rates(data_sets):
    whole, poisoned = data_sets["none"], data_sets["test"]
    pairs = layers.find_pair_rates(whole)
    assert layers.find_pair_rates(poisoned) == pairs != []
    batch = next(iter(whole.batches("validation", 64)))
    found, same = (
        [rates(batch["query"][:, None], batch["ad"]) for rates in layers.pair_rates_of(own, pairs)]
        for own in (whole, poisoned)
    )
    np.testing.assert_array_equal(found, same)


@pytest.mark.trains
def test_held_out_rows_fit_the_calibrators_but_do_not_train_the_ranker(runs, whole_ranker):
    weights, written = whole_ranker
    same, others = runs.ranker("held out")
    assert same == weights
    for head in ("click", "engagement", "revenue"):
        assert others["calibrators"]["curves"][head] != written["calibrators"]["curves"][head]
        assert others["validation"][head] != written["validation"][head]


@pytest.mark.trains
def test_held_out_clicks_affect_only_the_temperature_of_the_first_towers(runs):
    weights, temperature = runs.first_towers("none")
    same, other = runs.first_towers("held out")
    assert same == weights
    assert other != temperature


@pytest.mark.trains
def test_the_refit_learns_from_validation_clicks_but_not_from_test_rows(runs):
    towers = runs.refitted_towers("none")
    assert runs.refitted_again("test") == towers
    assert runs.refitted_towers("held out") != towers


@pytest.mark.trains
@pytest.mark.parametrize(
    ("stage", "metric"),
    [("ranker", "validation_loss"), ("retrieval", "validation_corpus_recall")],
)
def test_held_out_labels_choose_the_best_epoch(runs, stage, metric):
    own, poisoned = (runs.history(name, stage) for name in ("none", "held out"))
    assert poisoned["loss"] == own["loss"]
    assert poisoned[metric] != own[metric]


@pytest.mark.trains
def test_test_rows_do_not_choose_the_best_epoch(runs):
    model, _, _ = runs.load("none", "ranker")
    whole, poisoned = (runs.data_sets[name] for name in ("none", "test"))
    measured = ranker_training._validate(model, whole, RANKER)
    assert ranker_training._validate(model, poisoned, RANKER) == measured
    own, same = (retrieval_training._held_out(one, None) for one in (whole, poisoned))
    np.testing.assert_array_equal(same.query, own.query)
    np.testing.assert_array_equal(same.ad_rows, own.ad_rows)


@pytest.mark.trains
def test_neither_training_labels_nor_test_rows_affect_calibrators(runs, whole_ranker, tmp_path):
    # Only the last step is left: training resumes, is finished, and fits the calibrators.
    shutil.copytree(runs.directory("none", "ranker"), tmp_path / "ranker")
    for name in ("ranker.json", "config.json"):  # The latter names the data.
        (tmp_path / "ranker" / name).unlink()
    poisoned = runs.data_sets["all but validation"]
    train_ranker(poisoned, tmp_path / "ranker")
    assert weights_and_written(*ranking.load_ranker(poisoned, tmp_path / "ranker")) == whole_ranker


@pytest.mark.trains
def test_test_rows_do_not_affect_the_index(exported):
    whole, poisoned = exported["none"], exported["test"]
    assert files_of_index(poisoned.base) == files_of_index(whole.base)
    np.testing.assert_array_equal(poisoned.tuned_with, whole.tuned_with)
    described, same = (manifest.read(one.base, 1) for one in (whole, poisoned))
    assert same.training_id == described.training_id
    assert described.index["kind"] == "IVF"
    for key in ("kind", "build", "search"):
        assert same.index[key] == described.index[key]
    # The poison took effect: probes are test requests.
    assert same.probes != described.probes


@pytest.mark.trains
def test_the_index_is_tuned_with_validation_requests_and_measured_with_test_requests(
    runs, exported
):
    data_set, used = runs.data_sets["none"], exported["none"]
    two_tower, _ = runs.load("none", "retrieval")
    for split, found in (("validation", used.tuned_with), ("test", used.measured_with)):
        queries = [batch["query"].numpy() for batch in data_set.batches(split, 64)]
        embeddings = retrieval.embed_in_batches(
            two_tower.served_query_tower, np.concatenate(queries)
        )
        np.testing.assert_allclose(found, embeddings, atol=1e-5)
