"""The benchmark of filters, small: what it measures is consistent."""

import json

import pytest
import scripts_in_forks

pytestmark = pytest.mark.benchmark


def test_filters_keep_their_share_of_ads_and_results_are_nearly_exact():
    done = scripts_in_forks.run(
        "benchmarks/filters.py", "--num_ads=2000", "--dimension=16", "--num_queries=20", "--k=50",
        "--kind=IVF",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
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
