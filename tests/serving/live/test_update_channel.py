"""Live updates on several hosts, which share a base directory or a channel."""

import dataclasses
import errno
import functools
import shutil
import signal
import sys
import threading

import httpx
import pytest
import requirements
import serving_fixtures
import waiting

from serving import cli, errors, live, requests
from serving.live import journal, live_index, live_update


def ad(name, price=1.0):
    return {"ad_id": name, "fields": {"advertiser": "a", "price": price}}


class Hosts:
    """Makes the hosts of a test; `url` is the address of their channel; None: a shared disk."""

    def __init__(self, tiny_base, tiny_bundle, directory, url):
        self._tiny_base, self._bundle, self._directory = tiny_base, tiny_bundle, directory
        self.url = url
        self.opened = []

    def release(self, number):
        base = self._directory / str(0 if self.url is None else number)
        if not base.exists():
            shutil.copytree(self._tiny_base, base)
        return dataclasses.replace(self._bundle, base=base)

    def open(self, number):
        """Returns a process of a host, which follows the others."""
        release = self.release(number)
        index = live.LiveIndex(release, live.open_channel(self.url, release))
        index.follow()
        self.opened.append(index)
        return index

    def close(self):
        for index in self.opened:
            index.close()
        for index in self.opened:
            if index._following is not None:
                index._following.join(waiting.GUARD_SECONDS)


@pytest.fixture
def make_hosts(tiny_base, tiny_bundle, tmp_path):
    made = []

    def make(url):
        made.append(Hosts(tiny_base, tiny_bundle, tmp_path / f"hosts-{len(made)}", url))
        return made[-1]

    yield make
    for hosts in made:
        hosts.close()


BACKENDS = [
    "journal",
    pytest.param("redis", marks=[pytest.mark.engines, requirements.NEEDS_VALKEY]),
]


@pytest.fixture(params=BACKENDS)
def hosts(request, make_hosts):
    """The hosts of each kind of channel."""
    server = request.getfixturevalue("valkey") if request.param == "redis" else None
    return make_hosts(server and server.url)


@pytest.fixture
def redis_hosts(make_hosts, valkey):
    return make_hosts(valkey.url)


redis_only = [pytest.mark.engines, requirements.NEEDS_VALKEY]


def new_ads(index):
    """Refreshes an index, and returns the price of each added ad by its id."""
    index.refresh()
    view = index.view()
    ids = [f"new-{number}" for number in range(60)]
    filters = requests.FilterFields(serving_fixtures.AD_KINDS).check(
        requests.Filters(allowed_ads=ids)
    )
    _, rows = view.search(serving_fixtures.ad_embeddings()[:1], 60, view.eligible(filters))
    found = rows[0][rows[0] >= 0]
    prices = [listed.fields["price"] for listed in view.listed(found)]
    return dict(zip(view.ad_ids(found), prices, strict=True))


def sees(index, expected):
    waiting.until(lambda: new_ads(index) == expected)


def records(index):
    with index._store.writing():
        return index._store.records()[1]


def problem_of(index):
    waiting.until(lambda: index.problem)
    return index.problem


def no_problem(index):
    waiting.until(lambda: index.problem is None)


def test_the_updates_of_a_host_are_seen_on_the_others_in_order(hosts):
    first, second, third = (hosts.open(number) for number in range(3))
    first.update([ad("new-1"), ad("new-2")])
    sees(second, {"new-1": 1.0, "new-2": 1.0})
    second.update([ad("new-1", 5.0)], removed=["new-2"])
    sees(third, {"new-1": 5.0})
    sees(first, {"new-1": 5.0})
    assert third.update([], removed=["new-1", "new-2"]) == dataclasses.replace(
        third.update(), removed=1, unknown=1, unknown_ids=("new-2",)
    )
    sees(first, {})
    sees(second, {})


def test_concurrent_updates_have_one_order_and_are_applied_once_on_each_host(hosts):
    indexes = [hosts.open(number) for number in range(3)]
    failed = []

    def write(number):
        try:
            for step in range(8):
                # All hosts write the same ads, so the order matters.
                indexes[number].update([ad(f"new-{step}", 10.0 * step + number)])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for index in indexes:
        waiting.until(lambda index=index: len(new_ads(index)) == 8 and index.num_updates == 24)
    first = indexes[0]
    for index in indexes:
        assert records(index) == records(first)
        assert index._store.position == first._store.position
        assert new_ads(index) == new_ads(first)


def test_a_host_that_was_away_catches_up(hosts):
    first = hosts.open(0)
    away = hosts.open(1)
    first.update([ad("new-1")])
    sees(away, {"new-1": 1.0})
    away.close()
    for number in range(2, 5):
        first.update([ad(f"new-{number}")], removed=[f"new-{number - 1}"])
    back, newcomer = hosts.open(1), hosts.open(2)
    for index in (back, newcomer):
        assert new_ads(index) == {"new-4": 1.0}
        assert index.num_updates == 4
        assert records(index) == records(first)


def test_hosts_follow_each_other_when_their_journals_are_rewritten(hosts, monkeypatch):
    monkeypatch.setattr(live_index, "_MAX_DEAD", 2)
    first, second = hosts.open(0), hosts.open(1)
    for price in range(8):
        first.update([ad("new-1", float(price))])
    sees(second, {"new-1": 7.0})
    assert len(records(first)) < 8
    second.update([ad("new-2")])
    sees(first, {"new-1": 7.0, "new-2": 1.0})
    assert first.num_updates == second.num_updates == 9
    # A process that starts knows how many records the rewritten journal stands for.
    assert hosts.open(0).num_updates == 9


def test_an_invalid_update_is_not_published(hosts):
    first, second = hosts.open(0), hosts.open(1)
    with pytest.raises(errors.InvalidAdError):
        first.update([{"ad_id": "new-1", "fields": {"nothing": 1}}])
    second.update([ad("new-2")])
    sees(first, {"new-2": 1.0})
    assert first.num_updates == second.num_updates == 1


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_an_update_in_the_channel_is_applied_once_the_journal_can_be_written(
    redis_hosts, monkeypatch
):
    first, second = redis_hosts.open(0), redis_hosts.open(1)
    append = first._store.append

    def full(records, **options):
        with monkeypatch.context() as patched:
            patched.setattr(journal, "create", raise_full)
            append(records, **options)

    def raise_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(first._store, "append", full)
    with pytest.raises(errors.LiveIndexError, match=r"No space .* The channel has the update: oth"):
        first.update([ad("new-1")])
    sees(second, {"new-1": 1.0})
    monkeypatch.setattr(first._store, "append", append)
    sees(first, {"new-1": 1.0})


@pytest.mark.parametrize("address", ["localhost:6379", "http://localhost", "kafka://a:1"])
def test_an_address_of_an_unknown_kind_is_refused(address):
    with pytest.raises(ValueError, match=f"--update_channel is '{address}'; expected redis://"):
        live.check_channel(address)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_an_address_without_a_port_number_is_refused():
    with pytest.raises(ValueError, match="expected redis://HOST:PORT/DATABASE"):
        live.check_channel("redis://localhost:x/0")


def test_a_missing_client_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "serving.live.redis_channel", raising=False)
    monkeypatch.delattr(live, "redis_channel", raising=False)
    message = "needs redis, which is not installed. Install the extra 'redis'"
    with pytest.raises(SystemExit, match=message), cli.require_extra("redis"):
        live.check_channel("redis://localhost:6379/0")


class TestRedis:
    pytestmark = redis_only

    def test_while_the_server_is_down_ads_are_served_and_updates_refused(self, redis_hosts, valkey):
        first, second = redis_hosts.open(0), redis_hosts.open(1)
        first.update([ad("new-1")])
        sees(second, {"new-1": 1.0})
        valkey.kill()
        assert "cannot be used" in problem_of(second)
        with pytest.raises(errors.LiveIndexError, match="cannot be used"):
            first.update([ad("new-2")])
        assert new_ads(first) == new_ads(second) == {"new-1": 1.0}
        starting = redis_hosts.open(0)
        assert new_ads(starting) == {"new-1": 1.0}
        assert "cannot be used" in starting.status()["problem"]
        valkey.start()
        for index in (first, second, starting):
            no_problem(index)
        first.update([ad("new-2")])
        for index in (second, starting):
            sees(index, {"new-1": 1.0, "new-2": 1.0})

    def test_requests_do_not_wait_for_a_server_that_does_not_answer(self, redis_hosts, valkey):
        first, second = redis_hosts.open(0), redis_hosts.open(1)
        valkey.signal(signal.SIGSTOP)
        assert "cannot be used" in problem_of(second)
        with pytest.raises(errors.LiveIndexError, match="cannot be used"):
            first.update([ad("new-1")])
        assert new_ads(second) == {}
        valkey.signal(signal.SIGCONT)
        no_problem(second)
        # The stream may or may not have the refused update; all hosts agree on it.
        first.update([ad("new-1", 2.0)])
        sees(second, {"new-1": 2.0})
        assert records(first) == records(second)

    def test_connections_to_a_server_that_has_become_a_replica_are_closed(
        self, redis_hosts, valkey
    ):
        observer, release = valkey.client(), redis_hosts.release(0)
        index = live.LiveIndex(release, live.open_channel(valkey.url, release))
        index.update([ad("new-1")])
        observer.replicaof("127.0.0.1", "1")
        with pytest.raises(errors.LiveIndexError, match="read only replica"):
            index.update([ad("new-2")])
        # The next connection goes to the current server at the address, such as a new primary.
        waiting.until(lambda: len(observer.client_list(_type="normal")) == 1)
        observer.replicaof("NO", "ONE")
        index.update([ad("new-2")])
        index.close()

    def test_a_stream_that_was_lost_is_restored_from_the_journals(self, redis_hosts, valkey):
        first, second = redis_hosts.open(0), redis_hosts.open(1)
        for number in range(5):
            first.update([ad(f"new-{number}")])
        sees(second, {f"new-{number}": 1.0 for number in range(5)})
        valkey.client().flushall()
        waiting.until(lambda: valkey.client().keys())
        assert new_ads(redis_hosts.open(2)) == new_ads(first)
        second.update([ad("new-5")])
        sees(first, {f"new-{number}": 1.0 for number in range(6)})
        assert records(first) == records(second)

    def test_updates_after_a_loss_that_a_host_missed_are_reported(self, redis_hosts, valkey):
        first, second = redis_hosts.open(0), redis_hosts.open(1)
        first.update([ad("new-1")])
        sees(second, {"new-1": 1.0})
        first.close()
        first._following.join()
        second.update([ad("new-2")])
        second.close()
        second._following.join()
        # Both are away while the stream is lost, and the first does not know of the last update.
        valkey.client().flushall()
        redis_hosts.open(0).update([ad("new-3")])
        back = redis_hosts.open(1)
        assert "Update 2 of redis://" in problem_of(back)
        assert "Move live/N/journal away" in back.problem
        assert new_ads(back) == {"new-1": 1.0, "new-2": 1.0}
        with pytest.raises(errors.LiveIndexError, match="another host has written since"):
            back.update([ad("new-4")])
        (back._store._directory / "journal").rename(back._store._directory / "kept")
        sees(back, {"new-1": 1.0, "new-3": 1.0})
        no_problem(back)

    def test_a_trimmed_stream_is_reported_to_hosts_that_need_the_lost_updates(
        self, redis_hosts, valkey
    ):
        first = redis_hosts.open(0)
        for number in range(4):
            first.update([ad(f"new-{number}")])
        (key,) = valkey.client().keys()
        valkey.client().xtrim(key, maxlen=1, approximate=False)
        newcomer = redis_hosts.open(1)
        assert "has no update 1; its next one is 4. It was trimmed." in problem_of(newcomer)
        with pytest.raises(errors.LiveIndexError, match="It was trimmed"):
            newcomer.update([ad("new-9")])
        # A host that has all updates has no problem.
        first.update([ad("new-4")])
        assert first.problem is None
        shutil.copytree(first._store._directory, newcomer._store._directory, dirs_exist_ok=True)
        sees(newcomer, {f"new-{number}": 1.0 for number in range(5)})
        no_problem(newcomer)

    def test_a_lost_stream_whose_records_no_journal_has_is_reported(
        self, redis_hosts, valkey, monkeypatch
    ):
        monkeypatch.setattr(live_index, "_MAX_DEAD", 1)
        first = redis_hosts.open(0)
        for price in range(6):
            first.update([ad("new-1", float(price))])
        valkey.client().flushall()
        assert "has lost its updates after 0" in problem_of(first)
        assert new_ads(first) == {"new-1": 5.0}

    def test_an_update_that_was_published_but_not_in_the_journal_is_applied_once(self, redis_hosts):
        first, second = redis_hosts.open(0), redis_hosts.open(1)
        change = live_update.Update((), *_nothing(first))
        # As if the process had been killed after publishing.
        assert first._channel.publish(live_update.encode(change), first._store.position)
        second.update([ad("new-2")])
        for index in (first, second):
            sees(index, {"new-2": 1.0})
            assert index.num_updates == len(records(index)) == 2

    def test_processes_of_a_host_share_its_journal(self, redis_hosts):
        first, *same = redis_hosts.open(0), redis_hosts.open(1), redis_hosts.open(1)
        for number in range(10):
            first.update([ad(f"new-{number}")])
        for index in same:
            waiting.until(lambda index=index: len(new_ads(index)) == 10)
            assert records(index) == records(first)

    def test_passwords_are_not_in_messages(self, redis_hosts, valkey):
        valkey.client().config_set("requirepass", "secret")
        redis_hosts.url = valkey.url.replace("//", "//:wrong@")
        problem = problem_of(redis_hosts.open(0))
        assert "wrong" not in problem
        assert "127.0.0.1" in problem
        redis_hosts.url = valkey.url.replace("//", "//:secret@")
        redis_hosts.open(1).update([ad("new-1")])

    def test_a_service_that_lost_its_channel_reports_it_and_answers(
        self, redis_hosts, valkey, ranker_address
    ):
        release = redis_hosts.release(0)
        service = serving_fixtures.make_orchestrator(
            release, ranker_address, updates=live.open_channel(valkey.url, release)
        )
        with serving_fixtures.serve_app(service) as url:
            serving_fixtures.wait_until_ready(url)
            get = functools.partial(httpx.get, timeout=60)
            ask = functools.partial(
                httpx.post,
                f"{url}/v1/recommend",
                json={"k": 1, "filters": {"allowed_ads": ["new-1"]}},
                timeout=60,
            )
            redis_hosts.open(1).update([ad("new-1")])
            waiting.until(lambda: ask().json()["ads"])
            assert 'tfrec_live_updates{version="1"} 1.0' in get(f"{url}/metrics").text
            valkey.kill()
            waiting.until(lambda: get(f"{url}/readyz").json()["degraded"])
            assert "cannot be used" in get(f"{url}/v1/bundle").json()["live"]["problem"]
            assert ask().json()["degraded"] is None
            assert 'tfrec_live_problem{version="1"} 1.0' in get(f"{url}/metrics").text
            valkey.start()
            waiting.until(lambda: get(f"{url}/readyz").json()["degraded"] is None)


def _nothing(index):
    """Returns the table, embeddings and features of an update without ads."""
    table = index._rows.check([])
    return (table, *index._embed(table))


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_a_stream_expires_unless_hosts_publish_or_follow(valkey, make_hosts):
    valkey.client().flushall()
    hosts = make_hosts(valkey.url.replace("redis://", "valkey://") + "?socket_timeout=2")
    writer = hosts.open(0)
    writer.update([ad("new-1")])
    (key,) = valkey.client().keys()
    month = 30 * 86_400
    assert month - 60 < valkey.client().ttl(key) <= month
    valkey.client().expire(key, 1000)
    waiting.until(lambda: valkey.client().ttl(key) > 1000)
