"""The benchmark of the user store, at a size too small to measure it."""

import asyncio
import contextlib
import json
import shutil
import sqlite3

import pytest
import scripts_in_forks
from absl import flags

pytestmark = pytest.mark.benchmark


def clicks_of_users(path):
    """Returns the number of users by their number of clicks."""
    counts = "SELECT count(*) AS clicks FROM events WHERE kind = 'click' GROUP BY user_id"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute(f"SELECT clicks, count(*) FROM ({counts}) GROUP BY clicks"))


def test_the_latency_that_a_store_adds_is_measured(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "bundle")
    done = scripts_in_forks.run(
        "benchmarks/users.py", f"--bundle={base}", f"--stores=sqlite:{tmp_path}/users.db",
        "--num_users=12", "--num_requests=10", "--num_actions=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["stores"]
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


def test_a_store_is_filled_once_for_each_number_of_clicks(script, tmp_path):
    benchmark = script("users")
    for num_actions, expected in ((2, {2: 12}), (2, {2: 12}), (3, {2: 12, 3: 12})):
        flags.FLAGS(["users", "--num_users=12", f"--num_actions={num_actions}"])
        asyncio.run(benchmark._fill(f"sqlite:{tmp_path}/users.db", [{"age": "30"}], ["ad1", "ad2"]))
        assert clicks_of_users(tmp_path / "users.db") == expected
    flags.FLAGS.unparse_flags()
