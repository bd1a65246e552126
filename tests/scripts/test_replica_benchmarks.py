"""The benchmark of replicas, at a size too small to measure speed."""

import json

import pytest
import scripts_in_forks

pytestmark = [pytest.mark.process, pytest.mark.benchmark]


def test_no_request_fails_or_is_unranked_while_a_replica_is_killed_or_stopped(tiny_base):
    done = scripts_in_forks.run(
        "benchmarks/replicas.py", f"--bundle={tiny_base}", "--replicas=2", "--rate=20",
        "--duration_seconds=1", "--warm_up_seconds=1", "--deadline_ms=60000",
        "--phases=killed,restarted,stopped",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    phases = {row["phase"]: row for row in result["phases"]}
    assert list(phases) == ["undisturbed", "killed", "restarted", "stopped"]
    for row in phases.values():
        assert row["sent"] > 0
        assert (row["failed"], row["degraded"]) == (0, 0)


def test_an_unknown_phase_is_named(tiny_base):
    done = scripts_in_forks.run(
        "benchmarks/replicas.py", f"--bundle={tiny_base}", "--phases=kiled,after"
    )
    assert done.returncode == 1
    assert "--phases takes some of undisturbed, killed" in done.stderr
    assert "'kiled'" in done.stderr
