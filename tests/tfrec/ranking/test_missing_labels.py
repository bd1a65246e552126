"""Labels that are missing: in a row, in a batch, in a whole split."""

import dataclasses

import logs
import numpy as np
import pytest

from tfrec import ranking
from tfrecords import reader, schema

SCHEMA = schema.Schema(
    "partly",
    (
        schema.Field("country", "categorical", "query"),
        schema.Field("ad", "categorical", "ad"),
    ),
    ad_key=("ad",),
    click="click",
    engagement="engagement",
    revenue="revenue",
    time="time",
)


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """A log whose held-out rows have only click labels, as do many of its training rows."""
    rng = np.random.default_rng(0)
    lines = ["time,country,ad,click,engagement,revenue"]
    for time in range(1_500):
        click = int(rng.random() < 0.4)
        engagement = click * int(rng.random() < 0.5)
        labels = [str(click), str(engagement), str(2.5 * engagement)]
        gone = rng.random(3) < ((0.0, 0.5, 0.3) if time < 1_200 else (0.0, 1.0, 1.0))
        known = ["" if g else label for g, label in zip(gone, labels, strict=True)]
        country, ad = rng.choice(["CH", "DE"]), rng.choice(["a", "b"])
        lines.append(f"{time},{country},{ad},{','.join(known)}")
    directory = tmp_path_factory.mktemp("partly")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    return logs.converted(directory / "log.csv", directory / "data", SCHEMA, format="tabular")


@pytest.mark.trains
def test_heads_without_held_out_labels_are_trained_and_not_measured(
    partly, ranker_config, tmp_path
):
    counts = {label: partly.label_count("train", label) for label in partly.spec.labels}
    assert counts["click"] == 1_200 > counts["revenue"] > counts["engagement"] > 500
    assert partly.label_count("validation", "engagement") == 0
    config = dataclasses.replace(ranker_config, num_blocks=0, batch_size=8, epochs=1)
    ranking.train_ranker(partly, config, tmp_path)
    model, calibrators, description = ranking.load_ranker(partly, tmp_path)
    # Batches of eight rows: of some no row has an engagement label, and none gives a NaN.
    assert np.isfinite(description["history"][0]["engagement_loss"])
    assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)
    assert description["validation"]["engagement"] == {"labeled": 0, "positives": 0}
    assert description["validation"]["revenue"] == {"labeled": 0, "positives": 0}
    predictions = ranking.predict_split(model, partly, "test")
    served = ranking.served_values(predictions, calibrators)
    assert all(np.isfinite(values).all() for values in served.values())
    # 0.4 · 0.5 of the rows; 720 labels of engagement are within 0.04 by two standard errors.
    assert served["engagement_probability"].mean() == pytest.approx(0.2, abs=0.06)


def test_a_label_without_positive_training_rows_has_no_head(partly, ranker_config):
    """The schema names it, and the column is empty."""
    empty = reader.DataSet(partly.directory)
    empty.description.splits["train"].label_positives["revenue"] = 0
    model = ranking.build_ranker(empty, dataclasses.replace(ranker_config, num_blocks=0))
    assert list(model.heads) == list(model.tasks) == ["click", "engagement"]
    assert set(ranking.predict_split(model, empty, "test").labels) == {"click", "engagement"}


def test_an_empty_validation_split_is_refused_before_training(partly):
    nothing = reader.DataSet(partly.directory)
    validation = nothing.description.splits["validation"]
    validation.rows = validation.requests = 0
    with pytest.raises(ValueError, match=r"The validation split of .* is empty.*--validation_frac"):
        ranking.check_trainable(nothing)


def test_held_out_rows_without_click_labels_are_refused_before_training(partly):
    unknown = reader.DataSet(partly.directory)
    unknown.description.splits["validation"].label_counts["click"] = 0
    with pytest.raises(ValueError, match=r"No row of the validation split of .* has a click"):
        ranking.check_trainable(unknown)
