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
