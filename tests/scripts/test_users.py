"""The benchmark of the user store, at a size that says nothing of it."""

import json
import shutil

import pytest
import scripts_in_forks

pytestmark = pytest.mark.benchmark


def test_what_a_store_costs_a_request_is_measured(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "bundle")
    flags = [f"--bundle={base}", f"--stores=sqlite:{tmp_path}/users.db"]
    flags += ["--num_users=12", "--num_actions=2", "--num_requests=10"]
    done = scripts_in_forks.run("benchmarks/users.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["stores"]
    assert [kind["kind"] for kind in row["kinds"]] == [
        "carries everything",
        "id alone",
        "id and a cap",
    ]
    assert row["failed"] == 0
    # Of three kinds of requests, two name a user.
    states = dict(row["user_data"])
    assert states.pop("null") == 10
    assert sum(states.values()) == 20
    assert "unknown" not in states
