"""Histories of a converted log equal those that `histories.raw_values` computes."""

import collections
import functools

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from history_logs import converted, log, schema_of

from tfrecords import encoding, histories
from tfrecords.conversion import user_events
from tfrecords.schema import schema_from_json
from tfrecords.splits import SPLITS

pytestmark = pytest.mark.slow


def encoded_histories(data_set, frame):
    """Returns the encoded histories of each request, by the value of its field `row`."""
    schema = data_set.schema
    columns = dict(encoding.columns(schema.query_fields))
    words = ("", *data_set.fitted.statistics["row"].vocabulary)
    found = {}
    for split in SPLITS:
        queries = [window["query"] for window in data_set.windows(split).as_numpy_iterator()]
        queries = np.concatenate(queries) if queries else np.empty((0, 1))
        # Training requests are shuffled, and in the vocabulary; others are in the log's order.
        names = frame.row[frame.split == split].unique()
        if split == "train":
            names = [words[query[columns[schema.fields[0]].start]] for query in queries]
        spans = [columns[field] for field in schema.histories]
        for name, query in zip(names, queries, strict=True):
            found[name] = np.concatenate([query[part] for part in spans])
    return found


def user_events_of(frame):
    """Returns the events of each user of a log of impressions with labels."""
    events = collections.defaultdict(list)
    for row in frame.itertuples():
        happened = {"impression": 1, "click": row.clicked, "engagement": row.bought}
        for kind in happened:
            if happened[kind]:
                events[row.u].append(
                    histories.UserEvent(kind, float(row.t), row.sku, {"brand": row.brand})
                )
    return events


def encode_raw(data_set, requests):
    """Encodes the raw inputs of requests as exported models do."""
    fields = data_set.schema.histories
    columns = {}
    for name, spec in encoding.input_signature(fields).items():
        missing = np.nan if spec.dtype == tf.float32 else ""
        lists = [request[name] for request in requests]
        padded = np.full((len(lists), max(map(len, lists))), missing, spec.dtype.as_numpy_dtype)
        for row, values in zip(padded, lists, strict=True):
            row[: len(values)] = values
        columns[name] = tf.constant(padded)
    return encoding.Encoder(data_set.fitted, fields)(columns).numpy()


def test_conversion_and_the_function_agree_on_every_request(tmp_path):
    frame, schema = log(), schema_of()
    data_set = converted(frame, schema, tmp_path / "data")
    found, events = encoded_histories(data_set, frame), user_events_of(frame)
    requests = frame.groupby("row").agg({"u": "first", "t": "min"})
    assert found.keys() == set(requests.index)
    raw = []
    for user, time in requests.loc[list(found)].itertuples(index=False):
        raw.append(histories.raw_values(schema, events[user] if user else [], float(time)))
    for row, ids, expected in zip(found, found.values(), encode_raw(data_set, raw), strict=True):
        np.testing.assert_array_equal(ids, expected, err_msg=row)
    lengths = [[len(request[field.name]) for field in schema.histories] for request in raw]
    # The log has empty histories, and such as are cut by length and by age.
    clicks, everything, brands = np.transpose(lengths)
    assert clicks.min() == 0
    assert (clicks == 4).sum() > 50
    assert (everything == 50).sum() > 50
    assert ((brands > 4) & (brands < 20)).sum() > 50


def test_samples_have_the_raw_values_over_all_splits(tmp_path):
    frame, schema = log(), schema_of()
    data_set = converted(frame, schema, tmp_path / "data")
    events, requests = user_events_of(frame), frame.groupby("row").agg({"u": "first", "t": "min"})
    samples = data_set.sample_requests()
    assert len(samples) > 20
    for sample in samples:
        user, time = requests.loc[sample["row"]]
        raw = histories.raw_values(schema, events[user] if user else [], float(time))
        assert {name: sample[name] for name in raw} == raw
    assert any(len(sample["all"]) == 50 for sample in samples)


def test_nothing_depends_on_chunks_workers_or_the_size_of_ranges(tmp_path, monkeypatch):
    frame, schema = log(150), schema_of()
    first = encoded_histories(converted(frame, schema, tmp_path / "one", 10_000, workers=1), frame)
    monkeypatch.setattr(user_events, "write", functools.partial(user_events.write, max_at_once=50))
    second = encoded_histories(converted(frame, schema, tmp_path / "two", 90, workers=3), frame)
    assert first.keys() == second.keys()
    for key, ids in first.items():
        np.testing.assert_array_equal(ids, second[key], err_msg=str(key))


def test_later_rows_change_no_earlier_history(tmp_path):
    frame, schema = log(), schema_of()
    cut = frame.t.median()
    first_times = frame.groupby("row").t.transform("min")
    changed = frame.copy()
    later = first_times >= cut
    rng = np.random.default_rng(1)
    changed.loc[later, "clicked"] = 1 - changed.loc[later, "clicked"]
    changed.loc[later, "bought"] = 0
    changed.loc[later, "u"] = rng.choice(["ann", "bob", "new"], int(later.sum()))
    changed.loc[later, "brand"] = "acme"
    raw = [
        decoded_histories(converted(rows, schema, tmp_path / name), rows)
        for name, rows in (("before", frame), ("after", changed))
    ]
    earlier = set(frame.row[~later])
    assert len(earlier) > 80
    assert all(raw[0][row] == raw[1][row] for row in earlier)
    assert any(raw[0][row] != raw[1][row] for row in set(frame.row[later]))


def decoded_histories(data_set, frame):
    """Returns the values, ages and events of the histories of each request."""
    result = {}
    for row, ids in encoded_histories(data_set, frame).items():
        start, parts = 0, []
        for field in data_set.schema.histories:
            columns = encoding.history_columns(field, slice(start, start + field.width))
            words = ("", *data_set.fitted.statistics[field.name].vocabulary)
            parts.append([words[i] for i in ids[columns.values]])
            parts.append(ids[columns.ages.start : start + field.width].tolist())
            start += field.width
        result[row] = parts
    return result


def test_in_a_log_of_events_clicks_and_engagements_count_from_their_own_times(tmp_path):
    start, day = 1_700_000_000, 86_400
    frame = pd.DataFrame(
        [
            ("view", "a", 0), ("click", "a", 100), ("click", "a", 120), ("purchase", "a", 500),
            *(("view", "bcdef"[n], time) for n, time in enumerate([50, 100, 101, 500, 501])),
            # The click belongs to the view of b at 50, and nothing to the purchase of f.
            ("click", "b", day), ("purchase", "z", day + 1), ("view", "g", day + 2),
            # An engagement without a click is a click as a label, but no click of the user.
            ("purchase", "g", day + 3), ("view", "h", day + 4),
        ],
        columns=["type", "sku", "t"],
    ).sample(frac=1, random_state=0)  # fmt: skip
    frame = frame.assign(t=frame.t + start, u="ann", country="DE")
    fields = [
        {"name": "country", "kind": "categorical", "side": "query"},
        {"name": "sku", "kind": "categorical", "side": "ad", "min_count": 1},
        {"name": "h", "kind": "history", "of": "ad", "event": ["click", "engagement"]},
    ]
    events = {"column": "type", "view": ["view"], "click": ["click"], "engagement": ["purchase"]}
    schema = schema_from_json(
        {
            "name": "shop", "fields": fields, "ad_key": ["sku"], "time": "t", "user_key": "u",
            "events": {**events, "window_seconds": 2 * day},
        }
    )  # fmt: skip
    data_set = converted(
        frame, schema, tmp_path / "data", 4, validation_fraction=0.001, test_fraction=0.85
    )
    found = [
        (sample["h"], sample["h__events"], sample["h__age_seconds"])
        for sample in data_set.sample_requests()
    ]
    clicked = (["a"], ["click"])
    bought = (["a", "a"], ["click", "engagement"])
    # An impression is clicked once, at the time of its first click.
    assert sorted(found, key=lambda sample: sample[2][:1]) == sorted(
        [
            ([], [], []), ([], [], []), (*clicked, [1]), (*clicked, [400]), (*bought, [401, 1]),
            (["a", "a", "b"], [*bought[1], "click"], [day - 98, day - 498, 2]),
            (
                ["a", "a", "b", "g"], [*bought[1], "click", "engagement"],
                [day - 96, day - 496, 4, 1],
            ),
        ],
        key=lambda sample: sample[2][:1],
    )  # fmt: skip
