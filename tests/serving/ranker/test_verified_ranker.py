"""A ranker is verified before its scores are used."""

import asyncio

import pytest

from serving import errors
from serving.ranker import verified_ranker


class Slow:
    """A ranker whose first call takes longer than it may, as on a busy machine."""

    address = "slow"
    version = 1

    def __init__(self):
        self.timeouts = []

    def connection(self):
        return 1

    async def predict(self, columns, ad_features, timeout_seconds, wait_if_busy=True):
        self.timeouts.append(timeout_seconds)
        raise errors.RankerDeadlineError("late")


@pytest.mark.parametrize(("timeout_seconds", "expected"), [(60.0, 60.0), (0.1, 5.0)])
def test_a_check_may_take_as_long_as_its_caller_waits(tiny_bundle, timeout_seconds, expected):
    slow = Slow()
    checked = verified_ranker.VerifiedRanker(tiny_bundle, slow)
    with pytest.raises(errors.RankerDeadlineError):
        asyncio.run(checked.verify(timeout_seconds))
    assert slow.timeouts == [expected]
