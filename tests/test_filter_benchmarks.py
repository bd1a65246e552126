"""The benchmarks of filters and of updates, small: what they measure is consistent."""

import json

import scripts_in_forks

SMALL = ("--num_ads=2000", "--dimension=16", "--num_queries=20", "--k=50", "--kind=IVF")


def run(script, *flags, small=SMALL):
    done = scripts_in_forks.run(script, *small, *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_filters_leave_what_they_say_and_their_results_are_nearly_exact(tmp_path):
    path = tmp_path / "filters.json"
    result = run("benchmark_filters.py", f"--json={path}")
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
    result = run("benchmark_live.py", "--added=0,50,1200")
    none, some, many = result["rows"]
    assert (none["added"], none["removed_or_changed"]) == (0, 0)
    # A tenth of the added ads replace ads of the release; as many others are removed.
    assert (some["added"], some["removed_or_changed"]) == (50, 10)
    assert (many["added"], many["removed_or_changed"]) == (1200, 240)
    for row in result["rows"]:
        assert row["recall"] >= 0.95
    assert many["update_bytes"] > 100 * (16 + 8) * 4
    assert many["open_seconds"] > 0


def test_rules_are_timed_and_their_answers_logged():
    result = run("benchmark_rules.py", small=("--repetitions=10", "--num_candidates=50", "--k=4"))
    assert [row["case"] for row in result["cases"]][:2] == ["no rules", "one cap"]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in result["cases"])
    assert (result["logged_rows"], result["dropped_answers"]) == (40, 0)
