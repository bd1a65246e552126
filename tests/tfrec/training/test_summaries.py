"""What TensorBoard is given, read back from the event files."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from tfrec import ranking, retrieval, training
from tfrec.training import summaries
from tfrecords import encoding, schema

FIELDS = (
    schema.Field("tags", "categorical_list", "ad", max_list_length=3, num_oov_buckets=1),
    schema.Field("shop", "categorical", "ad", num_oov_buckets=1),
)
FITTED = encoding.FittedSchema(
    schema.Schema("tiny", (*FIELDS, schema.Field("city", "categorical", "query")), ("shop",), "c"),
    {
        "tags": encoding.FieldStatistics(("a", "b")),  # ids 0 to 3
        "shop": encoding.FieldStatistics(("x",)),  # ids 0 to 2
        "city": encoding.FieldStatistics(),
    },
)


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


class Rows(tf.keras.layers.Layer):
    """Stands where field embeddings do: the norm of a field's embedding is its first id."""

    def call(self, ids):
        first = tf.cast(tf.gather(ids, [0, 3], axis=1), tf.float32)
        return tf.stack([first, tf.zeros_like(first)], axis=-1)


def test_embedding_norms_are_means_by_field_over_the_batch_and_over_the_table():
    ids = tf.constant([[1, 2, 0, 2], [3, 0, 0, 0]])
    norms = summaries.embedding_norms(Rows(), FIELDS, FITTED, ids)
    assert norms["norm_of_embeddings_in_batch/ad/tags"] == pytest.approx(2.0)  # (1 + 3) / 2
    assert norms["norm_of_embeddings_in_batch/ad/shop"] == pytest.approx(1.0)  # (2 + 0) / 2
    # Uniform over 0..3 and 0..2; four standard errors of 256 draws are 0.28 and 0.20.
    assert norms["norm_of_embeddings_in_table/ad/tags"] == pytest.approx(1.5, abs=0.28)
    assert norms["norm_of_embeddings_in_table/ad/shop"] == pytest.approx(1.0, abs=0.2)
    again = summaries.embedding_norms(Rows(), FIELDS, FITTED, ids)
    assert again == norms


def test_the_speed_is_that_since_the_last_reading():
    meter = summaries.Meter(clock=iter([10.0, 12.0, 16.0]).__next__)
    assert meter.read(100) == {"speed/examples_per_second": 50.0}
    assert meter.read(300) == {"speed/examples_per_second": 50.0}


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
    of_tag = {
        tag: tf.make_ndarray(events.Tensors(tag)[0].tensor_proto)
        for tag in events.Tags()["tensors"]
    }
    # A histogram is rows of left edge, right edge, count.
    assert of_tag["row_norm/table"][:, 2].sum() == 10_000
    assert of_tag["row_norm/table"][:, :2] == pytest.approx(2.0, abs=1.0)
    assert of_tag["weights/matrix"][:, 2].sum() == 6


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
    side = data_set.schema.ad_fields
    batch = next(iter(data_set.clicked("train", 64, seed=1)))

    def observe():
        norms = summaries.embedding_norms(
            model.ad_tower.field_embeddings, side, data_set.fitted, batch["ad"]
        )
        return {"temperature": model.temperature, **norms}

    training.fit(
        model,
        lambda number: data_set.clicked("train", 64, seed=number),
        lambda: {"score": 1.0},
        PLAN,
        tmp_path,
        observe=observe,
    )
    events = read(tmp_path / "tensorboard")
    tags = events.Tags()["tensors"]
    for tag in (
        "batch/loss",
        "speed/examples_per_second",
        "norm_of_gradient/dense",
        "norm_of_gradient/sparse",
        "learning_rate/dense",
        "learning_rate/sparse",
        "temperature",
        *(f"norm_of_embeddings_in_batch/ad/{field.name}" for field in side),
        *(f"norm_of_embeddings_in_table/ad/{field.name}" for field in side),
    ):
        values = scalars(events, tag)
        assert sorted(values) == [2, 4, 6, 8, 10, 12], tag
        assert all(value > 0 for value in values.values()), tag
    assert scalars(events, "epoch/score") == {1: 1.0, 2: 1.0}
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
    # Step 2 of 12 is past the warm-up: 0.55 + 0.45 cos(π / 12) of the peak, as the rate of a
    # step is taken before it.
    expected = 1e-3 * (0.55 + 0.45 * np.cos(np.pi / 12))
    assert scalars(events, "learning_rate/dense")[2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.trains
def test_a_run_of_the_ranker_measures_shown_ads_alone(data_set, ranker_config, tmp_path, often):
    ranker_config = dataclasses.replace(ranker_config, num_blocks=1)
    model = ranking.build_ranker(data_set, ranker_config)

    # The lists are filled up with ads of zeros, which are not measured.
    batch = next(b for b in data_set.batches("train", 64) if not b["mask"].numpy().all())
    observe = functools.partial(
        summaries.norms_of_sides,
        model.query_embeddings,
        model.ad_embeddings,
        data_set.fitted,
        batch,
    )
    history = training.fit(
        model,
        lambda number: data_set.batches("train", 64, seed=number),
        lambda: {"score": 1.0},
        PLAN,
        tmp_path,
        observe=observe,
    )
    events = read(pathlib.Path(tmp_path) / "tensorboard")
    assert len(scalars(events, "speed/examples_per_second_of_epoch")) == len(history) == 2
    for field in (*data_set.schema.query_fields, *data_set.schema.ad_fields):
        assert scalars(events, f"norm_of_embeddings_in_batch/{field.side}/{field.name}")
    shown = batch["ad"].numpy()[batch["mask"].numpy()]
    alone = summaries.embedding_norms(
        model.ad_embeddings, data_set.schema.ad_fields, data_set.fitted, tf.constant(shown)
    )
    measured = observe()
    for name, value in alone.items():
        assert measured[name] == pytest.approx(value)
