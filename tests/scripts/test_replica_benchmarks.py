"""The benchmarks of replicas, at sizes that say nothing of speed."""

import json

import pytest
import scripts_in_forks

pytestmark = [pytest.mark.process, pytest.mark.benchmark]


def result_of(name, *flags):
    done = scripts_in_forks.run(f"benchmarks/{name}.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_request_fails_or_is_unranked_while_a_replica_is_killed_or_stopped(tiny_base):
    result = result_of(
        "replicas", f"--bundle={tiny_base}", "--replicas=2", "--rate=5", "--duration_seconds=2",
        "--deadline_ms=60000", "--phases=killed,restarted,stopped",
    )  # fmt: skip
    phases = {row["phase"]: row for row in result["phases"]}
    assert list(phases) == ["undisturbed", "killed", "restarted", "stopped"]
    for row in phases.values():
        assert row["sent"] > 0
        assert (row["failed"], row["degraded"]) == (0, 0)


def test_a_hanging_replica_costs_no_scores_and_a_slow_one_is_avoided(tiny_base):
    # In simulated time, so that nothing depends on the machine.
    rows = result_of("replica_policies", f"--bundle={tiny_base}", "--calls=1000")["rows"]
    found = {(row["disturbance"], row["policy"]): row for row in rows}
    assert found["hangs", "as it is"]["unranked"] == 0
    assert found["hangs", "no second calls"]["unranked"] > 0
    assert found["slow", "as it is"]["p99_ms"] < 0.8 * found["slow", "in turn"]["p99_ms"]
    calm = found["none", "as it is"]
    for disturbance in ("killed", "hangs", "slow"):
        assert found[disturbance, "as it is"]["p99_ms"] < 2 * calm["p99_ms"]
