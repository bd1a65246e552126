"""The benchmarks of filters and of updates, small: what they measure is consistent."""

import json

import pytest
import scripts_in_forks

pytestmark = pytest.mark.benchmark

SMALL = ("--num_ads=2000", "--dimension=16", "--num_queries=20", "--k=50", "--kind=IVF")


def run(script, *flags, small=SMALL):
    done = scripts_in_forks.run(script, *small, *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_filters_leave_what_they_say_and_their_results_are_nearly_exact(tmp_path):
    path = tmp_path / "filters.json"
    result = run("benchmarks/filters.py", f"--json={path}")
    assert json.loads(path.read_text()) == result
    rows = {row["filter"]: row for row in result["filters"]}
    assert rows["none"]["eligible"] == 2000
    assert 900 < rows["random 50.00%"]["eligible"] < 1100
    assert rows["without 100 ads"]["eligible"] == 1900
    for row in rows.values():
        assert row["results"] == min(50, row["eligible"])
        assert row["recall"] >= 0.95
        assert row["left_of_unfiltered"] <= row["results"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert rows["random 1.00%"]["recall"] == 1.0


def test_a_live_index_is_measured_as_it_grows():
    result = run("benchmarks/live.py", "--added=0,50,1200")
    none, some, many = result["rows"]
    assert (none["added"], none["removed_or_changed"]) == (0, 0)
    # A tenth of the added ads replace ads of the release; as many others are removed.
    assert (some["added"], some["removed_or_changed"]) == (50, 10)
    assert (many["added"], many["removed_or_changed"]) == (1200, 240)
    for row in result["rows"]:
        assert row["recall"] >= 0.95
    assert many["update_bytes"] > 100 * (16 + 8) * 4
    assert many["open_seconds"] > 0


def test_a_live_index_that_grows_beyond_its_release_is_measured_rightly():
    small = ("--num_ads=1024", "--dimension=8", "--num_queries=10", "--k=50", "--kind=Flat")
    result = run("benchmarks/live.py", "--added=0,5120", small=small)
    # Five updates of 1,000 and one of 120: each names a tenth to change and a tenth to remove.
    assert [row["added"] for row in result["rows"]] == [0, 5120]
    assert [row["removed_or_changed"] for row in result["rows"]] == [0, 1024]
    assert [row["recall"] for row in result["rows"]] == [1.0, 1.0]


def test_an_index_of_other_ads_is_not_measured(tmp_path):
    path = tmp_path / "kept.faiss"
    small = ("--num_ads=1024", "--dimension=8", "--num_queries=10", "--k=50", f"--index={path}")
    first = run("benchmarks/live.py", "--added=0", "--kind=Flat", small=small)
    again = run("benchmarks/live.py", "--added=0", "--kind=Flat", small=small)
    assert first["rows"][0]["recall"] == again["rows"][0]["recall"] == 1.0
    for flag in ("--num_ads=2000", "--dimension=16", "--kind=HNSW"):
        done = scripts_in_forks.run("benchmarks/live.py", *small, "--added=0", "--kind=Flat", flag)
        assert done.returncode == 1
        assert "got Flat, 1024, 8. Remove it or choose another file." in done.stderr
    path.write_bytes(b"no index")
    done = scripts_in_forks.run("benchmarks/live.py", *small, "--added=0", "--kind=Flat")
    assert f"--index: {path} is not an index" in done.stderr


def test_more_added_ads_than_a_benchmark_can_name_are_refused():
    done = scripts_in_forks.run("benchmarks/live.py", *SMALL, "--added=0,10001")
    assert done.returncode == 1
    assert "--added: expected at most 10000, five times --num_ads, got 10001." in done.stderr


def test_rules_are_timed_and_their_answers_logged():
    result = run("benchmarks/rules.py", small=("--repetitions=10", "--num_candidates=50", "--k=4"))
    assert [row["case"] for row in result["cases"]][:2] == ["no rules", "one cap"]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in result["cases"])
    assert (result["logged_rows"], result["dropped_answers"]) == (40, 0)
