"""Raw query fields of requests."""

import numpy as np
import pytest

from serving import errors, requests

FIELDS = requests.QueryFields(
    [
        {"name": "is_member", "kind": "categorical"},
        {"name": "answers", "kind": "categorical_list"},
        {"name": "age", "kind": "numeric"},
    ],
    (),
)


def test_booleans_of_categorical_fields_are_true_and_false():
    user = {"is_member": True, "answers": [False, "b", 7, None]}
    assert FIELDS.merge(user, {}) == {"is_member": b"true", "answers": [b"false", b"b", b"7", b""]}
    # A profile is stored as sent.
    assert FIELDS.valid(user) == FIELDS.merge({}, user)
    with pytest.raises(errors.InvalidRequestError, match=r"user\.age: .*got True \(bool\)"):
        FIELDS.merge({"age": True}, {})


def test_joined_columns_are_those_of_all_rows():
    kinds = {
        "country": "categorical",
        "age": "numeric",
        "taste": "dense",
        "seen": "categorical_list",
        "prices": "numeric_list",
    }
    fields = requests.QueryFields(
        [{"name": name, "kind": kind, "length": 3} for name, kind in kinds.items()], ()
    )
    rows = [
        fields.merge(row, {})
        for row in (
            {"country": "CH", "age": 33, "taste": [1, 2, 3], "seen": ["a"], "prices": [1.5, 2]},
            {},
            {"country": "é", "seen": ["a", "bc", "d"], "prices": [7]},
        )
    ]
    joined = requests.join_columns([fields.columns(rows[:1]), fields.columns(rows[1:])])
    for name, expected in fields.columns(rows).items():
        assert type(joined[name]) is type(expected)
        np.testing.assert_array_equal(joined[name], expected)
        assert getattr(joined[name], "dtype", None) == getattr(expected, "dtype", None)


HISTORIES = requests.QueryFields(
    [
        {"name": "seen", "kind": "categorical_list"},
        {"name": "seen__age_seconds", "kind": "numeric_list", "of": "seen"},
        {"name": "seen__events", "kind": "categorical_list", "of": "seen"},
    ],
    (),
)
SEEN = {"seen": ["a", "b"], "seen__age_seconds": [9, 5], "seen__events": ["click", None]}


def test_the_lists_of_a_history_have_one_value_for_each_event():
    assert HISTORIES.merge({"seen": ["a"]}, {"seen__age_seconds": [], "seen__events": None})
    assert HISTORIES.merge(SEEN, {})["seen__events"] == [b"click", b""]
    for changes, message in (
        ({"seen": ["b"]}, r"context\.seen__age_seconds: expected 1 value, .* of seen, got 2"),
        ({"seen": None}, r"context\.seen__age_seconds: expected 0 values"),
        ({"seen__age_seconds": [9]}, r"context\.seen__age_seconds: expected 2 values"),
        ({"seen__events": ["click", "view"]}, r"seen__events\[1\]: .* click, .*, got 'view'"),
    ):
        with pytest.raises(errors.InvalidRequestError, match=message):
            HISTORIES.merge({}, {**SEEN, **changes})


def test_stored_ages_of_another_history_are_left_out():
    assert HISTORIES.valid({**SEEN, "seen__age_seconds": [9]}, known={"seen__events"}) == {
        "seen": [b"a", b"b"]
    }
    # The request has the history itself.
    assert HISTORIES.valid(SEEN, known={"seen"}) == {}
