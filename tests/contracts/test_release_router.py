"""Which release answers a request, and when a release is closed."""

import asyncio
import shutil
import threading
import weakref

import pytest
import serving_fixtures
import waiting

from serving import releases
from serving.releases import in_use
from serving.requests import Request
from serving.service import release_router

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def base(trainings_base, tmp_path_factory):
    """A copy of the releases, which no other module uses."""
    return shutil.copytree(trainings_base, tmp_path_factory.mktemp("releases") / "bundles")


@pytest.fixture(scope="module")
def address(base):
    with serving_fixtures.serve_ranker(base, all_versions=True) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def run(base, address):
    """Runs `scenario(router, open_release)` in an event loop; the router begins with release 1."""

    def open_release(version):
        return serving_fixtures.make_orchestrator(releases.load(base, version), address)

    def run_scenario(scenario):
        async def main():
            router = release_router.ReleaseRouter(open_release(1))
            try:
                return await scenario(router, open_release)
            finally:
                await router.close()

        return asyncio.run(main())

    return run_scenario


def request(number, **values):
    return Request(user={"country": "CH"}, request_id=f"r{number}", k=2, **values)


def test_a_request_is_answered_by_the_release_that_it_started_with(run, base):
    async def scenario(router, open_release):
        with router._held(router._choose(request(0))) as held:
            router.route(open_release(2))
            assert (await router.recommend(request(1))).bundle_version == 2
            answer = await held.service.recommend(request(0))
            assert (answer.bundle_version, answer.degraded) == (1, None)
            assert [row["role"] for row in router.status()] == ["ending", "stable"]
            assert in_use.is_in_use(base, 1)
        await asyncio.gather(*router._closing)
        assert not in_use.is_in_use(base, 1)
        assert [(row["version"], row["in_flight"]) for row in router.status()] == [(2, 0)]
        assert in_use.is_in_use(base, 2)

    run(scenario)
    assert not in_use.is_in_use(base, 2)


def test_a_release_that_is_routed_again_before_its_last_request_stays_open(run, base):
    async def scenario(router, open_release):
        first = router.stable
        with router._held(router._choose(request(0))):
            router.route(open_release(2))
            assert router.loaded(1) is first
            router.route(router.loaded(1))
        assert router.stable is first
        assert (await router.recommend(request(1))).bundle_version == 1
        return router.status()

    (row,) = [row for row in run(scenario) if row["role"] == "stable"]
    assert row["version"] == 1


def test_a_canary_that_ends_while_it_is_observed_is_closed_afterward(run):
    async def scenario(router, open_release):
        router.route(router.stable, open_release(2), 0.5)
        observing = asyncio.create_task(router.observe())
        # The task now waits for the stable release, which is observed in a thread.
        await asyncio.sleep(0)
        router.route(router.stable)
        await observing
        assert [row["role"] for row in router.status()] == ["stable"]

    run(scenario)


def test_a_release_that_is_replaced_during_verification_is_closed_afterward(run, base, address):
    asked, replaced = threading.Event(), threading.Event()

    def hold(_):
        asked.set()
        replaced.wait(waiting.GUARD_SECONDS)

    async def scenario(router, open_release):
        with serving_fixtures.altering_server(address, hold) as slow:
            third = serving_fixtures.make_orchestrator(releases.load(base, 3), slow)
            router.route(third)
            second = open_release(2)
            verifying = asyncio.create_task(router.verify_ranker(waiting.GUARD_SECONDS))
            await asyncio.to_thread(asked.wait, waiting.GUARD_SECONDS)
            router.route(second)
            await asyncio.gather(*router._closing)
            replaced.set()
            await verifying
            assert third.not_ready is None
            await asyncio.gather(*router._closing)
        assert not in_use.is_in_use(base, 3)

    run(scenario)


def test_a_closed_release_is_freed(run):
    async def scenario(router, open_release):
        left = []
        for version in (2, 1, 2):
            old = router.stable
            await router.recommend(request(0))
            parts = (old, old.release.query_tower, old.release.ad_index, old.live)
            left += [weakref.ref(part) for part in parts]
            del parts
            del old
            router.route(open_release(version))
            await asyncio.gather(*router._closing)
        await router.recommend(request(1))
        assert len(left) == 12
        # A thread that has returned its result may still hold its arguments.
        await asyncio.to_thread(waiting.until, lambda: all(ref() is None for ref in left))

    run(scenario)


def test_a_canary_gets_a_fixed_share_of_requests_and_those_that_name_it(run):
    async def scenario(router, open_release):
        def chosen(number, **values):
            return router._choose(request(number, **values)).service.release.version

        def canaries():
            return {number for number in range(200) if chosen(number) == 2}

        router.route(router.stable, open_release(2), 0.25)
        first = canaries()
        # 200 draws at 0.25: mean 50, standard deviation 6.1.
        assert 25 < len(first) < 75
        assert canaries() == first
        router.route(router.stable, router.loaded(2), 0.5)
        assert first < canaries()
        router.route(router.stable, router.loaded(2), 0.0)
        assert canaries() == set()
        assert chosen(1, release="canary") == 2
        router.route(router.stable, router.loaded(2), 1.0)
        assert len(canaries()) == 200
        assert chosen(1, release="stable") == 1
        for _ in range(3):
            await router.recommend(request(1))
        await router.recommend(request(1, release="stable"))
        # No user sees the answers to these.
        await router.recommend(request(1, release="stable", dry_run=True))
        stable, canary = router.status()
        assert (stable["role"], stable["answered"]) == ("stable", 1)
        assert (canary["role"], canary["answered"], canary["degraded"]) == ("canary", 3, 0)

    run(scenario)


def test_without_a_canary_the_stable_release_answers_requests_for_it(run):
    async def scenario(router, open_release):
        asked = request(0, release="canary")
        before = await router.recommend(asked)
        assert (before.bundle_version, before.to_json()["release"]) == (1, "stable")
        router.route(router.stable, open_release(2), 1.0)
        after = await router.recommend(asked)
        assert (after.bundle_version, after.release) == (2, "canary")
        assert (await router.recommend(request(1, release="stable"))).release == "stable"
        assert "release" not in (await router.recommend(request(2))).to_json()

    run(scenario)


def test_each_canary_draws_users_evenly_and_independently():
    drawn = [
        [release_router.draw(version, f"user {n}") for n in range(2_000)] for version in (2, 3)
    ]
    for values in drawn:
        # Standard deviation of the share of 2,000 draws at 0.1: 0.0067.
        assert abs(sum(value < 0.1 for value in values) / 2_000 - 0.1) < 0.03
    both = sum(one < 0.1 and other < 0.1 for one, other in zip(*drawn, strict=True))
    # Independent: 1 % of the users, 20 ± 4.4.
    assert both < 45


def test_the_user_decides_before_the_request_id(run):
    async def scenario(router, open_release):
        canary = open_release(2)
        schema = canary.release.manifest.schema
        schema.update(user_key="c", fields=[{"name": "country", "column": "c", "side": "query"}])
        router.route(router.stable, canary, 0.5)
        versions = {}
        for country in ("CH", "DE", "FR", "IT", "AT", "US", "GB", "ES"):
            asked = Request(user={"country": country}, k=1)
            answers = [await router.recommend(asked) for _ in range(8)]
            versions[country] = {answer.bundle_version for answer in answers}
        # A country is one user here, regardless of the generated request ids.
        assert {len(found) for found in versions.values()} == {1}
        assert set().union(*versions.values()) == {1, 2}

    run(scenario)
