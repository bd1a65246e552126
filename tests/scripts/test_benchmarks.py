"""The benchmarks of speed, at sizes too small to measure it."""

import collections
import json
import os
import pathlib
import tempfile
import types

import logs
import numpy as np
import pytest
import scripts_in_forks
import tensorflow as tf

from tfrecords import formats


def run(name, *flags):
    """Runs a benchmark and returns its last line's JSON and all that it printed."""
    done = scripts_in_forks.run(name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_generated_rows_are_a_clean_criteo_log(script, tmp_path):
    rows = script("workload.criteo_rows")
    path = rows.write(tmp_path / "a.tsv", 5_000)
    opened = formats.criteo.open_log(formats.Files((path,)), formats.criteo.schema())
    table, rejected = logs.read(opened, formats.criteo.schema())
    assert not rejected
    assert table.num_rows == 5_000
    clicks = np.array([int(value) for value in table["label"].to_pylist()])
    # Four standard deviations of 5,000 draws at 0.256 are 0.025.
    assert abs(clicks.mean() - 0.256) < 0.025
    assert min(table["I2"].to_pylist()) < 0
    assert table["I12"].null_count > 3_000
    # C9 has three values, C20 four and missing ones; C3 has ten million.
    assert len(set(table["C9"].to_pylist())) == 3
    assert len(set(table["C20"].to_pylist())) <= 5
    assert len(set(table["C3"].to_pylist())) > 1_500


def test_generated_rows_depend_on_the_seed_alone(script, tmp_path):
    rows = script("workload.criteo_rows")
    first = rows.write(tmp_path / "a.tsv", 2_000, seed=1).read_bytes()
    assert rows.write(tmp_path / "b.tsv", 2_000, seed=1).read_bytes() == first
    assert rows.write(tmp_path / "c.tsv", 2_000, seed=2).read_bytes() != first


@pytest.mark.parametrize("name", ["criteo_rows", "shop_rows"])
def test_a_log_that_was_not_written_to_its_end_is_not_reused(name, script, tmp_path, monkeypatch):
    rows = script(f"workload.{name}")
    path = tmp_path / "log.csv"

    def killed(table, file, *options):
        (file.write if hasattr(file, "write") else file.write_bytes)(b"1,2")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.csv.write_csv", killed)
        with pytest.raises(KeyboardInterrupt):
            rows.write(path, 1_000)
    assert not path.exists()
    assert rows.write(path, 1_000).read_bytes().count(b"\n") >= 1_000


def test_rows_share_the_keys_of_ads(script):
    rows = script("workload.criteo_rows")
    table = rows.block(np.random.default_rng(0), rows.draw_ads(1), 20_000)
    ads = set(zip(*(table[name].to_pylist() for name in formats.criteo.AD_KEY), strict=True))
    # Independent columns would give about as many combinations as rows.
    assert 2_000 < len(ads) < 12_000


def test_hex_digits_are_those_of_the_number(script):
    rows = script("workload.criteo_rows")
    ranks = np.array([0, 1, 70_000])
    salt = 0x9E3779B9
    expected = [f"{(int(r) * 2_654_435_761 % 2**32) ^ salt:08x}" for r in ranks]
    assert rows._hashes("C1", ranks, None).to_pylist() == expected
    missing = np.array([False, True, False])
    assert rows._hashes("C1", ranks, missing).to_pylist() == [expected[0], None, expected[2]]


def test_row_wise_examples_hold_the_rows_in_order(script, tmp_path):
    row_examples = script("peers.row_examples")
    path = logs.write(tmp_path / "log.tsv", logs.rows(60))
    row_examples.write(path, tmp_path / "rows.tfrecord", 50)
    examples = [
        tf.train.Example.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(tmp_path / "rows.tfrecord"))
    ]
    clicks = [int(row[0]) for row in logs.rows(60)[:50]]
    assert [e.features.feature["click"].int64_list.value[0] for e in examples] == clicks
    numbers = examples[0].features.feature["numbers"].float_list.value
    expected = [float(value or "nan") for value in logs.rows(60)[0][1:14]]
    np.testing.assert_array_equal(numbers, expected)
    assert len(examples[0].features.feature["ids"].int64_list.value) == 26


def test_row_wise_examples_of_a_data_set_hold_its_training_rows(script, data_set, tmp_path):
    row_examples = script("peers.row_examples")
    path = tmp_path / "rows.tfrecord"
    count = data_set.num_rows("train")
    assert row_examples.write_encoded(data_set, path, count + 1) == count
    found = collections.Counter()
    for batch in row_examples.batches(data_set, path, 100, seed=1).as_numpy_iterator():
        found.update(zip(batch["ad_row"].tolist(), batch["click"].tolist(), strict=True))
    expected = collections.Counter()
    for window in data_set.windows("train").as_numpy_iterator():
        expected.update(zip(window["ad_row"].tolist(), window["click"].tolist(), strict=True))
    assert found == expected


def test_shuffle_quality_counts_neighbors_in_one_batch(script):
    quality = script("reader").shuffle_quality
    # Two of the five pairs of neighbors, rows 0–1 and 4–5, share a batch.
    measured = quality(np.array([0, 0, 1, 0, 1, 1]))
    assert measured["adjacent_in_batch"] == pytest.approx(2 / 5)
    # Two of the other 5 rows are in the batch of a row.
    assert measured["adjacent_in_batch_full_shuffle"] == pytest.approx(2 / 5)
    # 4 × 3 of the 5 × 4 ordered pairs are in the batch of four rows, and none in that of one row.
    measured = quality(np.array([0, 0, 0, 1, 0]))
    assert measured["adjacent_in_batch_full_shuffle"] == pytest.approx(12 / 20)
    assert quality(np.zeros(3, int))["adjacent_in_batch_full_shuffle"] == 1.0


@pytest.mark.process
def test_temporary_files_of_a_fresh_process_are_deleted(script, monkeypatch):
    fresh_process = script("workload.fresh_process")
    # Nothing that takes seconds is to be imported again.
    monkeypatch.setattr(fresh_process, "sys", types.SimpleNamespace(modules=()))
    _, path = fresh_process.call(tempfile.mkstemp)
    assert not pathlib.Path(path).exists()
    assert fresh_process.call(os.path.getsize, __file__) > 0


def test_undefined_figures_are_dashes_and_null(script, capsys):
    harness = script("workload.harness")
    row = {"rate": 20.0, **harness.percentiles([])}
    harness.print_rows([row], {"rate": ".0f", "p50_ms": ".1f", "p99_ms": ".1f"})
    harness.print_json({"rows": [row], "most": float("inf")})
    *table, last = capsys.readouterr().out.splitlines()
    assert table[-1].split() == ["20", "–", "–"]
    assert json.loads(last, parse_constant=pytest.fail) == {
        "rows": [{"rate": 20.0, "p50_ms": None, "p99_ms": None}],
        "most": None,
    }


@pytest.mark.benchmark
def test_the_conversion_is_measured(tmp_path):
    # The data set of a training in the same directory stays.
    other = tmp_path / "data" / "dataset.json"
    other.parent.mkdir()
    other.touch()
    result, shown = run(
        "benchmarks/convert.py", "--rows=3000", "--baseline_rows=500", f"--workdir={tmp_path}"
    )
    assert result["rows"] == 3_000
    for key in ("rows_per_second", "baseline_rows_per_second", "peak_rss_mb", "workers"):
        assert result[key] > 0
    assert result["seconds"] >= sum(result["stage_seconds"].values())
    assert "At this rate" in shown
    assert other.exists()


@pytest.mark.benchmark
def test_the_cost_of_histories_and_rates_is_measured(tmp_path):
    result, shown = run(
        "benchmarks/convert.py", "--computed", "--rows=3000", f"--workdir={tmp_path}"
    )
    sizes = {row["computed fields"]: row["data_mb"] for row in result["measured"]}
    assert sizes["none"] < sizes["last clicks"]
    assert "last clicks and last impressions of advertisers" in shown


@pytest.mark.benchmark
def test_reading_and_its_shuffle_are_measured(tmp_path):
    result, _ = run(
        "benchmarks/reader.py",
        "--rows=10000",
        "--baseline_rows=300",
        "--passes=1",
        f"--workdir={tmp_path}",
    )
    assert result["rows"] == 8_000
    assert result["baseline_rows"] == 300
    assert result["rows_per_second"] > 0 < result["baseline_rows_per_second"]
    # 8,000 rows are two batches: about half of all neighbors share one.
    assert 0.4 < result["adjacent_in_batch"] < 0.6
    assert 0.4 < result["adjacent_in_batch_full_shuffle"] < 0.6


@pytest.mark.benchmark
def test_training_is_measured(tmp_path):
    result, shown = run(
        "benchmarks/training.py",
        "--n_samples=3000",
        "--steps=1",
        "--repeats=1",
        "--noquickstart",
        f"--workdir={tmp_path}",
    )
    for name in ("towers", "ranker", "dnn", "dcn"):
        assert result[f"{name}_rows_per_cpu_second"] > 0
    assert "medians of 1 blocks of 1 steps" in shown


# Building a graph takes most of the time.
SMALL_RANKER = (
    "--model_dim=16",
    "--feed_forward_dim=16",
    "--num_cross_layers=0",
    "--dropout=0",
    "--id_dropout=0",
    "--average_decay=0",
    "--embedding_l2=0",
    "--embedding_shrinkage=0",
)


@pytest.mark.benchmark
def test_parts_of_the_ranker_are_left_out(tmp_path):
    data = tmp_path / "data"
    logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(1_000)), data)
    flags = [
        "--variants=no blocks, no products",
        "--calls=2",
        "--epochs=1",
        *SMALL_RANKER,
        f"--workdir={tmp_path}",
    ]
    result, shown = run("benchmarks/attention.py", *flags, f"--data={data},{data}")
    first, again = result["rows"]
    assert first["variant"] == again["variant"] == "no blocks, no products"
    assert "no blocks, no products" in shown
    # The second time, the finished ranker is used.
    assert first["cpu_seconds"] == again["cpu_seconds"]
    # A ranker with other options is another one.
    options = (f"--data={data}", "--learning_rate=0.01")
    (other,) = run("benchmarks/attention.py", *flags, *options)[0]["rows"]
    assert other["click_auc"] != first["click_auc"]


@pytest.mark.benchmark
def test_attention_is_measured_on_and_off(tmp_path):
    result, shown = run(
        "benchmarks/attention.py",
        "--n_samples=3000",
        "--calls=2",
        "--epochs=1",
        "--num_blocks=1",
        *SMALL_RANKER,
        f"--workdir={tmp_path}",
    )
    on, off, truth = result["rows"]
    assert [row["variant"] for row in (on, off, truth)] == ["default", "no blocks", "truth"]
    assert on["click_auc"] != off["click_auc"]
    assert truth["share"] == 1.0
    assert truth["click_auc"] > max(on["click_auc"], off["click_auc"])
    assert truth["ndcg"] > max(on["ndcg"], off["ndcg"])
    assert 0 < on["p50_ms"] <= on["p99_ms"]
    assert "recent_clicks of 50" in shown
    assert on["cpu_seconds"] > 0


@pytest.mark.benchmark
def test_the_ranker_is_measured_through_a_server_and_in_process(tmp_path):
    result, shown = run(
        "benchmarks/ranker.py",
        "--n_samples=3000",
        "--calls=2",
        "--candidates=5,20",
        f"--workdir={tmp_path}",
    )
    for key in ("p50_ms", "in_process_p50_ms"):
        assert result[key] > 0
    assert result["p50_ms"] <= result["p99_ms"]
    assert [row["candidates"] for row in result["growth"]] == [5, 20]
    assert "the server adds" in shown


@pytest.mark.benchmark
def test_numbers_of_candidates_are_checked_before_anything_is_measured(tmp_path):
    done = scripts_in_forks.run(
        "benchmarks/ranker.py", "--candidates=50,many", f"--workdir={tmp_path / 'work'}"
    )
    assert done.returncode == 1
    assert "--candidates takes numbers like 50,500, each once, got '50,many'" in done.stderr
    assert not (tmp_path / "work").exists()
