"""A service changes its release under load: no request fails, and no answer mixes releases."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import shutil
import threading

import clocks
import httpx
import pytest
import serving_fixtures
import waiting

from serving import errors, releases, requests
from serving.releases import in_use, pointer
from serving.service import release_follower, release_router

pytestmark = pytest.mark.process

BODY = {"user": {"country": "CH", "age": 33, "history": ["ad-3"]}, "k": 5}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Shorter times between checks of the disk, and between attempts."""
    monkeypatch.setattr(release_follower, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(release_follower, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(release_follower, "_MAX_RETRY_SECONDS", 0.4)


@pytest.fixture
def base(trainings_base, tmp_path):
    """A copy of the releases; release 1 is stable."""
    base = shutil.copytree(trainings_base, tmp_path / "bundles")
    releases.promote(base, 1)
    return base


@pytest.fixture(scope="module")
def address(trainings_base):
    with serving_fixtures.serve_ranker(trainings_base, all_versions=True) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def expected(trainings_base, address):
    """Version -> the ads of `BODY` with their scores, from each release alone."""

    async def ask(version):
        service = serving_fixtures.make_orchestrator(
            releases.load(trainings_base, version), address
        )
        try:
            answer = await service.recommend(requests.Request(user=BODY["user"], k=BODY["k"]))
        finally:
            await service.close()
        assert answer.degraded is None
        return scores_of(answer.to_json())

    by_version = {version: asyncio.run(ask(version)) for version in (1, 2, 3)}
    assert len({str(ads) for ads in by_version.values()}) == 3
    return by_version


def scores_of(answer):
    return [
        (ad["ad_id"], pytest.approx(ad["utility"], rel=1e-4), pytest.approx(ad["retrieval_score"]))
        for ad in (ad if isinstance(ad, dict) else vars(ad) for ad in answer["ads"])
    ]


def plain(answer):
    return [(ad["ad_id"], ad["utility"], ad["retrieval_score"]) for ad in answer["ads"]]


@contextlib.contextmanager
def following(base, address):
    """Runs a service that follows `base`, and yields its URL."""

    def connect(release):
        return serving_fixtures.make_orchestrator(release, address)

    router = release_router.ReleaseRouter(connect(release_follower.load_first(base)))
    follower = release_follower.ReleaseFollower(base, router, connect)
    with serving_fixtures.serve_app(router, follower=follower) as url:
        yield url


class Load:
    """Sends requests to a service from several threads.

    Attributes:
        answers: Answers of each thread, in their order.
    """

    def __init__(self, url, num_threads=3):
        self._url = url
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads)
        self.answers = [[] for _ in range(num_threads)]
        self._running = [self._pool.submit(self._ask, answers) for answers in self.answers]

    def _ask(self, answers):
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.wait(waiting.PAUSE_SECONDS):
                reply = client.post("/v1/recommend", json=BODY)
                assert reply.status_code == 200, reply.text
                answers.append(reply.json())

    def wait_for_release(self, version):
        """Returns when the latest answer of each thread is of a release."""
        waiting.until(
            lambda: all(
                answers and answers[-1]["bundle_version"] == version for answers in self.answers
            )
        )

    def end(self):
        """Returns the answers of each thread, in their order."""
        self._stop.set()
        with self._pool:
            for running in self._running:
                running.result()
        return self.answers


def state_of(url):
    return httpx.get(f"{url}/v1/bundle", timeout=60, verify=False).json()


def refused_of(url):
    return state_of(url)["problems"].get("releases")


def roles_of(url):
    return {row["version"]: row["role"] for row in state_of(url)["releases"]}


def test_releases_change_under_load_without_failed_or_mixed_answers(base, address, expected):
    with following(base, address) as url:
        load = Load(url)
        load.wait_for_release(1)
        for version in (2, 3, None):
            change = releases.roll_back if version is None else releases.promote
            after = change(base, *([version] if version else [])).after
            waiting.until(lambda wanted=after.stable: roles_of(url) == {wanted: "stable"})
            load.wait_for_release(after.stable)
            assert in_use.is_in_use(base, after.stable)
        threads = load.end()
        for version in (1, 3):
            assert not in_use.is_in_use(base, version)
    for answers in threads:
        seen = [answer["bundle_version"] for answer in answers]
        changes = [seen[0], *(b for a, b in itertools.pairwise(seen) if a != b)]
        assert changes == [1, 2, 3, 2]
        for answer in answers:
            assert answer["degraded"] is None
            assert plain(answer) == expected[answer["bundle_version"]]


def test_a_canary_starts_and_ends_under_load(base, address, expected):
    with following(base, address) as url:
        load = Load(url)
        releases.start_canary(base, 2, 0.5)
        waiting.until(lambda: roles_of(url) == {1: "stable", 2: "canary"})
        with httpx.Client(base_url=url, timeout=60) as client:
            named = [
                client.post("/v1/recommend", json={**BODY, "release": release}).json()
                for release in ("canary", "stable")
            ]
            waiting.until(lambda: min(row["answered"] for row in state_of(url)["releases"]) > 5)
        releases.end_canary(base)
        waiting.until(lambda: roles_of(url) == {1: "stable"})
        answers = [answer for thread in load.end() for answer in thread]
    assert [answer["bundle_version"] for answer in named] == [2, 1]
    assert {answer["bundle_version"] for answer in answers} == {1, 2}
    for answer in [*answers, *named]:
        assert plain(answer) == expected[answer["bundle_version"]]


def test_a_damaged_release_is_refused_and_served_once_it_is_repaired(base, address, expected):
    path = base / "query_tower/2/saved_model.pb"
    content = path.read_bytes()
    with following(base, address) as url:
        load = Load(url, num_threads=1)
        path.write_bytes(content[:-1])
        # Without scripts/release.py, which would refuse it.
        pointer.write_pointer(base, pointer.Pointer(2, previous=(1,)))
        waiting.until(lambda: refused_of(url))
        refused = refused_of(url)
        assert refused.startswith("release 2 is refused: query_tower/2/saved_model.pb has ")
        ready = httpx.get(f"{url}/readyz", timeout=60)
        assert (ready.status_code, ready.json()["problems"]) == (200, {"releases": refused})
        assert roles_of(url) == {1: "stable"}
        path.write_bytes(content)
        waiting.until(lambda: roles_of(url) == {2: "stable"})
        assert refused_of(url) is None
        (answers,) = load.end()
    for answer in answers:
        assert plain(answer) == expected[answer["bundle_version"]]


def test_a_release_with_the_ranker_of_another_release_is_refused(
    base, trainings_base, tmp_path, expected
):
    # The model server has release 3's ranker where this base directory has release 2's.
    foreign = shutil.copytree(trainings_base / "ranker", tmp_path / "served" / "ranker")
    shutil.rmtree(foreign / "2")
    (foreign / "3").rename(foreign / "2")
    with (
        serving_fixtures.serve_ranker(foreign.parent, all_versions=True) as server,
        following(base, f"127.0.0.1:{server.port}") as url,
    ):
        load = Load(url, num_threads=1)
        releases.promote(base, 2)
        waiting.until(lambda: refused_of(url))
        assert "differs by" in refused_of(url)
        # Each retry loads it briefly.
        waiting.until(lambda: not in_use.is_in_use(base, 2))
        (answers,) = load.end()
        assert roles_of(url) == {1: "stable"}
    for answer in answers:
        assert (answer["degraded"], answer["bundle_version"]) == (None, 1)
        assert plain(answer) == expected[1]


def test_a_release_without_a_ranker_in_time_is_refused_and_closed_after_a_rollback(
    base, trainings_base, tmp_path, monkeypatch
):
    only_first = tmp_path / "served"
    shutil.copytree(trainings_base / "ranker/1", only_first / "ranker/1")

    connected = threading.Event()

    async def scenario(server):
        address = f"127.0.0.1:{server.port}"

        def connect(release):
            if release.version == 2:
                connected.set()
            return serving_fixtures.make_orchestrator(release, address)

        router = release_router.ReleaseRouter(connect(release_follower.load_first(base)))
        monkeypatch.setattr(release_follower, "_RANKER_SECONDS", 0.3)
        monkeypatch.setattr(release_follower, "_RETRY_SECONDS", 60)
        monkeypatch.setattr(release_follower, "_MAX_RETRY_SECONDS", 60)
        follower = release_follower.ReleaseFollower(base, router, connect)
        releases.promote(base, 2)
        await follower.step()
        assert "does not serve ranker version 2" in router.stable.health.problems["releases"]
        assert router.stable.release.version == 1
        connected.clear()
        monkeypatch.setattr(release_follower, "_RANKER_SECONDS", 600)
        follower = release_follower.ReleaseFollower(base, router, connect)
        stepping = asyncio.create_task(follower.step())
        assert await asyncio.to_thread(connected.wait, 60)
        assert in_use.is_in_use(base, 2)
        releases.roll_back(base)
        await asyncio.wait_for(stepping, 60)
        assert not in_use.is_in_use(base, 2)
        await follower.step()
        assert (router.stable.health.problems, router.stable.release.version) == ({}, 1)
        await router.close()

    with serving_fixtures.serve_ranker(only_first, all_versions=True) as server:
        asyncio.run(scenario(server))


def test_a_refused_release_is_retried_with_increasing_delays(base, address, monkeypatch):
    clock = clocks.Clock()
    monkeypatch.setattr(release_follower, "_RETRY_SECONDS", 5)
    monkeypatch.setattr(release_follower, "_MAX_RETRY_SECONDS", 15)
    attempts = []

    def connect(release):
        attempts.append(clock())
        raise OSError("injected")

    async def scenario():
        router = release_router.ReleaseRouter(
            serving_fixtures.make_orchestrator(releases.load(base, 1), address)
        )
        follower = release_follower.ReleaseFollower(base, router, connect, clock)
        releases.promote(base, 2)
        for _ in range(46):
            await follower.step()
            clock.advance(1)
        assert router.stable.health.problems == {"releases": "release 2 is refused: injected"}
        await router.close()

    asyncio.run(scenario())
    # After 5, 10 and then always 15 seconds.
    assert [attempt - attempts[0] for attempt in attempts] == [0, 5, 15, 30, 45]


def test_promotions_faster_than_a_release_loads_do_not_starve_the_service(base, address):
    async def scenario():
        upcoming = [3, 1, 2, 3, 1]

        def connect(release):
            # While this release is loading, the next one is promoted.
            if upcoming:
                releases.promote(base, upcoming.pop(0))
            return serving_fixtures.make_orchestrator(release, address)

        first = serving_fixtures.make_orchestrator(releases.load(base, 1), address)
        router = release_router.ReleaseRouter(first)
        follower = release_follower.ReleaseFollower(base, router, connect)
        releases.promote(base, 2)
        served = []
        for _ in range(3):
            await follower.step()
            served.append(router.stable.release.version)
        await router.close()
        return served

    assert asyncio.run(scenario()) == [2, 3, 1]


@pytest.mark.parametrize("missing", ["ads", "permission"])
def test_a_service_that_starts_with_a_damaged_release_serves_the_previous_one(base, missing):
    releases.promote(base, 3)
    if missing == "permission":
        # `open` raises ELOOP, as it would raise EIO.
        (base / "manifests/3.json").unlink()
        (base / "manifests/3.json").symlink_to(base / "manifests/3.json")
        assert release_follower.load_first(base).version == 1
        return
    (base / "ad_index/3/ads.arrow").unlink()
    assert release_follower.load_first(base).version == 1
    with pytest.raises(errors.BundleError, match=r"ad_index/3/ads\.arrow is missing"):
        releases.load(base)
    for version in (1, 2):
        (base / f"ad_index/{version}/ads.arrow").unlink()
    with pytest.raises(errors.BundleError, match=r"ad_index/3/ads\.arrow is missing"):
        release_follower.load_first(base)


def test_an_unreadable_releases_file_changes_nothing(base, address):
    with following(base, address) as url:
        (base / "releases.json").write_text("{")
        waiting.until(lambda: refused_of(url))
        assert "releases.json is invalid" in refused_of(url)
        assert roles_of(url) == {1: "stable"}
        releases.promote(base, 2)
        waiting.until(lambda: roles_of(url) == {2: "stable"})
