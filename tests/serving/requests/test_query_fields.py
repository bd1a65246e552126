"""Raw query fields of requests."""

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
        ({"seen": ["b"]}, r"context\.seen__age_seconds: expected 1 values, .* of seen, got 2"),
        ({"seen": None}, r"context\.seen__events: expected 0 values"),
        ({"seen__age_seconds": [9]}, r"context\.seen__age_seconds: expected 2 values"),
        ({"seen__events": ["click", "view"]}, r"seen__events\[1\]: .* engagement, got 'view'"),
    ):
        with pytest.raises(errors.InvalidRequestError, match=message):
            HISTORIES.merge({}, {**SEEN, **changes})


def test_stored_ages_of_another_history_are_left_out():
    assert HISTORIES.valid({**SEEN, "seen__age_seconds": [9]}, known={"seen__events"}) == {
        "seen": [b"a", b"b"]
    }
    # The request has the history itself.
    assert HISTORIES.valid(SEEN, known={"seen"}) == {}
