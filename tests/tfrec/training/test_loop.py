"""Training: planted structure is learned, a killed run resumes, the best pass is kept."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tfrec import retrieval, training
from tfrec.metrics import definitions
from tfrec.ranking import ranker_training
from tfrec.retrieval import retrieval_training
from tfrec.training import optimization

pytestmark = pytest.mark.trains


class Killed(Exception):
    """Stands for a process that is killed."""


class Lookup(tf.keras.Model):
    """A table and a dense layer, so that both optimizers have work."""

    def __init__(self):
        super().__init__()
        tf.keras.utils.set_random_seed(1)
        self.table = tf.keras.layers.Embedding(10, 4)
        self.dense = tf.keras.layers.Dense(1)
        self(tf.zeros([1], tf.int32))

    @property
    def sparse_variables(self):
        return [self.table.embeddings]

    def call(self, ids):
        return tf.squeeze(self.dense(self.table(ids)), -1)


PLAN = training.Plan(
    epochs=4,
    patience=3,
    learning_rate=0.05,
    embedding_learning_rate=0.5,
    steps_per_epoch=5,
    metric="score",
    maximize=False,
)
IDS = np.arange(40, dtype=np.int32) % 8  # ids 8 and 9 never occur


class Run:
    """One trainer of a `Lookup`, with scripted validation scores."""

    def __init__(self, directory, scores, plan=PLAN, target=1.0):
        self.model, self.scores = Lookup(), scores
        self.epochs_read, self.weights = [], {}
        self.trainer = training.Trainer(
            self.model,
            lambda batch: {"loss": tf.reduce_mean((self.model(batch["ad_row"]) - target) ** 2)},
            plan,
            directory,
        )

    def batches(self, epoch):
        self.epochs_read.append(epoch)
        rows = np.random.default_rng(epoch).permutation(IDS)
        return tf.data.Dataset.from_tensor_slices({"ad_row": rows}).batch(8)

    def evaluate(self):
        epoch = self.epochs_read[-1]
        self.weights[epoch] = [v.numpy() for v in self.model.trainable_variables]
        if isinstance(self.scores[epoch], Exception):
            raise self.scores[epoch]
        return {"score": self.scores[epoch]}

    def fit(self):
        return self.trainer.fit(self.batches, self.evaluate)

    def assert_has_weights_of(self, epoch):
        for variable, value in zip(
            self.model.trainable_variables, self.weights[epoch], strict=True
        ):
            np.testing.assert_array_equal(variable, value)


def test_the_loss_falls_and_every_pass_is_in_the_history(tmp_path):
    run = Run(tmp_path, [4, 3, 2, 1])
    history = run.fit()
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < 0.1 * history[0]["loss"]
    assert json.loads((tmp_path / "history.json").read_text()) == history
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_best_pass_is_restored_and_can_be_restored_again(tmp_path):
    run = Run(tmp_path, [3, 1, 2, 2])
    run.fit()
    run.assert_has_weights_of(1)
    fresh = Lookup()
    training.restore_best(fresh, tmp_path)
    for variable, value in zip(fresh.trainable_variables, run.weights[1], strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_larger_metric_is_better_where_the_plan_says_so(tmp_path):
    run = Run(tmp_path, [1, 2, 5, 4], dataclasses.replace(PLAN, maximize=True))
    run.fit()
    run.assert_has_weights_of(2)


def test_training_stops_when_patience_is_spent(tmp_path):
    run = Run(tmp_path, [1, 2, 3, 4], dataclasses.replace(PLAN, patience=2))
    assert len(run.fit()) == 3
    run.assert_has_weights_of(0)


def test_a_killed_run_resumes_after_its_last_whole_pass_and_ends_as_if_never_killed(tmp_path):
    whole = Run(tmp_path / "whole", [4, 3, 2, 1])
    expected = whole.fit()
    killed = Run(tmp_path / "killed", [4, 3, Killed(), 1])
    with pytest.raises(Killed):
        killed.fit()
    resumed = Run(tmp_path / "killed", [4, 3, 2, 1])
    history = resumed.fit()
    assert resumed.epochs_read == [2, 3]
    for entry, other in zip(history, expected, strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for variable, value in zip(resumed.model.trainable_variables, whole.weights[3], strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6)


def test_a_run_killed_in_its_first_pass_starts_anew(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, [Killed()]).fit()
    run = Run(tmp_path, [4, 3, 2, 1])
    run.fit()
    assert run.epochs_read == [0, 1, 2, 3]


def test_a_resumed_run_keeps_a_best_pass_from_before_it_was_killed(tmp_path):
    killed = Run(tmp_path, [1, 3, Killed()])
    with pytest.raises(Killed):
        killed.fit()
    resumed = Run(tmp_path, [1, 3, 2, 2])
    resumed.fit()
    for variable, value in zip(resumed.model.trainable_variables, killed.weights[0], strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = Run(tmp_path, [4, 3, 2, 1]).fit()
    again = Run(tmp_path, [])
    assert again.fit() == first
    assert again.epochs_read == []


def test_rows_that_no_batch_holds_are_not_touched(tmp_path):
    before = Lookup().table.embeddings.numpy()
    run = Run(tmp_path, [4, 3, 2, 1])
    run.fit()
    changed = (run.model.table.embeddings.numpy() != before).any(axis=1)
    assert changed.tolist() == [True] * 8 + [False] * 2


def test_ads_that_fill_lists_up_are_no_examples():
    rows = tf.zeros([2, 3], tf.int32)
    mask = tf.constant([[True, True, False], [True, False, False]])
    assert int(training.num_examples({"ad_row": rows, "mask": mask})) == 3
    assert int(training.num_examples({"ad_row": rows[:, 0]})) == 2


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss of pass 1 is nan; .* Lower the learning"):
        Run(tmp_path, [1], target=float("nan")).fit()


def test_a_directory_without_a_best_pass_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*best. Delete .*, and train"):
        training.restore_best(Lookup(), tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data.unlink(), lambda data: data.write_bytes(b"")])
def test_a_best_pass_that_cannot_be_read_says_what_to_delete(tmp_path, damage):
    Run(tmp_path / "refit", [4, 3, 2, 1]).fit()
    (data,) = (tmp_path / "refit" / "best").glob("*.data-*")
    damage(data)
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be read .*Delete .*model, and"):
        training.restore_best(Lookup(), tmp_path / "refit", tmp_path / "model")


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rate = optimization.WarmUpThenCosine(2.0, 100)
    # Step 0: a hundredth of the steps done of the five that warm up: 1/5 of the peak.
    assert float(rate(0)) == pytest.approx(0.4)
    assert float(rate(4)) == pytest.approx(2.0, rel=0.01)
    assert float(rate(50)) == pytest.approx(1.1)
    assert float(rate(100)) == float(rate(200)) == pytest.approx(0.2)


def test_the_ranker_learns_planted_structure(data_set, trained):
    model, _, description = ranker_training.load_ranker(data_set, trained / "ranker")
    history = description["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert description["heads"] == ["click", "engagement", "revenue"]
    held_out = [ranker_training.predict_split(model, data_set, s) for s in ("validation", "test")]
    labels = np.concatenate([predictions.labels["click"] for predictions in held_out])
    logits = np.concatenate([predictions.logits["click"] for predictions in held_out])
    # 1,200 rows put a score without information within 0.5 ± 0.04 (two standard errors).
    assert definitions.auc(labels, logits) > 0.57


def test_the_two_tower_model_learns_planted_structure(data_set, trained):
    model, description = retrieval_training.load_two_tower(data_set, trained / "retrieval")
    assert description["history"][-1]["softmax_loss"] < description["history"][0]["softmax_loss"]
    clicks = retrieval_training.read_clicks(data_set, "test")
    features = np.asarray(data_set.catalogue().features)
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query),
        retrieval.embed_in_batches(model.ad_tower, features),
        50,
    )
    # Fifty of 300 ads drawn at random would hold 0.167 of the clicks.
    assert (found == clicks.ad_rows[:, None]).any(axis=1).mean() > 0.25


def test_calibrated_click_probabilities_have_the_observed_mean(data_set, trained):
    model, calibrators, _ = ranker_training.load_ranker(data_set, trained / "ranker")
    predictions = ranker_training.predict_split(model, data_set, "validation")
    served = ranker_training.served_values(predictions, calibrators)
    ratio = served["click_probability"].sum() / predictions.labels["click"].sum()
    assert ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (ranker_training.load_ranker, "ranker"),
        (retrieval_training.load_two_tower, "retrieval"),
    ],
)
def test_a_model_of_another_data_set_and_a_missing_one_are_refused(
    data_set, trained, tmp_path, load, name
):
    with pytest.raises(FileNotFoundError, match=rf"Run tfrec train_{name} first"):
        load(data_set, tmp_path)
    directory = tmp_path / name
    directory.mkdir()
    description = json.loads((trained / name / f"{name}.json").read_text())
    description["fingerprint"] = "feedbeeffeedbeef"
    (directory / f"{name}.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=rf"set feedbeeffeedbeef; expected {data_set.fingerprint}"):
        load(data_set, directory)


def test_the_average_of_the_weights_forgets_the_start_and_is_lent_to_the_model():
    model = Lookup()
    kernel = model.dense.kernel
    step = training.TrainingStep(
        model,
        lambda batch: {"loss": tf.reduce_mean(model(batch["ad_row"]) ** 2)},
        0.1,
        0.1,
        10,
        0.15,
    )
    batches = tf.data.Dataset.from_tensor_slices({"ad_row": IDS}).batch(8)
    compiled = step.compiled(batches.element_spec)
    weights = [kernel.numpy()]
    for batch in batches.take(2):
        compiled(batch, False)
        weights.append(kernel.numpy())
    # The past weighs 1 / 11 after the first step, then 0.15, which is less than 2 / 12.
    first = weights[0] / 11 + weights[1] * 10 / 11
    expected = 0.15 * first + 0.85 * weights[2]
    with step.averaged():
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)
    np.testing.assert_array_equal(kernel, weights[2])


def test_what_is_validated_and_kept_is_the_average(tmp_path):
    plan = dataclasses.replace(PLAN, epochs=2, average_decay=0.9)
    run = Run(tmp_path, [2.0, 1.0], plan)
    run.fit()
    run.assert_has_weights_of(1)
    last = run.trainer._step._dense[0].numpy()
    average = run.trainer._step.averages[0].numpy()
    np.testing.assert_array_equal(last, average)  # restored: the best pass, averaged
    assert np.abs(run.weights[0][1] - run.weights[1][1]).max() > 1e-3


def test_of_a_small_log_batches_are_smaller_but_never_tiny():
    assert training.batch_size(512, 1_000_000) == 512
    assert training.batch_size(512, 4_000) == 200  # twenty of them
    assert training.batch_size(512, 100) == 64
    assert training.batch_size(32, 100) == 32  # what was asked is the most


def test_of_a_small_log_more_passes_may_be_no_better():
    assert training.patience(2, 2_000) == 2
    assert training.patience(2, 20) == 5  # a hundred steps
    assert training.patience(2, 30) == 4


def test_a_row_seen_for_the_first_time_moves_by_the_first_accumulator():
    model = Lookup()
    before = model.table.embeddings.numpy()
    # The gradient is 3 in every entry of row 2, and 20 steps end the warm-up in the first.
    step = training.TrainingStep(
        model,
        lambda batch: {
            "loss": 3.0 * tf.reduce_sum(model.table(batch["ad_row"]))
            + 0.0 * tf.reduce_sum(model(batch["ad_row"]))
        },
        learning_rate=0.0,
        embedding_learning_rate=0.5,
        steps=20,
        initial_accumulator=16.0,
    )
    spec = {"ad_row": tf.TensorSpec([None], tf.int32)}
    step.compiled(spec)({"ad_row": tf.constant([2])}, tf.constant(False))
    moved = model.table.embeddings.numpy() - before
    # Adagrad: 0.5 · 3 / √(16 + 3²) = 0.3.
    np.testing.assert_allclose(moved[2], -0.3, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(moved, 2, axis=0), 0.0)
