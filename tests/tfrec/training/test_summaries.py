"""Summaries for TensorBoard, read back from the event files."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from tfrec import retrieval, training
from tfrec.training import summaries


def read(directory):
    """Reads the events of a run."""
    events = event_accumulator.EventAccumulator(
        str(directory), {event_accumulator.TENSORS: 0, event_accumulator.HISTOGRAMS: 0}
    )
    return events.Reload()


def scalars(events, tag):
    """Maps steps to the values of a scalar."""
    return {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)}


def norms_of(dense, sparse):
    """The norms of gradients of a sampled step."""
    norms = summaries.GradientNorms()
    norms.update(tf.constant(summaries.STEPS_PER_SAMPLE), dense, sparse)
    return norms.read()


def test_the_gradient_of_a_row_is_summed_before_its_norm():
    dense = [tf.constant([[3.0]]), None]
    # Row 7 has gradients 1 + 2 in its first column, row 5 has 4: the norm is 5, not √21.
    sparse = [tf.IndexedSlices(tf.constant([[1.0], [4.0], [2.0]]), tf.constant([7, 5, 7]))]
    norms = norms_of(dense, sparse)
    assert float(norms["norm_of_gradient/dense"]) == pytest.approx(3.0)
    assert float(norms["norm_of_gradient/sparse"]) == pytest.approx(5.0)


def test_a_model_without_tables_has_a_sparse_gradient_of_zero():
    norms = norms_of([tf.constant([2.0])], [])
    assert float(norms["norm_of_gradient/sparse"]) == 0.0


class Model(tf.keras.Model):
    """A table whose rows have norm 2, a matrix and a vector."""

    def __init__(self, num_rows):
        super().__init__()
        self.table = self.add_weight("table", (num_rows, 4), initializer="ones")
        self.matrix = self.add_weight("matrix", (2, 3), initializer="ones")
        self.vector = self.add_weight("vector", (3,), initializer="ones")
        self.built = True

    @property
    def sparse_variables(self):
        return [self.table]


def test_histograms_hold_matrices_and_the_row_norms_of_a_part_of_the_tables(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        summaries.write_histograms(Model(30_000), 1)
    events = read(tmp_path)
    assert sorted(events.Tags()["tensors"]) == ["row_norm/table", "weights/matrix"]
    histograms = {
        tag: tf.make_ndarray(events.Tensors(tag)[0].tensor_proto)
        for tag in events.Tags()["tensors"]
    }
    # A histogram is rows of left edge, right edge, count.
    assert histograms["row_norm/table"][:, 2].sum() == 10_000
    assert histograms["row_norm/table"][:, :2] == pytest.approx(2.0, abs=1.0)
    assert histograms["weights/matrix"][:, 2].sum() == 6


@pytest.fixture
def often(monkeypatch):
    """Samples every second step."""
    monkeypatch.setattr(summaries, "STEPS_PER_SAMPLE", 2)


PLAN = training.Plan(
    epochs=2,
    patience=2,
    learning_rate=1e-3,
    embedding_learning_rate=0.05,
    steps_per_epoch=6,
    examples_per_epoch=384,
    metric="score",
    maximize=True,
)


@pytest.mark.trains
def test_a_run_of_the_retrieval_stage_shows_every_curve(
    data_set, retrieval_config, tmp_path, often
):
    model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    history = training.fit(
        model,
        lambda number: data_set.clicked("train", 64, seed=number),
        lambda: {"score": 1.0},
        PLAN,
        tmp_path,
    )
    events = read(tmp_path / "tensorboard")
    tags = events.Tags()["tensors"]
    for tag in (
        "batch/loss",
        "norm_of_gradient/dense",
        "norm_of_gradient/sparse",
        "learning_rate/dense",
        "learning_rate/sparse",
    ):
        values = scalars(events, tag)
        assert sorted(values) == [2, 4, 6, 8, 10, 12], tag
        assert all(value > 0 for value in values.values()), tag
    assert scalars(events, "epoch/score") == {1: 1.0, 2: 1.0}
    assert len(scalars(events, "speed/examples_per_second_of_epoch")) == len(history) == 2
    # TensorBoard shows groups in this order, and opens with the losses.
    assert sorted(tags)[0].startswith("batch/")
    assert list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags)))[:3] == [
        "batch",
        "epoch",
        "learning_rate",
    ]
    assert [tag for tag in sorted(tags) if tag.startswith("batch/")] == [
        "batch/loss",
        "batch/softmax_loss",
    ]
    assert [tag for tag in tags if tag.startswith("row_norm/")]
    # Step 2 of 12, with the index 1, is the second of four that warm up: half of
    # 0.55 + 0.45 cos(π / 12) of the peak.
    expected = 0.5e-3 * (0.55 + 0.45 * np.cos(np.pi / 12))
    assert scalars(events, "learning_rate/dense")[2] == pytest.approx(expected, rel=1e-4)
