"""The benchmarks of retrieval quality, at sizes too small to measure it."""

import json

import numpy as np
import pytest
import scripts_in_forks

pytestmark = pytest.mark.benchmark

SMALL = (
    "--epochs=1",
    "--norefit",
    "--embedding_dim=16",
    "--hidden_dim=32",
    "--field_dim=4",
    "--batch_size=256",
    # Building a graph takes most of the time.
    "--num_cross_layers=0",
    "--dropout=0",
    "--id_dropout=0",
    "--uniform_negatives=0",
    "--embedding_shrinkage=0",
    "--noclick_factors",
)


def run(name, *flags, status=0):
    done = scripts_in_forks.run(name, *flags)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Ratings of 40 users in MovieLens's layout: each rates 24 of the 60 films of one half."""
    rng = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("ml")
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(40):
        films = rng.choice(60, 24, replace=False) + 60 * (user % 2)
        rated = rng.integers(1, 6, 24)
        lines += [f"{user}\t{film}\t{rated[at]}\t{at}" for at, film in enumerate(films)]
    (directory / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    return directory / "ml-100k.inter"


PEERS = ("popularity", "item_knn", "ease", "matrix_factorization", "tfrs_tutorial")


def test_movielens_is_measured_next_to_peers_and_published_figures(ratings, tmp_path):
    def run_seeds(seeds):
        done = run(
            "benchmarks/movielens.py", f"--data_path={ratings}", f"--workdir={tmp_path}",
            f"--seeds={seeds}", "--validation_fraction=0.05", *SMALL,
        )  # fmt: skip
        return done, json.loads(done.stdout.splitlines()[-1])

    done, result = run_seeds("1,2")
    assert result["seeds"] == [1, 2]
    for name in ("two_tower", *PEERS):
        first, second = (run[name]["ndcg_at_10"] for run in result["runs"])
        assert result[name]["ndcg_at_10"] == pytest.approx((first + second) / 2)
        # The standard deviation of two values is their distance over √2.
        assert result[name]["ndcg_at_10_sd"] == pytest.approx(abs(first - second) / 2**0.5)
        assert result["runs"][0][name]["corpus_recall_at_500"] == pytest.approx(1.0)
    # Neighbors find what users of the same half like; popularity does not.
    for name in ("item_knn", "ease", "matrix_factorization"):
        assert result[name]["corpus_recall_at_10"] > result["popularity"]["corpus_recall_at_10"]
    assert "BPR, published" in done.stdout
    assert result["published"]["BPR"] == [0.442, 0.213]
    other_split = [run["popularity"]["corpus_recall_at_10"] for run in result["runs"]]
    assert other_split[0] != other_split[1]
    # A second run reads the finished models.
    assert len(list((tmp_path / "cells").iterdir())) == 12
    of_one, again = run_seeds("2")
    assert again["runs"] == result["runs"][1:]
    # A single seed has no standard deviation.
    assert "ndcg_at_10_sd" not in again["ease"]
    assert "±" in done.stdout
    assert "±" not in of_one.stdout


def test_movielens_with_the_last_click_held_out_has_histories_and_sasrec(ratings, tmp_path):
    done = run(
        "benchmarks/movielens.py", f"--data_path={ratings}", f"--workdir={tmp_path}", "--seeds=1",
        "--held_out=last_click", *SMALL,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    (of_seed,) = result["runs"]
    assert set(of_seed) == {"two_tower", *PEERS, "sasrec"}
    # One held-out film of each user, so recall is the share of users.
    hits = 40 * of_seed["sasrec"]["corpus_recall_at_10"]
    assert hits == pytest.approx(round(hits))
    assert result["published"] == {}
    assert "published" not in done.stdout.splitlines()[-2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "Give --data_path, MovieLens-100K's ml-100k.inter"),
        (("--data_path=/no/ml-100k.inter",), "No file /no/ml-100k.inter: the opening lines"),
        (
            ("--data_path={ratings}", "--seeds=a"),
            "--seeds takes numbers like 1,2,3, each once, got",
        ),
    ],
)
def test_movielens_refuses_missing_files_and_bad_seeds(flags, message, ratings):
    flags = [flag.format(ratings=ratings) for flag in flags]
    assert message in run("benchmarks/movielens.py", *flags, status=1).stderr


def test_the_learning_curve_is_relative_to_the_ground_truth(tmp_path):
    done = run(
        "benchmarks/learning_curve.py", "--impressions=3000,1500", "--num_ads=600",
        "--test_impressions=600", f"--workdir={tmp_path}", *SMALL,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    small, large = result["points"]
    assert [small["impressions"], large["impressions"]] == [1_500, 3_000]
    assert large["num_ads"] == 600
    assert small["train_clicks"] < large["train_clicks"]
    for point in (small, large):
        assert 60 < point["test_clicks"] < 250  # of 600 impressions at a click rate of 0.23
        for name in ("two_tower", "popularity"):
            share = point["share_of_achievable"][name]["corpus_recall_at_500"]
            recall, best = (
                point[n]["metrics"]["corpus_recall_at_500"] for n in (name, "ground_truth")
            )
            assert share == pytest.approx(recall / best)


@pytest.mark.parametrize("sizes", ["many", "0"])
def test_a_learning_curve_of_no_size_is_refused(sizes):
    done = run("benchmarks/learning_curve.py", f"--num_ads={sizes}", status=1)
    assert f"--num_ads takes numbers like 10000,100000, each once, got '{sizes}'" in done.stderr


def test_new_ads_are_measured_between_chance_and_the_ground_truth(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "other.txt").touch()
    done = run(
        "benchmarks/new_ads.py", f"--workdir={tmp_path / 'work'}", "--num_rows=1000",
        "--num_ads=100", "--k=25", "--contents=both", *SMALL,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    rows = {row["content"]: row for row in result["recalls"]}
    assert list(rows) == ["chance", "both", "ground truth"]
    # 25 of 100 ads by chance; the ten best of 75 shown ads are among the first 25 of all.
    assert rows["chance"]["never shown"] == rows["chance"]["shown"] == 0.25
    assert rows["ground truth"]["shown"] == 1.0
    assert all(0 <= row["never shown"] <= 1 for row in rows.values())
    assert result["world"]["num_ads"] == 100
    # Other files in the work directory stay.
    assert (tmp_path / "work" / "other.txt").exists()


def test_new_ads_without_contents_are_only_chance_and_the_ground_truth(tmp_path):
    flags = ("--num_rows=1000", "--num_ads=100", "--k=25", "--contents=", f"--workdir={tmp_path}")
    result = json.loads(run("benchmarks/new_ads.py", *flags).stdout.splitlines()[-1])
    assert [row["content"] for row in result["recalls"]] == ["chance", "ground truth"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--contents=ids,titel", "--contents takes some of"),
        ("--k=101", "--k: expected at most --num_ads, 100; got 101"),
    ],
)
def test_new_ads_refuse_bad_flags(flag, message, tmp_path):
    flags = ("--num_ads=100", f"--workdir={tmp_path / 'work'}", flag)
    assert message in run("benchmarks/new_ads.py", *flags, status=1).stderr
    assert not (tmp_path / "work").exists()


def test_worlds_are_measured_once_and_summarized(tmp_path):
    flags = (
        "benchmarks/worlds.py", "--worlds=shop", "--n_samples=2000", "--num_ads=600",
        "--stage1_epochs=1", "--stage2_epochs=1", f"--workdir={tmp_path}",
    )  # fmt: skip
    done = run(*flags, "--seeds=1")
    result = json.loads(done.stdout.splitlines()[-1])
    (cell,) = result["cells"]
    for name in ("system_share_of_optimum", "tower_share", "ranker_share"):
        assert 0 < cell[name] < 1
        assert result[name] == {"least": cell[name], "mean": cell[name]}
    lost = sum(cell["lost"].values())
    assert cell["returned"] == pytest.approx(cell["optimum"] - lost)
    assert cell["tower_share"] == pytest.approx(1 - cell["lost"]["tower"] / cell["optimum"])
    # The 500 of 600 ads hold almost all of the best ten.
    assert cell["tower_share"] > max(0.7, cell["system_share_of_optimum"])
    assert 0.4 < cell["click_auc"]["value"] < cell["click_auc"]["ground_truth"]
    (kept,) = (tmp_path / "cells").iterdir()
    stored = json.loads(kept.read_text())
    # A second run takes the cell from its file.
    stored["system_share_of_optimum"] = 0.125
    kept.write_text(json.dumps(stored))
    again = run(*flags, "--seeds=1")
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["system_share_of_optimum"] == {"least": 0.125, "mean": 0.125}


def test_shares_are_averaged_over_seeds_with_intervals(script):
    worlds = script("worlds")
    # The mean of 0.5 and 0.7 is 0.6, its standard error 0.1, and t of one degree 12.706.
    found = worlds.mean_over_seeds([0.5, 0.7])
    assert found["mean"] == pytest.approx(0.6)
    assert found["interval"] == pytest.approx([0.6 - 1.2706, 0.6 + 1.2706], abs=1e-4)
    assert worlds.mean_over_seeds([0.5]) == {"mean": 0.5}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--worlds=shop,desert", "--worlds takes some of bilinear, shop, drift, sequence, got 'd"),
        # Twice the same value would make the intervals too narrow.
        ("--worlds=shop,drift,shop", "--worlds takes each name once, got 'shop,drift,shop'"),
        ("--seeds=1,2,1", "--seeds takes numbers like 1,2,3, each once, got '1,2,1'"),
    ],
)
def test_unknown_and_repeated_worlds_and_seeds_are_refused(flag, message):
    assert message in run("benchmarks/worlds.py", flag, status=1).stderr
