"""The towers find what the ranker would choose, for any weights of its heads."""

import dataclasses
import shutil

import lessons
import numpy as np
import pytest
import tensorflow as tf

from tfrec import retrieval, training
from tfrec.retrieval import distillation
from tfrecords import synthetic

pytestmark = pytest.mark.slow

HEADS = ("click", "revenue")


SCHEMA = synthetic.schema()
DEVICE = [field.name for field in SCHEMA.query_fields].index("C4")
FORMAT, CATEGORY = ([field.name for field in SCHEMA.ad_fields].index(n) for n in ("C8", "C17"))


def true_values(query, ad):
    """A click depends on the device and the format of the ad, revenue on its category."""
    query, ad = np.asarray(query), np.asarray(ad)
    match = (query[:, None, DEVICE] + ad[..., FORMAT]) % 3 == 0
    return {"click": 0.1 + 0.8 * match, "revenue": 0.01 * (ad[..., CATEGORY] % 4 == 0)}


TEACHER = retrieval.Teacher({"click": 1.0, "revenue": 0.0}, true_values)


@pytest.fixture(scope="module", autouse=True)
def usual_lessons():
    with pytest.MonkeyPatch.context() as patched:
        lessons.give(lessons.USUAL, patched.setattr)
        yield


@pytest.fixture
def catalog(data_set):
    return np.asarray(data_set.catalog().features)


def test_lessons_hold_what_the_teacher_says(data_set, catalog):
    queries = retrieval.read_queries(data_set, "train", 300)
    drawn = distillation.Lessons.draw(TEACHER, queries, catalog, None, seed=1)
    # Two lessons of 128 requests, each request once; the rest are too few for one.
    assert drawn.query.shape[:2] == (2, 128)
    assert drawn.ad_rows.shape == (2, 64)
    for query, rows, values in zip(*vars(drawn).values(), strict=True):
        assert len(set(rows)) == 64
        said = true_values(query, np.broadcast_to(catalog[rows], (128, 64, catalog.shape[1])))
        for i, head in enumerate(HEADS):
            np.testing.assert_allclose(values[..., i], said[head], rtol=1e-6)
    np.testing.assert_allclose(
        drawn.deviations, drawn.values.std(axis=2).mean(axis=(0, 1)), rtol=1e-6
    )


def test_the_requests_of_a_small_log_are_in_eight_lessons_each(data_set):
    queries = retrieval.read_queries(data_set, "train", 10_000)
    lesson_queries = distillation._read_queries(data_set)
    np.testing.assert_array_equal(lesson_queries, np.tile(queries, (8, 1)))


def test_half_of_the_ads_of_a_hard_lesson_are_found_by_the_towers(data_set, catalog):
    queries = retrieval.read_queries(data_set, "train", 32)
    found = np.tile([3, 5, 8], (len(queries), 1))
    drawn = distillation.Lessons.draw(TEACHER, queries, catalog, found, seed=1)
    (rows,) = drawn.ad_rows
    assert np.isin(rows[: len(rows) // 2], [3, 5, 8]).all()
    assert len(set(rows[len(rows) // 2 :])) == len(rows) - len(rows) // 2


class InSecondTraining(tf.keras.callbacks.Callback):
    """Copies the work directory in the second training of a student, as a kill would leave it."""

    def __init__(self, directory):
        super().__init__()
        self.directory, self.copy = directory, directory.with_name(f"{directory.name}_killed")
        self.trainings = 0

    def on_train_begin(self, logs=None):
        self.trainings += isinstance(self.model, distillation.Student)

    def on_epoch_begin(self, epoch, logs=None):
        if self.trainings == 2 and epoch == 1:
            shutil.copytree(self.directory, self.copy)


@pytest.fixture(scope="module")
def in_second_training(tmp_path_factory):
    return InSecondTraining(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def taught(data_set, retrieval_config, in_second_training, deterministic):
    """The work directory of a model that the teacher of known values taught."""
    directory = in_second_training.directory
    retrieval.train_two_tower(
        data_set,
        one_pass(retrieval_config),
        directory,
        callbacks=[in_second_training],
        teacher=TEACHER,
    )
    assert {path.name for path in (directory / "distillation").iterdir()} == {"uniform", "hard"}
    return directory


def one_pass(config):
    return dataclasses.replace(config, epochs=1)


def best_of(model, queries, catalog, weights, k=10):
    """The mean value, in standard deviations, of the first k ads by weights."""
    tower = model.weighted_query_tower
    ads = retrieval.embed_in_batches(model.ad_tower, catalog)
    embedded = tower(tf.constant(queries), tf.constant(weights, tf.float32)).numpy()
    found = retrieval.exact_top_k(embedded, ads, k)
    every = true_values(queries, np.broadcast_to(catalog, (len(queries), *catalog.shape)))
    values = [(v - v.mean()) / v.std() for v in every.values()]
    return [np.take_along_axis(v, found, axis=1).mean() for v in values]


@pytest.mark.trains
def test_the_ads_found_follow_the_weights_of_the_request(data_set, taught, catalog):
    model, description = retrieval.load_two_tower(data_set, taught)
    assert description["distillation"]["heads"] == list(HEADS)
    queries = retrieval.read_queries(data_set, "validation", 50)
    by_click = best_of(model, queries, catalog, [1.0, 0.0])
    by_revenue = best_of(model, queries, catalog, [0.0, 1.0])
    # Without weights, the default ones.
    assert by_click == best_of(model, queries, catalog, [0.0, 0.0])
    np.testing.assert_array_equal(
        model.served_query_tower(queries), model.weighted_query_tower(queries, [1.0, 0.0])
    )
    # All ten ads have the better click probability. So have many of the ten by revenue, whose best
    # ads have equal values.
    every = true_values(queries, np.broadcast_to(catalog, (len(queries), *catalog.shape)))["click"]
    best = ((every.max(axis=1) - every.mean()) / every.std()).mean()
    assert by_click[0] == pytest.approx(best)
    assert by_click[0] > by_revenue[0]
    assert by_revenue[1] > max(1.0, by_click[1] + 0.5)


@pytest.mark.trains
def test_only_the_ratio_of_weights_matters(data_set, taught):
    model, _ = retrieval.load_two_tower(data_set, taught)
    queries = retrieval.read_queries(data_set, "validation", 20)
    large, small = (model.weighted_query_tower(queries, [2.0 * a, 30.0 * a]) for a in (1.0, 1e-4))
    np.testing.assert_allclose(large, small, atol=1e-5)
    rows = tf.constant([[2.0, 30.0]] * 20)
    np.testing.assert_allclose(large, model.weighted_query_tower(queries, rows), atol=1e-6)
    np.testing.assert_allclose(tf.norm(large, axis=1), 1.0, atol=1e-5)


@pytest.mark.trains
def test_the_utility_share_is_measured_on_the_ads_found(data_set, taught, catalog):
    model, description = retrieval.load_two_tower(data_set, taught)
    queries = retrieval.read_queries(data_set, "validation", 100)
    tower = model.weighted_query_tower
    ads = retrieval.embed_in_batches(model.ad_tower, catalog)
    measured = distillation.UtilityShare(TEACHER, queries, catalog).measure(tower, ads)
    every = true_values(queries, np.broadcast_to(catalog, (len(queries), *catalog.shape)))
    for name, weights in (("click", [1.0, 0.0]), ("revenue", [0.0, 1.0])):
        best = np.sort(every[name], axis=1)[:, -10:].sum()
        found = retrieval.exact_top_k(tower(queries, weights).numpy(), ads, 100)
        values = np.take_along_axis(every[name], found, axis=1)
        share = np.sort(values, axis=1)[:, -10:].sum() / best
        assert measured[name][100][0] == pytest.approx(share, rel=1e-4)
    assert measured["utility"] == measured["click"]
    # All of so few ads are candidates.
    assert set(measured["click"]) == {10, 50, 100, len(catalog)}
    assert measured["click"][len(catalog)] == (1.0, 0.0)
    written = description["distillation"]["utility_share"]
    assert written == {name: {"share": 1.0, "error": 0.0} for name in measured}


@pytest.mark.parametrize("count", [1, 2, 3, 127, 128])
def test_lessons_of_both_kinds_have_one_size(catalog, data_set, count):
    queries = retrieval.read_queries(data_set, "train", count)
    uniform, hard = (
        distillation.Lessons.draw(TEACHER, half, catalog, None, seed=1)
        for half in distillation._halves(queries)
    )
    both = uniform.followed_by(hard)
    assert len(both.query) == len(both.values) == 2 * len(uniform.query)


@pytest.mark.parametrize(
    ("default", "deviations", "weights"),
    [
        ([0.0, 0.0], [1.0, 1.0], None),
        ([1.0, 1.0], [0.0, 0.0], None),
        ([1.0, 0.0], [0.0, 1.0], None),
        ([1.0, 1.0], [0.0, 1.0], [3.0, 0.0]),
    ],
)
def test_a_query_always_has_length_one(data_set, retrieval_config, default, deviations, weights):
    model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    model.learn_weights(dict(zip(HEADS, default, strict=True)))
    tower = model.weighted_query_tower
    tower.deviations.assign(deviations)
    queries = tower(tf.constant(retrieval.read_queries(data_set, "validation", 5)), weights)
    np.testing.assert_allclose(tf.norm(queries, axis=1), 1.0, atol=1e-5)


def test_a_head_whose_values_are_all_zero_has_no_utility_share(data_set, retrieval_config, catalog):
    teacher = retrieval.Teacher(
        {"click": 1.0, "revenue": 1.0},
        lambda query, ad: {**true_values(query, ad), "revenue": np.zeros(ad.shape[:2])},
    )
    model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    model.learn_weights(teacher.weights)
    queries = retrieval.read_queries(data_set, "validation", 5)
    shares = distillation.UtilityShare(teacher, queries, catalog).measure(
        model.weighted_query_tower, retrieval.embed_in_batches(model.ad_tower, catalog)
    )
    assert set(shares) == {"utility", "click"}


def test_before_lessons_every_weighting_gives_the_query_of_the_tower(data_set, retrieval_config):
    model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    queries = tf.constant(retrieval.read_queries(data_set, "validation", 5))
    before = model.served_query_tower(queries)
    model.learn_weights({"click": 1.0, "revenue": 3.0})
    for weights in (None, [0.0, 1.0], [5.0, 0.1]):
        np.testing.assert_allclose(model.weighted_query_tower(queries, weights), before, atol=1e-6)


def test_a_head_that_does_not_tell_ads_apart_teaches_nothing(data_set, retrieval_config):
    catalog = data_set.catalog()
    model = retrieval.build_two_tower(data_set, retrieval_config, catalog)
    model.learn_weights({"click": 1.0})
    student = distillation.Student(model, np.asarray(catalog.features))
    lesson = {
        "query": retrieval.read_queries(data_set, "train", 4),
        "ad_rows": np.arange(6),
        "values": np.full((4, 6, 1), 0.3, np.float32),
    }
    lesson = {name: tf.constant(value) for name, value in lesson.items()}
    assert student.compute_loss(lesson, training=True) == 0.0
    lesson["values"] *= np.linspace(0.9, 1.1, 6, dtype=np.float32)[:, None]
    assert student.compute_loss(lesson, training=True) > 0.0


class Killed(Exception):
    """Stands for a process that is killed."""


@pytest.mark.parametrize(
    ("teacher", "epochs", "expected"), [(None, 20, 20), (TEACHER, 20, 3), (TEACHER, 2, 2)]
)
def test_a_ranker_teaches_after_at_most_three_epochs_of_clicks(
    teacher, epochs, expected, data_set, retrieval_config, tmp_path, monkeypatch
):
    planned = []

    def fit(model, read, validate, plan, *_, **__):
        planned.append(plan.epochs)
        raise Killed

    monkeypatch.setattr(training, "fit", fit)
    config = dataclasses.replace(retrieval_config, epochs=epochs)
    with pytest.raises(Killed):
        retrieval.train_two_tower(data_set, config, tmp_path, teacher=teacher)
    assert planned == [expected]


@pytest.mark.trains
def test_a_killed_distillation_resumes_where_it_stopped(
    data_set, retrieval_config, taught, in_second_training, capsys
):
    killed = in_second_training.copy
    assert not (killed / "retrieval.json").exists()
    config = one_pass(retrieval_config)
    retrieval.train_two_tower(data_set, config, killed, progress=True, teacher=TEACHER)
    lines = capsys.readouterr().out.splitlines()
    # The first lessons were finished.
    first, second, *epochs = lines
    assert first == "  lessons of the ranker on random ads"
    assert second == "  lessons of the ranker, also on ads that the towers find"
    assert epochs
    assert all(line.startswith("  epoch ") for line in epochs)
    resumed, expected = (retrieval.load_two_tower(data_set, d)[0] for d in (killed, taught))
    for ours, theirs in zip(resumed.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
