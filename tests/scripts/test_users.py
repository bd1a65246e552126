"""The benchmark of the user store, at a size that says nothing of it."""

import contextlib
import json
import shutil
import sqlite3

import pytest
import scripts_in_forks

pytestmark = pytest.mark.benchmark


def clicks_of_users(path):
    """Returns numbers of clicks, with the number of users that have so many."""
    counts = "SELECT count(*) AS clicks FROM events WHERE kind = 'click' GROUP BY user_id"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute(f"SELECT clicks, count(*) FROM ({counts}) GROUP BY clicks"))


def test_what_a_store_costs_a_request_is_measured(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "bundle")
    flags = [f"--bundle={base}", f"--stores=sqlite:{tmp_path}/users.db"]
    flags += ["--num_users=12", "--num_requests=10"]

    def measured(num_actions):
        done = scripts_in_forks.run("benchmarks/users.py", *flags, f"--num_actions={num_actions}")
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = json.loads(done.stdout.splitlines()[-1])["stores"]
        return row

    row = measured(2)
    assert [kind["kind"] for kind in row["kinds"]] == [
        "carries everything",
        "id alone",
        "id and a cap",
    ]
    assert row["failed"] == 0
    # Two of three kinds of requests name a user.
    states = dict(row["user_data"])
    assert states.pop("null") == 10
    assert sum(states.values()) == 20
    assert "unknown" not in states
    # A request that carries everything reads no user.
    assert row["kinds"][0]["store_p50_ms"] is None
    assert row["kinds"][1]["store_p50_ms"] > 0
    assert clicks_of_users(tmp_path / "users.db") == {2: 12}
    # Users with other numbers of clicks are not those of the first run.
    measured(3)
    assert clicks_of_users(tmp_path / "users.db") == {2: 12, 3: 12}
