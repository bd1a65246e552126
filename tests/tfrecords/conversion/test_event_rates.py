"""Rates of a converted log equal those that a loop over its rows computes."""

import functools

import history_logs
import numpy as np
import pandas as pd
import pytest
from history_logs import RATES, converted, log, schema_with_rates

from tfrecords import convert, encoding, reader
from tfrecords.conversion import event_rates, user_events
from tfrecords.schema import AD, schema_from_json
from tfrecords.splits import SPLITS

pytestmark = pytest.mark.slow

DAY = 86_400.0


def rate(rows, before, values, field, overall):
    """Returns the rate of a value, given the records of a log and the time of a request."""
    column, label = ("sku" if field.of == AD else field.of), field.event[0]
    if label == "impression":
        first = rows.t[rows[column] == values[column]].min()
        return (before - first) / DAY if values[column] and first < before else np.nan
    label = {"click": "clicked", "engagement": "bought"}[label]
    days = np.inf if field.max_age_days is None else field.max_age_days
    seen = rows[(rows[column] == values[column]) & (rows.t < before)]
    seen = seen[(seen.t >= before - days * DAY) & ~np.isnan(seen[label])]
    if not values[column] or not len(seen):
        return np.nan
    return (seen[label].sum() + event_rates.SMOOTHING * overall[label]) / (
        len(seen) + event_rates.SMOOTHING
    )


def end_of(times):
    """Returns the time of the end of a log, without the last thousandth of its rows."""
    return np.quantile(times, 0.999, method="lower")


def overall_of(frame):
    train = frame[frame.split == "train"]
    return {name: train[name].mean() for name in ("clicked", "bought")}


def encoded(data_set, frame):
    """Returns the ids of the rates [C, rates] of the rows of each request, by request."""
    schema = data_set.schema
    columns = dict(encoding.columns(schema.ad_fields))
    starts = [columns[field].start for field in schema.rates]
    row = dict(encoding.columns(schema.query_fields))[schema.fields[0]].start
    words = ("", *data_set.fitted.statistics["row"].vocabulary)
    found = {}
    for split in SPLITS:
        names = iter(frame.row[frame.split == split].unique())
        for window in data_set.windows(split).as_numpy_iterator():
            ends = np.cumsum(window["list_lengths"])
            for query, ads in zip(window["query"], np.split(window["ad"], ends)[:-1], strict=True):
                name = words[query[row]] if split == "train" else next(names)
                found[name] = ads[:, starts]
    return found


def expected(data_set, frame):
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.ad_fields)
    # Selecting from records is ten times faster than from a frame.
    records, times, overall = frame.to_records(), frame.groupby("row").t.min(), overall_of(frame)
    found = {name: np.zeros((len(rows), len(RATES))) for name, rows in frame.groupby("row")}
    for place, field in enumerate(data_set.schema.rates):
        numbers = [
            rate(records, times[values["row"]], values, field, overall)
            for values in frame.to_dict("records")
        ]
        ids = encoder.encode_column(field, np.array(numbers, np.float32)).numpy()
        for name, rows in frame.reset_index().groupby("row"):
            found[name][:, place] = ids[rows.index]
    return found


@pytest.fixture(scope="module")
def in_one_chunk(tmp_path_factory):
    """Converted rates of `log(150)`."""
    directory = tmp_path_factory.mktemp("rates") / "one"
    return converted(log(150), schema_with_rates(), directory, 10_000, workers=1)


def test_each_row_has_the_rates_before_its_request(in_one_chunk):
    frame = log(150)
    found, wanted = encoded(in_one_chunk, frame), expected(in_one_chunk, frame)
    assert found.keys() == wanted.keys()
    for name, ids in found.items():
        np.testing.assert_array_equal(ids, wanted[name], err_msg=name)
    ids = np.concatenate(list(found.values()))
    # Some rows have no rate, and the others have many.
    assert (ids == 0).any(axis=0).all()
    assert (np.ptp(ids, axis=0) > 10).all()


def test_the_catalog_has_the_rates_of_the_ends_of_validation_and_of_the_log(tmp_path):
    frame = log()
    starts = frame.groupby("row").t.transform("min")
    frame["t"] = starts
    # Some test requests are at the time of the last validation request.
    edges = starts.quantile([0.6, 0.8]).to_numpy()
    frame["split"] = np.array(SPLITS)[np.searchsorted(edges, starts)]
    tied = frame.row[(starts == edges[1])].unique()[-1]
    frame.loc[frame.row == tied, "split"] = "test"
    schema = schema_with_rates()
    table = converted(frame, schema, tmp_path / "data").catalog().table.to_pandas()
    latest = frame.sort_values("t", kind="stable").drop_duplicates("sku", keep="last")
    latest, records = latest.set_index("sku"), frame.to_records()
    for ad in table.to_dict("records"):
        values = {"sku": ad[reader.AD_ID], "brand": latest.brand[ad[reader.AD_ID]]}
        for field in schema.rates:
            wanted = rate(records, edges[1], values, field, overall_of(frame))
            np.testing.assert_allclose(ad[field.name], wanted, rtol=1e-6)
            wanted = rate(records, end_of(frame.t) + 1, values, field, overall_of(frame))
            np.testing.assert_allclose(ad[reader.RELEASED + field.name], wanted, rtol=1e-6)
    # No test label is in what is measured.
    frame.loc[frame.split == "test", "clicked"] = 1 - frame.clicked
    again = converted(frame, schema, tmp_path / "poisoned").catalog().table.to_pandas()
    np.testing.assert_array_equal(again.brand_clicks, table.brand_clicks)
    np.testing.assert_array_equal(again.ad_clicks, table.ad_clicks)


def test_times_before_1970_have_the_same_rates(tmp_path):
    frame, schema = log(150).sort_values("t", kind="stable"), schema_with_rates(split=None)
    names = [field.name for field in schema.rates]
    table = converted(frame, schema, tmp_path / "data").catalog().table.to_pandas()
    earlier = frame.assign(t=frame.t - 2_000_000_000)
    found = converted(earlier, schema, tmp_path / "earlier").catalog().table.to_pandas()
    np.testing.assert_allclose(found[names], table[names], rtol=1e-6)


def test_a_row_from_the_future_and_rows_without_labels_do_not_move_the_end_of_the_log(tmp_path):
    frame, schema = log().sort_values("t", kind="stable"), schema_with_rates(split=None)
    table = converted(frame, schema, tmp_path / "data").catalog().table.to_pandas()
    released = [reader.RELEASED + field.name for field in schema.rates]
    assert table[released].notna().any().all()
    late = frame.tail(1).assign(row="late", t=4_000_000_000)
    future = converted(pd.concat([frame, late]), schema, tmp_path / "future", split="order")
    found = future.catalog().table.to_pandas()
    assert found[released].notna().any().all()
    np.testing.assert_allclose(found[released], table[released], rtol=0.1)
    # Ten days, in which the rates of two days would become missing.
    later = frame.tail(50).assign(t=lambda rows: rows.t + 10 * DAY, row=lambda rows: rows.row + "b")
    later.drop(columns=["clicked", "bought"]).to_csv(tmp_path / "test.csv", index=False)
    frame.to_csv(tmp_path / "log.csv", index=False)
    source = convert.Source(
        tmp_path / "log.csv", schema, "tabular", test_path=(tmp_path / "test.csv",)
    )
    convert.convert(source, tmp_path / "unlabeled")
    found = reader.DataSet(tmp_path / "unlabeled").catalog().table.to_pandas()
    np.testing.assert_allclose(found[released], table[released], rtol=0.1)


def test_a_rate_is_at_most_one_and_missing_without_impressions():
    found = event_rates.smoothed_rates(np.array([0, 500, 0, 2]), np.array([0, 100, 50, 2]), 0.2)
    np.testing.assert_allclose(found, [np.nan, 1.0, 0.1, 12 / 52])


def test_towers_cannot_tell_rates_apart_and_the_ranker_can(tmp_path):
    data_set = converted(log(), schema_with_rates(), tmp_path / "data")
    fitted, (field, *_) = data_set.fitted, data_set.schema.rates
    ids = fitted.statistics[field.name].coarse_buckets()
    assert len(set(ids)) > 10
    hidden = fitted.without_rates().statistics[field.name].coarse_buckets()
    np.testing.assert_array_equal(hidden, np.minimum(np.arange(len(ids)), 1))


def test_ads_that_were_never_shown_have_the_rates_of_their_values(tmp_path):
    frame = log()
    ads = frame[["sku", "brand"]].drop_duplicates("sku", keep="last")
    ads.loc[len(frame)] = ["new", "acme"]
    ads.to_csv(tmp_path / "ads.csv", index=False)
    frame.to_csv(tmp_path / "log.csv", index=False)
    source = convert.Source(
        tmp_path / "log.csv", schema_with_rates(), "tabular", ads_path=tmp_path / "ads.csv"
    )
    convert.convert(source, tmp_path / "data")
    table = reader.DataSet(tmp_path / "data").catalog().table.to_pandas().set_index(reader.AD_ID)
    known = table[(table.brand == "acme") & (table.index != "new")]
    assert table.brand_clicks["new"] == known.brand_clicks.iloc[0]
    assert np.isnan(table.ad_clicks["new"])


def test_an_engagement_without_a_click_counts_as_a_click(tmp_path):
    views = pd.DataFrame({"t": 1_700_000_000 + 3600 * np.arange(40), "type": "view"})
    orders = views[::2].assign(t=views.t + 60, type="order")
    frame = pd.concat([views, orders]).assign(u="ann", sku="a", brand="acme", country="DE")
    schema = schema_from_json(
        {
            "name": "shop", "ad_key": ["sku"], "user_key": "u", "time": "t",
            "fields": [{"name": "country", "kind": "categorical", "side": "query"},
                       {"name": "brand", "kind": "categorical", "side": "ad"}, RATES[1]],
            "events": {"column": "type", "view": ["view"], "click": ["click"],
                       "engagement": ["order"], "window_seconds": 600},
        }
    )  # fmt: skip
    table = converted(frame, schema, tmp_path / "data").catalog().table.to_pandas()
    # Every second impression, at the end of the log as overall. The last one is the end.
    assert table.ad_clicks[0] == pytest.approx(0.5, abs=0.02)


def test_nothing_depends_on_chunks_workers_or_the_size_of_ranges(
    in_one_chunk, tmp_path, monkeypatch
):
    frame, schema = log(150), schema_with_rates()
    first = encoded(in_one_chunk, frame)
    monkeypatch.setattr(user_events, "write", functools.partial(user_events.write, max_at_once=50))
    second = encoded(converted(frame, schema, tmp_path / "two", 90, workers=3), frame)
    assert first.keys() == second.keys()
    for name, ids in first.items():
        np.testing.assert_array_equal(ids, second[name], err_msg=name)


def test_rows_without_a_label_do_not_count(tmp_path):
    frame, schema = log(150), schema_with_rates()
    frame["bought"] = frame.bought.astype(float).mask(frame.index % 3 == 0)
    data_set = converted(frame, schema, tmp_path / "data")
    wanted = expected(data_set, frame)
    for name, ids in encoded(data_set, frame).items():
        np.testing.assert_array_equal(ids, wanted[name], err_msg=name)


def test_engagements_count_when_their_window_has_passed(tmp_path):
    frame, schema = log(), schema_with_rates(split=None, request_key=None)
    window = 2 * DAY
    data_set = converted(
        frame, schema, tmp_path / "data", engagement_window_seconds=window, split="order"
    )
    field = schema.rates[2]
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.ad_fields)
    column = dict(encoding.columns(schema.ad_fields))[field].start
    train = data_set.num_rows("train")
    known = frame[:train][frame.t[:train] <= end_of(frame.t) - window]
    overall = {"bought": known.bought.mean()}
    later = frame.assign(t=frame.t + window).to_records()
    test = frame.iloc[-data_set.num_rows("test") :].to_dict("records")
    numbers = [rate(later, values["t"], values, field, overall) for values in test]
    wanted = encoder.encode_column(field, np.array(numbers, np.float32)).numpy()
    windows = data_set.windows("test").as_numpy_iterator()
    found = [ids for window in windows for ids in window["ad"][:, column]]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"time": None}, {}, "name the column of the time"),
        ({"click": None, "engagement": None}, {}, "click is null: the log has only clicks"),
        ({"engagement": None}, {"event": "engagement"}, "names no engagement column"),
        ({}, {"of": "color"}, r"of is 'color'; expected 'ad' or .*: \['brand'\]"),
        ({}, {"of": 3}, "of must be 'ad' or the name of an ad-side categorical field, got 3"),
        ({}, {"event": "impression"}, "the rate of impressions is an age, which has no max_age_da"),
        ({}, {"event": "view"}, "the event of a rate must be one of|event must be one of"),
        ({}, {"event": ["click", "engagement"]}, "the event of a rate must be one of"),
        ({}, {"event": []}, "the event of a rate must be one of"),
        ({}, {"side": "query"}, "expected side 'ad' and no column, got 'query'"),
        ({}, {"max_age_days": 0}, "max_age_days must be a number above 0 or null, got 0"),
        ({}, {"column": "x"}, "is a rate, which has no option 'column'"),
        ({}, {"of": None, "side": "ad"}, "event is an option of rates, but a rate has `of`"),
        ({}, {"kind": "text", "side": "ad"}, "of is an option of histories and of rates"),
    ],
)
def test_a_rate_that_the_log_does_not_allow_is_refused(changes, field, message):
    value = {**history_logs.schema_of().to_json(), **changes}
    fields = [other for other in value["fields"] if other["kind"] != "history"]
    with pytest.raises(ValueError, match=message):
        schema_from_json({**value, "fields": [*fields, {**RATES[0], **field}]})


def test_a_rate_round_trips_and_is_not_read_from_the_log():
    schema = schema_with_rates()
    assert schema_from_json(schema.to_json()) == schema
    assert [field["name"] for field in schema.to_json()["fields"][-len(RATES) :]] == [
        value["name"] for value in RATES
    ]
    assert not {value["name"] for value in RATES} & set(schema.columns)
    assert {field.side for field in schema.rates} == {"ad"}


def test_sampled_negatives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a rate needs impressions that were not clicked"):
        converted(log(), schema_with_rates(), tmp_path / "data", sampled_negatives=1)
