"""Events of users."""

from typing import get_args

import pytest

from serving import errors, requests, users
from tfrecords.schema import IMPRESSION, LABELS

IDS = {"event_id": "e1", "user_id": "u1", "ad_id": "a1"}


def test_an_event_is_an_impression_or_a_label():
    assert get_args(requests.EventKind) == (IMPRESSION, *LABELS)
    assert tuple(LABELS) == users.ACTIONS


@pytest.mark.parametrize("kind", get_args(requests.EventKind))
def test_only_the_event_of_an_amount_has_an_amount(kind):
    is_amount = kind in LABELS and LABELS[kind].is_amount
    refused = {**IDS, "event": kind, "amount": None if is_amount else 2.5}
    accepted = {**IDS, "event": kind, "amount": 2.5 if is_amount else None}
    assert requests.parse(requests.Event, accepted).event == kind
    with pytest.raises(errors.InvalidRequestError, match="an amount for the event revenue, and"):
        requests.parse(requests.Event, refused)
