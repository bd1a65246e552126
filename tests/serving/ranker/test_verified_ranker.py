"""A ranker is verified before its scores are used, and left alone while it fails."""

import asyncio

import clocks
import numpy as np
import pytest

from serving import errors, releases
from serving.health import Health
from serving.ranker import LocalRanker, VerifiedRanker


class Faulty:
    """The ranker of a release, which raises `error` instead of answering."""

    address = "faulty"
    version = 1

    def __init__(self, release):
        self._ranker = LocalRanker(release)
        self.error = None
        self.shift = 0.0
        self.timeouts = []

    async def predict(self, columns, ad_features, timeout_seconds):
        self.timeouts.append(timeout_seconds)
        if self.error is not None:
            raise self.error
        scores = await self._ranker.predict(columns, ad_features, 60.0)
        return {name: values + self.shift for name, values in scores.items()}

    async def close(self):
        await self._ranker.close()


@pytest.fixture
def faulty(tiny_bundle):
    ranker = Faulty(tiny_bundle)
    yield ranker
    asyncio.run(ranker.close())


def call(ranker, release):
    """Predicts the scores of the probes."""
    rows = releases.candidate_rows(release.manifest)
    columns, features = releases.query_columns(release.manifest), release.ad_index.features(rows)
    return ranker.predict(columns, features, 60.0)


@pytest.mark.parametrize(("timeout_seconds", "expected"), [(60.0, 60.0), (0.1, 5.0)])
def test_a_check_may_take_as_long_as_its_caller_waits(
    tiny_bundle, faulty, timeout_seconds, expected
):
    faulty.error = errors.RankerDeadlineError("late")
    ranker = VerifiedRanker(tiny_bundle, faulty, Health())
    with pytest.raises(errors.RankerDeadlineError):
        asyncio.run(ranker.verify(timeout_seconds))
    assert faulty.timeouts == [expected]
    assert ranker.not_ready == "late"


def test_scores_of_another_model_are_never_used(tiny_bundle, faulty):
    health = Health()
    ranker = VerifiedRanker(tiny_bundle, faulty, health)
    faulty.shift = 0.01

    async def scenario():
        for _ in range(2):
            with pytest.raises(errors.RankerMismatchError):
                await call(ranker, tiny_bundle)

    asyncio.run(scenario())
    assert ranker.not_ready is not None
    assert "ranker" in health.problems
    # The second request did not run the probes again.
    assert len(faulty.timeouts) == 1


def test_a_ranker_is_verified_once_and_stays_ready_when_it_fails(tiny_bundle, faulty):
    health, outcomes = Health(), []
    ranker = VerifiedRanker(tiny_bundle, faulty, health, count=outcomes.append)

    async def scenario():
        scores = await asyncio.gather(*(call(ranker, tiny_bundle) for _ in range(3)))
        assert len(faulty.timeouts) == 4
        for name, values in scores[0].items():
            np.testing.assert_array_equal(values, scores[2][name])
        faulty.error = errors.RankerDeadlineError("late")
        with pytest.raises(errors.RankerDeadlineError):
            await call(ranker, tiny_bundle)
        assert ranker.not_ready is None
        assert health.problems == {"ranker": "late"}
        faulty.error = None
        await call(ranker, tiny_bundle)
        assert health.problems == {}

    asyncio.run(scenario())
    assert outcomes == ["ok", "ok", "ok", "late", "ok"]


def test_a_ranker_that_fails_repeatedly_is_not_called_until_it_works(tiny_bundle, faulty):
    clock, outcomes = clocks.Clock(), []
    ranker = VerifiedRanker(tiny_bundle, faulty, Health(), clock, outcomes.append)

    async def fail(error):
        faulty.error = error
        with pytest.raises(errors.RankerError):
            await call(ranker, tiny_bundle)

    async def scenario():
        await ranker.verify()
        # A busy server works, and a rejected call may be the fault of its request.
        for _ in range(5):
            await fail(errors.RankerBusyError("busy"))
            await fail(errors.RankerReplyError("rejected"))
        assert not ranker.is_paused
        for _ in range(4):
            await fail(errors.RankerError("gone"))
        assert ranker.is_paused
        num_calls = len(faulty.timeouts)
        faulty.error = None
        with pytest.raises(errors.RankerError, match="gone It is called again shortly"):
            await call(ranker, tiny_bundle)
        assert len(faulty.timeouts) == num_calls
        await ranker.verify()
        assert not ranker.is_paused
        await call(ranker, tiny_bundle)

    asyncio.run(scenario())
    assert outcomes == ["busy", "failed"] * 5 + ["failed"] * 4 + ["ok"]
