"""Several rankers behind one address: which one is called, and failing, late and busy ones."""

import asyncio
import contextlib
import dataclasses
import re
import signal
import subprocess
import sys
import threading

import children
import clocks
import pytest
import repository
import serving_fixtures
import waiting

from serving import errors, orchestrator, ranker, requests
from serving.config import OrchestratorConfig, RankingConfig
from serving.model_server import server

REQUEST = requests.Request(user={"country": "CH", "age": 33}, context={"device": "phone"})
PATIENT = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)


class CountingProxy:
    """A proxy of a real server that counts the calls and can hold them."""

    def __init__(self, stack, address):
        self.calls = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.address = stack.enter_context(serving_fixtures.altering_server(address, self._pass))

    def _pass(self, reply):
        self.calls += 1
        assert self.go_on.wait(waiting.GUARD_SECONDS)


@pytest.fixture
def replicas(ranker_address):
    """Three servers of the ranker of `tiny_base`."""
    with contextlib.ExitStack() as stack:
        found = [CountingProxy(stack, ranker_address) for _ in range(3)]
        yield found
        for proxy in found:
            proxy.go_on.set()


def run(release, client, scenario, config=PATIENT, **options):
    """Runs `scenario(orchestrator)`; `client` is an address, or endpoints."""

    async def main():
        known = ranker.connect(release, client) if isinstance(client, str) else client
        service = orchestrator.Orchestrator(release, known, config, **options)
        try:
            return await scenario(service)
        finally:
            await service.close()

    return asyncio.run(main())


def joined(replicas):
    return ",".join(proxy.address for proxy in replicas)


def states(service):
    """Whether each replica is healthy, by its address."""
    return service._ranker.states()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "has ''; expected HOST:PORT"),
        ("a:1,,b:2", "has ''; expected HOST:PORT"),
        ("a:1,b", "has 'b'; expected HOST:PORT"),
        ("dns:///ranker", "has 'dns:///ranker'; expected HOST:PORT"),
        ("http://a:8500", "has 'http://a:8500'; expected HOST:PORT of its gRPC server"),
        ("a:65536", "has 'a:65536'; expected HOST:PORT"),
        ("::1:8500", "dns:///NAME:PORT; an IPv6 address is in brackets."),
        ("[::1]:1,2001:db8::5:8500", "has '2001:db8::5:8500'; expected HOST:PORT"),
        ("a:1, b:2, a:1", "names a server twice"),
    ],
)
def test_an_address_that_names_no_server_is_refused(address, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ranker.split_address(address)


def test_an_address_has_one_part_for_each_server_or_name():
    assert ranker.split_address("a:1, b:2,dns:///c:3") == ["a:1", "b:2", "dns:///c:3"]
    # gRPC reads these: the second server is called when the first has ended.
    assert ranker.split_address("ipv4:1.2.3.4:1,1.2.3.5:2") == ["ipv4:1.2.3.4:1,1.2.3.5:2"]


def test_calls_are_spread_over_all_replicas(tiny_bundle, replicas):
    async def scenario(service):
        await service.verify_ranker()
        before = [proxy.calls for proxy in replicas]
        answers = await asyncio.gather(*(service.recommend(REQUEST) for _ in range(60)))
        return answers, [proxy.calls - count for proxy, count in zip(replicas, before, strict=True)]

    unshared = dataclasses.replace(PATIENT, requests_per_call=1)
    answers, calls = run(tiny_bundle, joined(replicas), scenario, unshared)
    assert {answer.degraded for answer in answers} == {None}
    assert len({tuple(ad.ad_id for ad in answer.ads) for answer in answers}) == 1
    assert min(calls) > 0
    assert sum(calls) >= 60


@pytest.mark.parametrize("seeds", [[1], [1, 0]], ids=["model", "version"])
def test_a_replica_with_another_model_or_version_is_not_used(
    tiny_bundle, replicas, tmp_path, seeds
):
    for seed in seeds:
        serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(seed=seed))

    async def scenario(service, address):
        with pytest.raises(errors.RankerError):
            await service._ranker._replicas[address].ranker.verify()
        await service.verify_ranker()
        answers = [await service.recommend(REQUEST) for _ in range(20)]
        return answers, service.not_ready, service.problem, states(service)

    with serving_fixtures.serve_ranker(tmp_path) as other:
        address = f"127.0.0.1:{other.port}"
        answers, not_ready, problem, healthy = run(
            tiny_bundle,
            f"{address},{joined(replicas)}",
            lambda service: scenario(service, address),
        )
    assert {answer.degraded for answer in answers} == {None}
    assert not_ready is None
    assert (address if len(seeds) > 1 else "probe") in problem
    assert healthy == {address: False, **{proxy.address: True for proxy in replicas}}


def test_the_problems_of_replicas_are_sentences(tiny_bundle):
    addresses = [f"127.0.0.1:{serving_fixtures.free_port()}" for _ in range(2)]

    async def scenario(service):
        with pytest.raises(errors.RankerUnavailableError):
            await service.verify_ranker()
        return service.problem

    problem = run(tiny_bundle, ",".join(addresses), scenario)
    starts = [f"The ranker at {address} is not available: " for address in addresses]
    assert re.fullmatch(rf"{starts[0]}.*[^.]\. {starts[1]}.*[^.]\.", problem)


def test_a_late_call_is_answered_by_another_replica(tiny_bundle, replicas):
    late = replicas[0]

    async def scenario(service):
        await service.verify_ranker()
        for _ in range(10):  # To learn the latency of a call.
            await service.recommend(REQUEST)
        late.go_on.clear()
        before = late.calls
        answers = []
        while late.calls == before:
            answers.append(await service.recommend(REQUEST))
        answers += [await service.recommend(REQUEST) for _ in range(20)]
        held = (states(service)[late.address], late.calls - before, service.problem)
        late.go_on.set()
        # Its probes are run in the background while others are called.
        while not states(service)[late.address]:
            answers.append(await service.recommend(REQUEST))
        return answers, held, service.metrics.render().decode()

    answers, (healthy, calls, problem), metrics = run(tiny_bundle, joined(replicas), scenario)
    assert {answer.degraded for answer in answers} == {None}
    assert not healthy
    # The late call and the probes, of which the server has seen one; on a busy machine the calls
    # of other replicas can be late too.
    assert calls >= 2
    assert problem.endswith(" is late.")
    labels = f'replica="{late.address}",version="1"'
    counted = re.search(rf'tfrec_ranker_calls_total{{outcome="late",{labels}}} (\S+)', metrics)
    assert float(counted[1]) >= 1


def test_second_calls_do_not_double_the_load_when_all_replicas_are_late(
    tiny_bundle, replicas, monkeypatch
):
    monkeypatch.setattr(ranker.Replicas, "_late_seconds", lambda *_: 0.05)

    async def scenario(service):
        await service.verify_ranker()
        for proxy in replicas:
            proxy.go_on.clear()
        known = list(service._ranker._replicas.values())
        asked = [asyncio.create_task(service.recommend(REQUEST)) for _ in range(50)]

        def is_settled():
            """No second call is left, or all requests that have a turn wait for one replica."""
            healthy = [replica.in_flight for replica in known if replica.is_healthy]
            has_turn = len(asked) - service._ranking._batcher.num_waiting
            return service._ranker._second_calls < 1 or healthy == [has_turn]

        await waiting.becomes(is_settled)
        calls = sum(replica.in_flight for replica in known)
        for proxy in replicas:
            proxy.go_on.set()
        return calls, await asyncio.gather(*asked)

    calls, answers = run(tiny_bundle, joined(replicas), scenario)
    # Four for each replica may start before one is late; ten second calls are left.
    assert 4 <= calls <= 3 * 4 + 10
    assert {answer.degraded for answer in answers} == {None}


def test_late_replicas_are_not_avoided_when_no_second_call_is_left(
    tiny_bundle, replicas, monkeypatch
):
    monkeypatch.setattr(ranker.Replicas, "_late_seconds", lambda *_: 0.0)

    async def scenario(service):
        await service.verify_ranker()
        service._ranker._second_calls = 0.0
        answers = await asyncio.gather(*(service.recommend(REQUEST) for _ in range(10)))
        return answers, states(service), service.metrics.render().decode()

    answers, healthy, metrics = run(tiny_bundle, joined(replicas), scenario)
    assert {answer.degraded for answer in answers} == {None}
    assert set(healthy.values()) == {True}
    assert 'tfrec_ranker_calls_total{outcome="late"' not in metrics


def test_calls_go_to_the_least_loaded_replica_if_none_is_healthy(tiny_bundle, replicas):
    async def scenario(service):
        # None is healthy before it is verified.
        known = list(service._ranker._replicas.values())
        known[0].in_flight = 1
        chosen = [service._ranker._next([], only_healthy=False) for _ in range(4)]
        return [known.index(replica) for replica in chosen]

    assert run(tiny_bundle, joined(replicas), scenario) == [1, 2, 1, 2]


def test_calls_in_flight_stay_limited_while_replicas_come_and_go(tiny_bundle, replicas):
    async def scenario(service):
        await service.verify_ranker()
        for proxy in replicas:
            proxy.go_on.clear()
        known = list(service._ranker._replicas.values())

        def in_flight():
            return sum(replica.in_flight for replica in known)

        def queued():
            return service._ranking._batcher.num_waiting

        asked = [asyncio.create_task(service.recommend(REQUEST)) for _ in range(5)]
        await waiting.becomes(lambda: (in_flight(), queued()) == (3, 2))
        known[0].suspect = True
        asked += [asyncio.create_task(service.recommend(REQUEST)) for _ in range(2)]
        await waiting.becomes(lambda: in_flight() + queued() == 7)
        limited = in_flight()
        # One whose time is over leaves the queue, and the others keep their turn.
        asked.pop(3).cancel()
        for proxy in replicas:
            proxy.go_on.set()
        return limited, await asyncio.gather(*asked)

    config = OrchestratorConfig(
        num_candidates=300, default_deadline_ms=30_000, ranker=RankingConfig(max_calls=1)
    )
    limited, answers = run(tiny_bundle, joined(replicas), scenario, config)
    assert limited == 3
    assert {answer.degraded for answer in answers} == {None}


def test_a_busy_replica_is_left_for_another_and_waited_for_if_all_are_busy(
    tiny_base, tiny_bundle, monkeypatch
):
    # However slow the machine is, no replica is late.
    monkeypatch.setattr(ranker.Replicas, "_late_seconds", lambda *_: 60.0)
    models = {"ranker": tiny_base / "ranker"}

    async def scenario(service, both):
        await service.verify_ranker()
        with serving_fixtures.taken_thread(both[0]):
            before = serving_fixtures.refused_calls(both[0])
            answers = [await service.recommend(REQUEST) for _ in range(4)]
            refused = serving_fixtures.refused_calls(both[0]) - before
            healthy = states(service)
        with serving_fixtures.taken_thread(both[0]), serving_fixtures.taken_thread(both[1]):
            before = [serving_fixtures.refused_calls(busy) for busy in both]
            asked = asyncio.create_task(service.recommend(REQUEST))
            await waiting.becomes(
                lambda: all(
                    serving_fixtures.refused_calls(busy) > count
                    for busy, count in zip(both, before, strict=True)
                )
            )
        return [*answers, await asked], refused, healthy

    with (
        server.ModelServer(models, grpc_max_threads=1) as first,
        server.ModelServer(models, grpc_max_threads=1) as second,
    ):
        address = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        answers, refused, healthy = run(
            tiny_bundle, address, lambda service: scenario(service, [first, second])
        )
    assert {answer.degraded for answer in answers} == {None}
    assert refused > 0
    # A busy replica is healthy.
    assert set(healthy.values()) == {True}


def test_an_answer_says_how_long_a_busy_replica_was_waited_for(tiny_base, tiny_bundle):
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"
    late = serving_fixtures.changed(REQUEST, deadline_ms=1_000)

    async def scenario(service, busy):
        await service.verify_ranker()
        with serving_fixtures.taken_thread(busy):
            return await service.recommend(late)

    models = {"ranker": tiny_base / "ranker"}
    with server.ModelServer(models, grpc_max_threads=1) as busy:
        address = f"127.0.0.1:{busy.port}"
        # The clock stands still, so that however slow the machine is, there is a second to wait.
        answer = run(
            tiny_bundle,
            f"{address},{nobody}",
            lambda service: scenario(service, busy),
            clock=clocks.Clock(),
        )
    found = re.match(f"The ranker at {address} had no free thread within (.*) ms", answer.degraded)
    assert int(found[1]) > 100


def test_no_replica_is_called_after_the_deadline(tiny_bundle, replicas):
    nobody, (held, *_) = f"127.0.0.1:{serving_fixtures.free_port()}", replicas
    late = serving_fixtures.changed(REQUEST, deadline_ms=1_000)

    async def scenario(service):
        await service.verify_ranker()
        held.go_on.clear()
        return await service.recommend(late)

    # The clock stands still, so that however slow the machine is, there is a second for the call.
    answer = run(tiny_bundle, f"{held.address},{nobody}", scenario, clock=clocks.Clock())
    assert answer.degraded.startswith(f"The ranker at {held.address} did not answer within ")


def test_the_last_healthy_replica_is_waited_for_while_it_reconnects(tiny_bundle, ranker_address):
    nobody = f"127.0.0.1:{serving_fixtures.free_port()}"

    async def scenario(service, ending, port):
        await service.verify_ranker()
        first = await service.recommend(REQUEST)
        await asyncio.to_thread(ending.close)
        again = ending.enter_context(serving_fixtures.altering_server(ranker_address, bool, port))
        return first, await service.recommend(REQUEST), again

    with contextlib.ExitStack() as ending:
        address = ending.enter_context(serving_fixtures.altering_server(ranker_address, bool))
        port = int(address.rpartition(":")[2])
        first, second, again = run(
            tiny_bundle, f"{nobody},{address}", lambda service: scenario(service, ending, port)
        )
    assert again == address
    assert (first.degraded, second.degraded) == (None, None)


def test_servers_follow_a_name_in_dns(tiny_bundle, replicas):
    clock = clocks.Clock()
    records = [proxy.address for proxy in replicas[:1]]
    asked = []

    async def lookup(host, port):
        asked.append((host, port))
        if not records:
            raise OSError("no such name")
        return list(records)

    async def scenario(service):
        await service.verify_ranker()
        first = states(service)
        records.append(replicas[1].address)
        await service.recommend(REQUEST)
        unchanged = states(service)  # The name is not looked up with each call.
        clock.advance(5)

        async def follow(expected):
            while states(service) != expected:
                assert (await service.recommend(REQUEST)).degraded is None

        await follow({proxy.address: True for proxy in replicas[:2]})
        del records[0]
        clock.advance(5)
        await follow({replicas[1].address: True})
        records.clear()
        clock.advance(5)
        while service.problem is None:
            assert (await service.recommend(REQUEST)).degraded is None
        return first, unchanged, states(service), service.problem

    endpoints = ranker.Endpoints(
        "dns:///ranker:8500",
        version=1,
        outputs=tiny_bundle.manifest.outputs.values(),
        lookup=lookup,
        clock=clock,
    )
    first, unchanged, last, problem = run(tiny_bundle, endpoints, scenario)
    assert first == unchanged == {replicas[0].address: True}
    # The last known servers remain.
    assert last == {replicas[1].address: True}
    assert problem == "dns:///ranker:8500 cannot be resolved: no such name."
    assert set(asked) == {("ranker", "8500")}
    assert len(asked) == 4


def test_the_probes_of_a_server_that_has_left_dns_are_ended(tiny_bundle, replicas):
    clock = clocks.Clock()
    records = [replicas[0].address]
    replicas[0].go_on.clear()

    async def lookup(host, port):
        return list(records)

    async def scenario(service):
        with pytest.raises(errors.RankerDeadlineError):
            await service.verify_ranker(0.01)
        await service.observe()
        (gone,) = service._ranker._replicas.values()
        assert not gone.check.done()
        records[:] = [replicas[1].address]
        clock.advance(5)
        short = serving_fixtures.changed(REQUEST, deadline_ms=500)
        while states(service) != {replicas[1].address: True}:
            await service.recommend(short)
        # A call to it may fail later.
        service._ranker._check(gone)
        await asyncio.sleep(0)
        assert gone.check.cancelled()

    outputs = tiny_bundle.manifest.outputs.values()
    endpoints = ranker.Endpoints(
        "dns:///ranker:8500", version=1, outputs=outputs, lookup=lookup, clock=clock
    )
    run(tiny_bundle, endpoints, scenario)


def test_the_names_of_the_machine_are_resolved(ranker_address, tiny_bundle):
    port = ranker_address.rpartition(":")[2]
    address = f"dns:///localhost:{port}"
    assert f"127.0.0.1:{port}" in asyncio.run(ranker.find_servers(address))

    async def scenario(service):
        await service.verify_ranker()
        return await service.recommend(REQUEST)

    assert run(tiny_bundle, address, scenario).degraded is None


def test_a_call_does_not_wait_longer_than_its_time_for_a_name(tiny_bundle):
    async def never(host, port):
        await asyncio.Event().wait()

    endpoints = ranker.Endpoints("dns:///ranker:8500", version=1, outputs=(), lookup=never)

    async def scenario(service):
        with pytest.raises(errors.RankerUnavailableError, match=r"was not resolved in 0\.01 s"):
            await service._ranker.verify(0.01)
        return await service.recommend(serving_fixtures.changed(REQUEST, deadline_ms=500))

    answer = run(tiny_bundle, endpoints, scenario, clock=clocks.Clock())
    assert "dns:///ranker:8500 was not resolved in" in answer.degraded


@pytest.mark.parametrize("name", ["name.invalid", "a..b", "a" * 64])
def test_a_name_that_resolves_to_nothing_is_named(tiny_bundle, name):
    async def scenario(service):
        with pytest.raises(errors.RankerUnavailableError, match="cannot be resolved"):
            await service.verify_ranker()
        return (await service.recommend(REQUEST)).degraded, service.not_ready

    degraded, not_ready = run(tiny_bundle, f"dns:///{name}:8500", scenario)
    assert f"dns:///{name}:8500 cannot be resolved" in degraded
    assert f"dns:///{name}:8500 cannot be resolved" in not_ready


class _Processes:
    """Three model servers in processes of their own."""

    def __init__(self, base, stack):
        self._base, self._stack = base, stack
        self.ports = [serving_fixtures.free_port() for _ in range(3)]
        self.running = [self.start(number) for number in range(3)]

    @property
    def addresses(self):
        return [f"127.0.0.1:{port}" for port in self.ports]

    def start(self, number, base=None):
        """Starts a server; an older one of this number must have ended."""
        command = [
            *(sys.executable, "-m", "serving.model_server", f"--port={self.ports[number]}"),
            *("--rest_api_port=0", "--model_name=ranker"),
            f"--model_base_path={(base or self._base).resolve()}/ranker",
        ]
        return self._stack.enter_context(
            children.started(command, cwd=repository.ROOT, stdout=subprocess.DEVNULL)
        )

    def kill(self, number):
        self.running[number].kill()
        self.running[number].wait()


@pytest.mark.engines
def test_no_answer_is_lost_while_replicas_are_killed_stopped_restarted_and_replaced(
    tiny_base, tiny_bundle, tmp_path
):
    serving_fixtures.publish_trainings(tmp_path, 2)
    answers = []

    async def ask(service):
        while True:
            answers.append(await service.recommend(REQUEST))

    async def scenario(service, servers):
        addresses = servers.addresses

        async def goes_on():
            count = len(answers)
            await waiting.becomes(lambda: len(answers) > count + 40)

        async def healthy(*numbers):
            expected = {address: number in numbers for number, address in enumerate(addresses)}
            await waiting.becomes(lambda: states(service) == expected)
            await goes_on()

        async def verified():
            with contextlib.suppress(errors.RankerError):
                await service.verify_ranker()
            return all(states(service).values())

        while not await verified():
            await asyncio.sleep(0.1)
        asking = [asyncio.create_task(ask(service)) for _ in range(4)]
        await healthy(0, 1, 2)
        await asyncio.to_thread(servers.kill, 0)
        await healthy(1, 2)
        servers.running[1].send_signal(signal.SIGSTOP)
        await healthy(2)
        servers.running[0] = servers.start(0)
        await healthy(0, 2)
        servers.running[1].send_signal(signal.SIGCONT)
        await healthy(0, 1, 2)
        # A server of another release takes the address.
        await asyncio.to_thread(servers.kill, 2)
        servers.running[2] = servers.start(2, tmp_path)
        await waiting.becomes(lambda: "does not serve ranker version 1" in (service.problem or ""))
        await healthy(0, 1)
        for task in asking:
            task.cancel()
        failed = await asyncio.gather(*asking, return_exceptions=True)
        return [error for error in failed if not isinstance(error, asyncio.CancelledError)]

    with contextlib.ExitStack() as stack:
        servers = _Processes(tiny_base, stack)
        failed = run(
            tiny_bundle,
            ",".join(servers.addresses),
            lambda service: scenario(service, servers),
            OrchestratorConfig(num_candidates=300, default_deadline_ms=60_000),
        )
    assert not failed
    assert {answer.degraded for answer in answers} == {None}
    assert len({tuple(ad.ad_id for ad in answer.ads) for answer in answers}) == 1
