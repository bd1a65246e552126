"""Delayed engagements: rows whose outcome may still come are unknown, whatever is known so far."""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from tfrecords import card, conversion
from tfrecords import schema as schema_lib
from tfrecords.conversion import label_window

pytestmark = pytest.mark.slow

DAY = 86_400
SPAN, WINDOW = 10 * DAY, 3 * DAY
NUM_ROWS, CLICKED, ENGAGED = 20_000, 0.4, 0.5
SCHEMA = schema_lib.Schema(
    "delayed",
    (
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    ),
    ad_key=("ad",),
    click="click",
    engagement="engagement",
    revenue="revenue",
    time="time",
)


@pytest.fixture(scope="module")
def log_table():
    """The log at its end: half of the clicks engage, at any time within the window."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(0, SPAN + 1, NUM_ROWS))
    click = rng.random(NUM_ROWS) < CLICKED
    when = time + rng.random(NUM_ROWS) * WINDOW
    engagement = click & (rng.random(NUM_ROWS) < ENGAGED) & (when <= SPAN)
    columns = {
        "time": 1_600_000_000 + time,
        "country": rng.choice(["CH", "DE"], NUM_ROWS),
        "ad": rng.choice(["a", "b", "c"], NUM_ROWS),
        "click": click.astype(int),
        "engagement": engagement.astype(int),
        "revenue": np.where(engagement, 4.0, 0.0),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def log(log_table, tmp_path_factory):
    path = tmp_path_factory.mktemp("delayed") / "log.csv"
    pa.csv.write_csv(log_table, path)
    return path


@pytest.fixture(scope="module")
def data_set(log, tmp_path_factory):
    return convert(log, tmp_path_factory.mktemp("converted") / "data", workers=1)


def convert(path, directory, window=WINDOW, schema=SCHEMA, **options):
    options = {"split": "fraction", "rows_per_chunk": 3_000, **options}
    return logs.converted(
        path, directory, schema, format="tabular", engagement_window_seconds=window, **options
    )


def rates(data_set):
    """Engagements by click and by impression and revenue by impression, of known labels."""
    windows = [w for s in ("train", "validation", "test") for w in data_set.windows(s)]
    click, engagement, revenue = (
        np.concatenate([w[name].numpy() for w in windows])
        for name in ("click", "engagement", "revenue")
    )
    assert (np.isnan(engagement) == np.isnan(revenue)).all()
    assert not np.isnan(click).any()
    known = engagement[~np.isnan(engagement)]
    return np.nanmean(engagement[click == 1]), known.mean(), np.nanmean(revenue)


def test_rates_are_right_with_the_window_and_low_without(log, data_set, tmp_path):
    with_window = rates(data_set)
    # Half of the engagements of the last three days are still to come: 0.5 · 8.5 / 10. A rate of
    # 5,600 clicks is within 0.014, and of 8,000 within 0.011, by two standard errors.
    assert with_window[0] == pytest.approx(ENGAGED, abs=0.014)
    assert rates(convert(log, tmp_path / "without", window=0))[0] == pytest.approx(0.425, abs=0.011)
    # Per impression: 0.4 · 0.5, and 4 for each.
    assert with_window[1] == pytest.approx(0.2, abs=0.008)
    assert with_window[2] == pytest.approx(0.8, abs=0.03)


def test_rows_inside_the_window_are_counted_and_reported(log_table, data_set):
    # Rows 19,980 to 19,999 are the last thousandth.
    end = np.sort(log_table["time"].to_numpy())[19_979]
    young = int((log_table["time"].to_numpy() > end - WINDOW).sum())
    assert data_set.description.rows_inside_engagement_window == young
    assert data_set.description.rows_after_end_of_log == 0
    known = sum(data_set.label_count(s, "engagement") for s in ("train", "validation", "test"))
    assert known == NUM_ROWS - young
    texts = [warning.text for warning in card.build_card(data_set).warnings]
    said = f"{young:,} rows are younger than the window of 259,200 seconds"
    assert any(text.startswith(said) for text in texts)


def files(directory):
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_the_bytes_are_the_same_for_any_number_of_threads_and_after_a_resume(
    log, data_set, tmp_path, monkeypatch
):
    convert(log, tmp_path / "three", workers=3)
    assert files(tmp_path / "three") == files(data_set.directory)

    def fail(*_):
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(conversion.Stages, "write", fail)
        with pytest.raises(RuntimeError):
            convert(log, tmp_path / "broken")
    convert(log, tmp_path / "broken")
    assert files(tmp_path / "broken") == files(data_set.directory)


def test_times_in_milliseconds_are_recognized(log_table, tmp_path):
    milliseconds = pa.array(log_table["time"].to_numpy() * 1_000)
    path = tmp_path / "log.csv"
    pa.csv.write_csv(log_table.set_column(0, "time", milliseconds), path)
    assert rates(convert(path, tmp_path / "data"))[0] == pytest.approx(ENGAGED, abs=0.014)


def with_time(log_table, row, time, path):
    times = log_table["time"].to_numpy().copy()
    times[row] = time
    pa.csv.write_csv(log_table.set_column(0, "time", pa.array(times)), path)
    return path


def test_a_row_with_a_date_in_the_future_does_not_make_all_others_old(log_table, tmp_path):
    # 2038 among times of 2020, at the log's beginning.
    path = with_time(log_table, 0, 2_147_483_647, tmp_path / "log.csv")
    data_set = convert(path, tmp_path / "data")
    assert rates(data_set)[0] == pytest.approx(ENGAGED, abs=0.014)
    young = int((log_table["time"].to_numpy() > log_table["time"].to_numpy().max() - WINDOW).sum())
    # The last thousandth of ten days is 864 s long: 20 more rows, and the one in the future.
    assert 0 < data_set.description.rows_inside_engagement_window - young <= 2 * 21
    assert data_set.description.rows_after_end_of_log == 1
    texts = [warning.text for warning in card.build_card(data_set).warnings]
    assert any(text.startswith("1 row is more than 259,200 seconds later") for text in texts)


def test_a_wrong_time_does_not_change_the_unit_of_the_others(log_table, tmp_path):
    milliseconds = log_table.set_column(0, "time", pa.array(log_table["time"].to_numpy() * 1_000))
    # One in a hundred.
    path = with_time(milliseconds, slice(None, None, 100), 0, tmp_path / "log.csv")
    assert rates(convert(path, tmp_path / "data"))[0] == pytest.approx(ENGAGED, abs=0.014)


def test_a_log_that_is_no_longer_than_the_window_is_refused(log, tmp_path):
    message = r"No training row is older than engagement_window_seconds \(1e\+06\): the log spans"
    with pytest.raises(ValueError, match=message):
        convert(log, tmp_path / "data", window=1e6)


def test_the_span_of_two_rows_is_not_negative():
    assert label_window.span(np.array([20.0, 10.0])) == (10.0, 20.0)


def test_a_window_needs_a_time_and_a_label_and_no_sampled_negatives(log, tmp_path):
    timeless = dataclasses.replace(SCHEMA, time=None)
    with pytest.raises(ValueError, match=r"name a time column \(time\) in the schema"):
        convert(log, tmp_path / "data", schema=timeless)
    unlabeled = dataclasses.replace(SCHEMA, engagement=None, revenue=None)
    with pytest.raises(ValueError, match="names none of engagement, revenue"):
        convert(log, tmp_path / "data", schema=unlabeled)
    with_users = dataclasses.replace(SCHEMA, user_key="country")
    with pytest.raises(ValueError, match=r"sampled_negatives cannot be combined: .* Set one"):
        convert(log, tmp_path / "data", schema=with_users, sampled_negatives=1)
    with pytest.raises(ValueError, match="engagement_window_seconds must be 0 or more, got -1"):
        convert(log, tmp_path / "data", window=-1)
