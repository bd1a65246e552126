"""The benchmark that injects faults: a short run, and that its checker can fail."""

import json

import pytest
import scripts_in_forks

pytestmark = [pytest.mark.process, pytest.mark.benchmark]

FAULTS = ("kill_worker", "kill_writer", "bit_rot_in_journal", "promote")


def test_under_faults_nothing_acknowledged_is_lost_and_no_request_fails(tiny_base):
    done = scripts_in_forks.run(
        "benchmarks/chaos.py", f"--bundle={tiny_base}", "--minutes=0", "--rate=5",
        "--pause_seconds=0.2", "--deadline_seconds=20", f"--faults={','.join(FAULTS)}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["faults"] == dict.fromkeys(FAULTS, 1)
    assert result["requests"] > 0
    # Both releases are written to before each fault.
    assert result["acknowledged"] >= 2 * len(FAULTS)
    wrong = ("failed", "late", "mixed", "lost", "violations")
    assert [result[name] for name in wrong] == [0] * len(wrong)


def test_an_unknown_fault_is_named(tiny_base):
    done = scripts_in_forks.run(
        "benchmarks/chaos.py", f"--bundle={tiny_base}", "--faults=promote,earthquake"
    )
    assert done.returncode == 1
    assert "--faults takes some of kill_worker" in done.stderr
    assert "'earthquake'" in done.stderr


@pytest.mark.parametrize(
    ("present", "absent", "elsewhere", "lost", "mixed"),
    [
        ({"ad-0", "ad-1"}, {"gone-2"}, set(), 0, 0),
        ({"ad-0", "missing-3"}, set(), set(), 1, 0),
        (set(), {"ad-1"}, set(), 1, 0),
        (set(), set(), {"ad-1"}, 0, 1),
    ],
    ids=["as acknowledged", "lost", "removed, but there", "of another release"],
)
def test_answers_are_compared_with_what_was_acknowledged(
    present, absent, elsewhere, lost, mixed, script, service_url
):
    checked, writer = script("workload.checked_load"), script("workload.live_writer")
    states = {
        1: writer.Acknowledged(frozenset(present), frozenset(absent)),
        2: writer.Acknowledged(frozenset(elsewhere)),
    }
    reads = {version: lambda version=version: states[version] for version in states}
    load = checked.CheckedLoad(service_url, [{}], reads, rate=1.0, deadline_seconds=30.0)
    load.read_back()
    assert (len(load.counts.lost), load.counts.mixed) == (lost, mixed)
    assert len(load.counts.problems) == lost + mixed


def test_an_ad_whose_removal_begins_during_a_request_is_not_lost(script, service_url):
    checked, writer = script("workload.checked_load"), script("workload.live_writer")
    # The states before the ids are chosen, before the request and after it.
    states = iter([{"ad-0", "removed-3"}, {"ad-0", "removed-3"}, {"ad-0"}])
    reads = {1: lambda: writer.Acknowledged(frozenset(next(states)))}
    load = checked.CheckedLoad(service_url, [{}], reads, rate=1.0, deadline_seconds=30.0)
    load.read_back()
    assert not load.counts.problems
