"""Proposed schemas: roles, kinds, sides, what is left out, and that they convert as they are."""

import errno
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import convert, reader
from tfrecords import schema as schema_lib
from tfrecords.schema_inference import proposal as infer


def write(path: pathlib.Path, columns: dict[str, Any], delimiter: str = ",") -> pathlib.Path:
    rows = zip(*columns.values(), strict=True)
    lines = [columns.keys(), *rows]
    path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines))
    return path


def fields(proposal: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {field["name"]: (field["kind"], field["side"]) for field in proposal["fields"]}


def impressions(count: int = 600) -> dict[str, Any]:
    """Returns the columns of a log: three rows a request, ten ads, twenty users."""
    rng = np.random.default_rng(0)
    rows = np.arange(count)
    ad = rng.integers(0, 10, count)
    click = (rng.random(count) < 0.2).astype(int)
    return {
        "request_id": [f"r{row // 3}" for row in rows],
        "userId": (rows // 3) % 20,
        "device": np.repeat(rng.choice(["phone", "desk"], count // 3), 3),
        "ad_id": ad,
        "ad_group": [f"g{a % 3}" for a in ad],
        "price": ad * 1.5 + 1,
        "click": click,
        "conversion": click * (rng.random(count) < 0.5).astype(int),
        "revenue": click * 2.5,
        "position": rows % 3,
        "timestamp": 1_700_000_000 + rows,
        "temperature": np.repeat(rng.normal(size=count // 3).round(3), 3),
    }


def test_the_roles_of_a_log_of_impressions(tmp_path: pathlib.Path) -> None:
    proposal, notes = infer.propose([write(tmp_path / "shop-log.csv", impressions())])
    assert {key: value for key, value in proposal.items() if key != "fields"} == {
        "name": "shop_log",
        "ad_key": ["ad_id"],
        "click": "click",
        "engagement": "conversion",
        "revenue": "revenue",
        "request_key": "request_id",
        "time": "timestamp",
        "position": "position",
        "user_key": "userId",
    }
    assert fields(proposal) == {
        "userId": ("categorical", "query"),
        "device": ("categorical", "query"),
        "ad_id": ("categorical", "ad"),
        "ad_group": ("categorical", "ad"),
        "price": ("numeric", "ad"),
        "temperature": ("numeric", "query"),
        "recent_clicks": ("history", "query"),
    }
    assert any("'recent_clicks', the user's clicks" in note for note in notes)
    assert any("'ad_group', 'price'" in note and "constant for each ad" in note for note in notes)
    assert {f["min_count"] for f in proposal["fields"] if f["kind"] == "categorical"} == {1}


def test_labels_with_foreign_names_are_found_by_their_positive_rows(
    tmp_path: pathlib.Path,
) -> None:
    columns = impressions()
    names = {"click": "klikattu", "conversion": "ostettu", "revenue": "tulot"}
    columns = {names.get(name, name): values for name, values in columns.items()}
    columns["tulot"] = columns["ostettu"] * 9.5
    columns["titel"] = [f"Artikel {ad}" for ad in columns["ad_id"]]
    # Neither is within the clicks: one by chance in part, the other by being independent.
    columns["nakyva"] = np.maximum(columns["klikattu"], np.arange(600) % 2)
    columns["rabatt"] = np.arange(600) % 3 == 0
    proposal, notes = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["click"] == "nakyva"
    assert (proposal["engagement"], proposal["revenue"]) == ("klikattu", "tulot")
    del columns["nakyva"]
    proposal, notes = infer.propose([write(tmp_path / "other.csv", columns)])
    labels = [proposal[label] for label in ("click", "engagement", "revenue")]
    assert labels == ["klikattu", "ostettu", "tulot"]
    assert any("'ostettu' and 'tulot' are also positive in 'klikattu'" in note for note in notes)
    assert proposal["show"] == ["titel"]


def test_unrelated_truths_are_not_labels(
    tmp_path: pathlib.Path,
) -> None:
    columns = impressions()
    del columns["conversion"], columns["revenue"]
    columns["rabatt"] = columns.pop("click")
    columns["neu"] = (np.arange(600) % 7 == 0).astype(int)
    proposal, notes = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["click"] is None
    assert any("No column looks like a click" in note for note in notes)


def test_a_proposal_converts_its_own_log_in_text_and_parquet(tmp_path: pathlib.Path) -> None:
    columns = impressions()
    text = write(tmp_path / "log.csv", columns)
    parquet = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), parquet)
    proposals = []
    for path in (text, parquet):
        target = tmp_path / f"{path.suffix}.json"
        infer.write_proposal(str(path), None, None, target)
        proposals.append(schema_lib.load_schema(target))
        source = convert.Source(path, proposals[-1], "tabular")
        convert.convert(source, tmp_path / "out")
        description = reader.DataSet(tmp_path / "out").description
        assert description.source.rejected == 0
        assert sum(split.requests for split in description.splits.values()) == 200
    assert proposals[0] == proposals[1]


def test_a_table_of_ads_is_no_log(tmp_path: pathlib.Path) -> None:
    table = {"ad_id": range(50), "brand": [f"b{n % 3}" for n in range(50)]}
    with pytest.raises(ValueError, match=r"each row has another 'ad_id', .*table of ads as --ads_"):
        infer.propose([write(tmp_path / "ads.csv", table)])
    clicks = {**table, "user_id": [f"u{n % 7}" for n in range(50)]}
    proposal, _ = infer.propose([write(tmp_path / "clicks.csv", clicks)])
    assert proposal["click"] is None


# 1 % of the rows of the log is 6.
@pytest.mark.parametrize(("num_bad", "is_refused"), [(6, False), (7, True)])
def test_a_note_on_bad_rows_says_whether_a_conversion_refuses_the_log(
    tmp_path: pathlib.Path, num_bad: int, is_refused: bool
) -> None:
    log = impressions()
    log["device"][:num_bad] = "Gerät"
    path = write(tmp_path / "log.csv", log)
    path.write_text(path.read_text(), encoding="latin-1")
    _, notes = infer.propose([path])
    assert notes[0].startswith(f"! {path}: {num_bad} bad rows, the first on line 2: byte")
    refused = "and a conversion refuses more than 1% of such rows: correct the file, then propose"
    assert (refused in notes[0]) == is_refused


def test_a_note_on_bad_rows_says_that_a_conversion_refuses_the_table_of_ads(
    tmp_path: pathlib.Path,
) -> None:
    log = write(tmp_path / "log.csv", impressions())
    table = {"ad_id": range(10), "brand": ["Müller", *"abcabcabc"]}
    ads = write(tmp_path / "ads.csv", table)
    ads.write_text(ads.read_text(), encoding="latin-1")
    _, notes = infer.propose([log], None, ads)
    (said,) = [note for note in notes if "bad rows" in note]
    assert "and a conversion refuses such rows: correct the file" in said


def test_recbole_files(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    inter = {
        "user_id:token": rng.integers(0, 30, 400),
        "item_id:token": rng.integers(0, 20, 400),
        "rating:float": rng.integers(1, 6, 400),
        "timestamp:float": 880_000_000 + np.arange(400) * 100,
    }
    genres = ["Drama", "Drama War", "Comedy War", "Comedy"]
    item = {
        "item_id:token": np.arange(21),
        "movie_title:token_seq": [f"Film of the {n}" for n in range(21)],
        "class:token_seq": [genres[n % 4] for n in range(21)],
    }
    user = {
        "user_id:token": np.arange(30),
        "age:token": np.arange(30) % 25 + 20,
        "zip_code:token": [f"0{n % 9}" for n in range(30)],
    }
    paths = [
        write(tmp_path / f"ml.{name}", columns, "\t")
        for name, columns in (("inter", inter), ("user", user), ("item", item))
    ]
    with pytest.raises(ValueError, match=r"has only the key 'item_id:token' .*--ads_path="):
        infer.propose([paths[0], paths[2]])
    with pytest.raises(ValueError, match=r"(?s)have different rows; .*on='user_id:token'"):
        infer.propose(paths[:2])
    proposal, notes = infer.propose(paths[:1], paths[1], paths[2])
    assert fields(proposal) == {
        "user_id": ("categorical", "query"),
        "item_id": ("categorical", "ad"),
        "age": ("numeric", "query"),
        "zip_code": ("categorical", "query"),
        "movie_title": ("categorical_list", "ad"),
        "class": ("categorical_list", "ad"),
        "recent_clicks": ("history", "query"),
    }
    by_name = {field["name"]: field for field in proposal["fields"]}
    assert by_name["class"]["separator"] == " "
    assert by_name["class"]["column"] == "class:token_seq"
    assert by_name["class"]["max_list_length"] == 2
    assert proposal["click"] == "rating:float"
    # One of at least 4 of 5.
    assert proposal["click_threshold"] == 4.0
    assert proposal["user_key"] == "user_id:token"
    assert proposal["time"] == "timestamp:float"
    assert any("a rating from 1 to 5; ratings of at least 4 count" in note for note in notes)
    schema = schema_lib.schema_from_json(proposal)
    source = convert.Source(paths[0], schema, "tabular", ads_path=paths[2], users_path=paths[1])
    convert.convert(source, tmp_path / "out")
    # The twenty-first film is only in the table of films.
    assert reader.DataSet(tmp_path / "out").description.num_ads == 21


@pytest.mark.parametrize(
    ("ratings", "threshold"),
    [
        ([1, 2, 3, 4, 5], 4.0),
        ([0.5, 1, 2.5, 3.5, 4, 4.5, 5], 4.0),
        # Three quarters of the way from 1 to 10 is 7.75.
        (list(range(1, 11)), 8.0),
        ([0, 50, 100], 100.0),
    ],
)
def test_thresholds_of_ratings(
    tmp_path: pathlib.Path, ratings: list[float], threshold: float
) -> None:
    count = 40 * len(ratings)
    columns = {
        "user": [f"u{n % 13}" for n in range(count)],
        "film": [f"f{n % 11}" for n in range(count)],
        "rating": ratings * 40,
    }
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["click_threshold"] == threshold


def proposed(tmp_path: pathlib.Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """Proposes for a log of 120 rows with a user, item and click, and the given columns."""
    columns = {
        "user": [f"u{n % 17}" for n in range(120)],
        "item": [f"i{n % 7}" for n in range(120)],
        "click": [int(n % 3 == 0) for n in range(120)],
        **more,
    }
    return infer.propose([write(tmp_path / "log.tsv", columns, "\t")])


def test_refunds_do_not_hide_the_revenue(tmp_path: pathlib.Path) -> None:
    amounts = [9.5 * (n % 6 == 0) for n in range(120)]
    proposal, notes = proposed(tmp_path, revenue=[-5.0, *amounts[1:]])
    assert proposal["revenue"] == "revenue"
    assert "0.83% of the rows have a negative 'revenue'; they will be rejected" in " ".join(notes)
    proposal, notes = proposed(tmp_path, revenue=[-5.0] * 3 + amounts[3:])
    assert "revenue" not in proposal
    assert "'revenue' is named like revenue, but negative in 2.5% of the rows" in " ".join(notes)


def test_a_missing_value_does_not_move_a_property_of_ads_to_the_query(tmp_path: pathlib.Path):
    weight = ["" if n % 2 else 3.5 + n % 7 for n in range(120)]
    proposal, _ = proposed(
        tmp_path, weight=weight, gift=["" if n % 2 else "yes" for n in range(120)]
    )
    assert fields(proposal)["weight"] == ("numeric", "ad")
    # Only whether it is there says something, and that differs between impressions.
    assert fields(proposal)["gift"] == ("categorical", "query")


def test_names_of_fields_are_readable_and_exact_ones_stay(tmp_path: pathlib.Path) -> None:
    columns = {
        name: [f"v{(n + at) % 5}" for n in range(120)]
        for at, name in enumerate(("a b", "a_b", "Größe, cm", "日本"))
    }
    proposal, notes = proposed(tmp_path, **columns)
    named = {field.get("column", field["name"]): field["name"] for field in proposal["fields"]}
    assert named["a_b"] == "a_b"
    assert named["a b"] == "a_b_2"
    assert named["Größe, cm"] == "Grosse_cm"
    assert named["日本"] == "field"
    assert "'a b' is 'a_b_2', 'Größe, cm' is 'Grosse_cm', '日本' is 'field'." in " ".join(notes)


def test_many_notes_of_a_kind_are_shortened(tmp_path: pathlib.Path) -> None:
    sizes = (20, 22, 23, 25, 26, 29, 31, 32, 37, 38, 40, 41)
    codes = {f"f{at}": [n % size for n in range(120)] for at, size in enumerate(sizes)}
    _, notes = proposed(tmp_path, **codes)
    asked = [note for note in notes if "a code or a quantity?" in note]
    assert [note.split()[0] for note in asked] == ["'f0'", "'f1'", "'f2'"]
    at = notes.index(asked[-1]) + 1
    assert notes[at] == f"The same for {', '.join(f'{name!r}' for name in list(codes)[3:])}."
    _, notes = proposed(tmp_path, **dict(list(codes.items())[:4]))
    assert sum("a code or a quantity?" in note for note in notes) == 4


@pytest.mark.parametrize(
    ("click", "said"),
    [(0, "No row is clicked, so nothing can be"), (1, "convert with --sampled_negatives=4")],
)
def test_a_click_without_two_outcomes_is_reported(click, said, tmp_path: pathlib.Path) -> None:
    _, notes = proposed(tmp_path, click=[click] * 120)
    assert said in " ".join(notes)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_proposal_for_one_row_says_that_there_is_no_click(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("request_id,user_id,ad_id,click\n1,u1,a1,0\n")
    _, notes = infer.propose([path])
    assert any("No row is clicked, so nothing can be learned" in note for note in notes)


def test_no_label_means_that_every_row_is_a_click(tmp_path: pathlib.Path) -> None:
    columns = {"user": ["a", "b"] * 20, "item": ["x", "y", "z", "x"] * 10}
    columns["user"] = [f"u{n % 13}" for n in range(40)]
    proposal, notes = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["click"] is None
    assert any("every row counts as a click" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("constant", ["a"] * 120, "always the same value"),
        ("nothing", [""] * 120, "always missing"),
        ("sent_at", [""] * 120, "always missing"),
        ("row_id", [f"x{n}" for n in range(120)], "a different value in nearly every row"),
        ("row", list(range(120)), "a different value in nearly every row"),
        ("propensity_score", [0.1, 0.2, 0.3] * 40, "a property of the policy that chose the ad"),
        ("dwell_time", [1, 5, 2, 8] * 30, "known only after the ad was shown"),
        (
            "answer",
            [["yes", "no", "nay"][n % 3] for n in range(120)],
            "its value determines the click",
        ),
        (
            "signal",
            [10 * (n % 3 == 0) + n % 7 + 1 / (n + 2) for n in range(120)],
            "a threshold of its number determines the click",
        ),
        (
            "cookie_after",
            [["c", "", ""][n % 3] for n in range(120)],
            "present exactly in the clicked rows",
        ),
    ],
)
def test_columns_that_are_left_out(
    tmp_path: pathlib.Path, name: str, values: list[Any], why: str
) -> None:
    proposal, notes = proposed(tmp_path, **{name: values})
    assert name not in fields(proposal)
    assert any(note.startswith("Left out") and why in note and name in note for note in notes)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("height", [1.5, 2.25, 3.0, 4.125] * 30, "numeric"),
        ("hour", [n // 5 for n in range(120)], "categorical"),
        ("age", [20 + n % 40 for n in range(120)], "numeric"),
        ("zip", [f"0{n % 40}" for n in range(120)], "categorical"),
        ("segment_id", [n % 40 for n in range(120)], "categorical"),
        ("is_new", [n % 5 // 4 for n in range(120)], "categorical"),
        ("loud", ["1e3", "NA", "-", "7"] * 30, "categorical"),
        ("noise_score", ["1e3", "NA", "-", "7"] * 30, "numeric"),
        ("tags", ["a|b", "b", "c|a", ""] * 30, "categorical_list"),
        ("labels", ["a;b", "b", "c;a", ""] * 30, "categorical_list"),
        ("sentence", [f"word {n}, and more" for n in range(60)] * 2, "categorical"),
        ("thousands", ["1,000", "2,500", "3,000", "4,000"] * 30, "categorical"),
    ],
)
def test_kinds(tmp_path: pathlib.Path, name: str, values: list[Any], kind: str) -> None:
    proposal, _ = proposed(tmp_path, **{name: values})
    assert fields(proposal)[name][0] == kind


def test_a_request_key_repeats_on_neighboring_rows(tmp_path: pathlib.Path) -> None:
    users = [f"u{n // 4 % 17}" for n in range(120)]
    proposal, _ = proposed(tmp_path, session_id=[n // 4 for n in range(120)], user=users)
    assert proposal["request_key"] == "session_id"
    # Every one has rows of two users.
    users = [f"u{n // 2 % 17}" for n in range(120)]
    proposal, notes = proposed(tmp_path, session_id=[n // 4 for n in range(120)], user=users)
    assert "request_key" not in proposal
    assert any(
        "'session_id' is not a request, because its rows have several 'user'" in n for n in notes
    )
    proposal, notes = proposed(tmp_path, session_id=[n % 30 for n in range(120)])
    assert "request_key" not in proposal
    assert any("'session_id' does not repeat" in note for note in notes)


def test_the_split_column(tmp_path: pathlib.Path) -> None:
    proposal, _ = proposed(tmp_path, part=["train"] * 80 + ["valid"] * 20 + ["test"] * 20)
    assert proposal["split"] == "part"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("when", [f"2024-01-{n % 28 + 1:02d}T10:00:00Z" for n in range(120)]),
        ("visited", [1_600_000_000_000 + n for n in range(120)]),
        ("hour", [14_102_100 + n // 10 for n in range(120)]),
    ],
)
def test_a_time_is_found_by_its_values(
    tmp_path: pathlib.Path, name: str, values: list[Any]
) -> None:
    assert proposed(tmp_path, **{name: values})[0]["time"] == name


def test_a_date_that_is_not_iso_is_named(tmp_path: pathlib.Path) -> None:
    proposal, notes = proposed(tmp_path, date=[f"{n % 28 + 1}. May" for n in range(120)])
    assert "time" not in proposal
    assert any("'date' is not the time, because '1. May' is neither" in note for note in notes)
    assert any("If it is the time, set time and time_format" in note for note in notes)


def test_lists_and_times_of_parquet(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.parquet"
    table = {
        "user": [f"u{n % 17}" for n in range(120)],
        "item": [n % 7 for n in range(120)],
        "clicked": [n % 3 == 0 for n in range(120)],
        "topics": [["a", "b", "c"][: n % 4] for n in range(120)],
        "read": [["a", None, "c"] if n % 3 else None for n in range(120)],
        "seen": pa.array(range(120), pa.timestamp("ms")),
        "where": [{"x": 1}] * 120,
        "pairs": pa.array([[("a", 1)]] * 120, pa.map_(pa.string(), pa.int64())),
    }
    pq.write_table(pa.table(table), path)
    proposal, notes = infer.propose([path])
    assert proposal["click"] == "clicked"
    assert proposal["time"] == "seen"
    assert fields(proposal)["topics"] == ("categorical_list", "query")
    assert fields(proposal)["read"] == ("categorical_list", "query")
    assert any("always the same value): 'where.x'" in note for note in notes)
    assert any("'pairs' has the unsupported type map" in note for note in notes)
    convert.convert(
        convert.Source(path, schema_lib.schema_from_json(proposal), "tabular"), tmp_path / "out"
    )


def test_a_log_for_which_nothing_can_be_proposed_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"No column looks like an ad id in \['a', 'b'\]"):
        infer.propose([write(tmp_path / "a.csv", {"a": [1, 2], "b": [3, 4]})])
    only = {"item": ["x", "y"] * 20, "click": [1, 0] * 20}
    with pytest.raises(ValueError, match="no column describes the user or context"):
        infer.propose([write(tmp_path / "b.csv", only)])
    log = write(tmp_path / "c.csv", impressions())
    with pytest.raises(
        ValueError, match=r"table of ads has the columns .*expected a common column"
    ):
        infer.propose([log], None, write(tmp_path / "ads.csv", {"id": [1], "brand": ["x"]}))
    with pytest.raises(
        ValueError, match=r"table of users has the columns .*expected the log's user key"
    ):
        infer.propose([log], write(tmp_path / "users.csv", {"id": [1], "age": [7]}), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ad report\nts,ad_id,click\n1,a,0\n", "no valid rows.* remove the lines above it"),
        (
            "Ad report\nMay\nts,ad_id,click\n1,a,0\n",
            "No column looks like an ad.* remove the lines",
        ),
        (
            "ts,id,id,click\n1,u,a,0\n",
            r"No column .* several columns of .*log\.csv are named 'id'\. Rename",
        ),
    ],
)
def test_an_error_says_why_no_ad_id_was_found(text: str, said: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        infer.propose([path])


def test_the_next_command_names_the_log_as_it_was_given(tmp_path: pathlib.Path) -> None:
    for day in ("1", "2"):
        folder = tmp_path / "shop" / f"dt=2024-05-0{day}"
        folder.mkdir(parents=True)
        write(folder / "part-0.csv", impressions())
    told = infer.write_proposal(f"{tmp_path}/shop/*/*.csv", None, None, tmp_path / "s.json")
    assert f"'--data_path={tmp_path}/shop/*/*.csv' --workdir=workdir/shop" in told


@pytest.mark.parametrize(("click", "is_shown"), [(0, False), (1, True), ("?", True)])
def test_no_command_trains_on_a_log_without_a_click(
    click: object, is_shown: bool, tmp_path: pathlib.Path
) -> None:
    columns = {**impressions(), "click": [0, click] * 300}
    if click == "?":
        del columns["click"], columns["conversion"], columns["revenue"]
    log = write(tmp_path / "log.csv", columns)
    told = infer.write_proposal(str(log), None, None, tmp_path / "s.json")
    assert ("tfrec train" in told) == is_shown
    assert told.endswith("then train on a log that has clicks.") != is_shown


def test_a_schema_that_exists_is_not_overwritten(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log.csv", impressions())
    target = tmp_path / "schema.json"
    told = infer.write_proposal(str(log), None, None, target)
    assert f"--schema_path={target}" in told
    with pytest.raises(FileExistsError, match="Move it, or name another file"):
        infer.write_proposal(str(log), None, None, target)


def test_a_full_disk_leaves_no_schema(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: pathlib.Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    log = write(tmp_path / "log.csv", impressions())
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/schema\.json'"):
        infer.write_proposal(str(log), None, None, tmp_path / "schema.json")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize(
    "changes",
    [{"time": None}, {"user": None}, {"user": [f"u{n}" for n in range(120)]}],
    ids=["no times", "no users", "no user comes back"],
)
def test_a_history_is_proposed_where_users_come_back(changes, tmp_path):
    columns = {
        "user": [f"u{n % 17}" for n in range(120)],
        "item": [f"i{n % 7}" for n in range(120)],
        "country": [f"c{n % 5}" for n in range(120)],
        "click": [int(n % 3 == 0) for n in range(120)],
        "time": [1_700_000_000 + 60 * n for n in range(120)],
    }
    proposal, told = infer.propose([write(tmp_path / "log.csv", columns)])
    assert {
        "name": "recent_clicks", "side": "query", "kind": "history", "of": "ad", "event": "click",
    } in proposal["fields"]  # fmt: skip
    assert "the user's clicks before each request" in " ".join(told)
    columns = {k: v for k, v in {**columns, **changes}.items() if v is not None}
    proposal, _ = infer.propose([write(tmp_path / "other.csv", columns)])
    assert "history" not in {field["kind"] for field in proposal["fields"]}


RATE = {
    "name": "recent_click_rate", "side": "ad", "kind": "numeric", "of": "ad", "event": "click",
    "max_age_days": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "is_proposed"),
    [
        ({}, True),
        ({"article": [f"a{n % 60}" for n in range(600)]}, False),
        ({"article": [f"a{n * 7919 % 293}" for n in range(600)]}, False),
        ({"clicked": [1] * 600}, False),
        ({"time": None}, False),
    ],
    ids=["new ads", "the same ads", "few rows of each ad", "clicks alone", "no times"],
)
def test_a_click_rate_is_proposed_where_ads_are_soon_replaced(changes, is_proposed, tmp_path):
    columns = {
        "user": [f"u{n % 97}" for n in range(600)],
        "device": [f"d{n % 3}" for n in range(600)],
        "article": [f"a{n // 10 + n % 5}" for n in range(600)],
        "clicked": [int(n % 7 == 0) for n in range(600)],
        "time": [1_700_000_000 + 3_600 * n for n in range(600)],
    }
    columns = {k: v for k, v in {**columns, **changes}.items() if v is not None}
    path = write(tmp_path / "log.csv", columns)
    proposal, notes = infer.propose([path])
    assert (RATE in proposal["fields"]) == is_proposed
    assert any("'recent_click_rate', the share of" in note for note in notes) == is_proposed
    if is_proposed:
        schema = schema_lib.schema_from_json(proposal)
        convert.convert(convert.Source(path, schema, "tabular"), tmp_path / "data")
        ads = reader.DataSet(tmp_path / "data").catalog().table
        assert "recent_click_rate" in ads.column_names


def test_a_log_of_events_has_a_click_rate_if_it_has_views(tmp_path):
    kinds = ["view", "view", "click"]
    columns = {
        "user": [f"u{n // 3 % 97}" for n in range(900)],
        "article": [f"a{n // 30}" for n in range(900)],
        "country": [f"c{n // 3 % 5}" for n in range(900)],
        "event": [kinds[n % 3] for n in range(900)],
        "time": [1_700_000_000 + 600 * n for n in range(900)],
    }
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert RATE in proposal["fields"]
    columns["event"] = ["purchase" if kind == "view" else kind for kind in columns["event"]]
    proposal, _ = infer.propose([write(tmp_path / "clicks.csv", columns)])
    assert RATE not in proposal["fields"]


def calendar_log(**changes: list[Any]) -> dict[str, list[Any]]:
    """Returns four weeks with three rows per hour; shoes are clicked at night and hats by day."""
    hours = [n // 3 for n in range(2_016)]
    at_night = [hour % 24 < 8 for hour in hours]
    categories = ["shoes" if n % 2 else "hats" for n in range(2_016)]
    columns = {
        "user": [f"u{n % 97}" for n in range(2_016)],
        "device": [f"d{n % 5}" for n in range(2_016)],
        "ad_id": [f"a{n % 40}" for n in range(2_016)],
        "category": categories,
        "clicked": [
            int((category == "shoes") == night and n % 7 > 1)
            for n, (category, night) in enumerate(zip(categories, at_night, strict=True))
        ],
        "time": [1_699_833_600 + 3_600 * hour for hour in hours],  # a Monday, 0:00
    }
    return {**columns, **changes}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["hour"]),
        # Clicks on weekends, and in no particular hour.
        ({"clicked": [int(n // 72 % 7 > 4 and n % 7 > 1) for n in range(2_016)]}, ["weekday"]),
        ({"clicked": [int(n % 11 == 0) for n in range(2_016)]}, []),
        # All clicks are in the second half: a trend.
        ({"clicked": [int(n > 1_008 and n % 5 > 1) for n in range(2_016)]}, []),
        ({"hour": [n // 3 % 24 for n in range(2_016)]}, []),
        # Two days.
        ({"time": [1_699_833_600 + 90 * n for n in range(2_016)]}, []),
        ({"clicked": [1] * 2_016}, []),
    ],
    ids=["hours", "weekends", "neither", "trend", "hour is logged", "short", "clicks alone"],
)
def test_hour_and_weekday_are_proposed_if_clicks_depend_on_them(changes, names, tmp_path):
    path = write(tmp_path / "log.csv", calendar_log(**changes))
    proposal, notes = infer.propose([path])
    fields = [field for field in proposal["fields"] if "calendar" in field]
    assert fields == [
        {
            "name": name, "side": "query", "kind": "categorical", "column": "time",
            "calendar": name,
        }
        for name in names
    ]  # fmt: skip
    assert sum("A request must give it" in note for note in notes) == len(names)
    if names == ["hour"]:
        schema = schema_lib.schema_from_json(proposal)
        convert.convert(convert.Source(path, schema, "tabular"), tmp_path / "data")
        vocabulary = reader.DataSet(tmp_path / "data").fitted.statistics["hour"].vocabulary
        assert sorted(map(int, vocabulary)) == list(range(24))


def test_hours_are_proposed_for_a_log_of_events(tmp_path):
    columns = calendar_log()
    clicked = columns.pop("clicked")
    views = [("view", row) for row in range(len(clicked))]
    rows = [*views, *(("click", row) for row, click in enumerate(clicked) if click)]
    log = {name: [values[row] for _, row in rows] for name, values in columns.items()}
    # Only the same user's click of the same ad counts.
    log["user"] = [f"u{row}" for _, row in rows]
    log["event"] = [event for event, _ in rows]
    log["time"] = [
        int(time) + (event == "click") for time, (event, _) in zip(log["time"], rows, strict=True)
    ]
    proposal, _ = infer.propose([write(tmp_path / "log.csv", log)])
    assert proposal["events"]["click"] == ["click"]
    assert [field["name"] for field in proposal["fields"] if "calendar" in field] == ["hour"]


AGE = {"name": "ad_age", "side": "ad", "kind": "numeric", "of": "ad", "event": "impression"}


@pytest.mark.parametrize(
    ("click", "is_proposed"),
    [
        (lambda n, age: age < 20 and n % 3 > 0, True),
        (lambda n, age: n % 3 == 0, False),
        (lambda n, age: n % 3 > 0 and n < 1_000, False),
        # Some ads are often clicked.
        (lambda n, age: (n - age) % 3 == 0, False),
    ],
    ids=["new ads", "any ads", "trend", "good ads"],
)
def test_the_age_of_ads_is_proposed_if_clicks_depend_on_it(click, is_proposed, tmp_path):
    # An ad is shown every hour, for the first time in row 10 k and then for 60 hours.
    ages = [n * 7 % 60 for n in range(2_000)]
    columns = {
        "user": [f"u{n % 97}" for n in range(2_000)],
        "device": [f"d{n % 3}" for n in range(2_000)],
        "article": [f"a{n - age}" for n, age in enumerate(ages)],
        "clicked": [int(click(n, age)) for n, age in enumerate(ages)],
        "time": [1_700_000_000 + 3_600 * n for n in range(2_000)],
    }
    path = write(tmp_path / "log.csv", columns)
    proposal, notes = infer.propose([path])
    assert (AGE in proposal["fields"]) == is_proposed
    assert any("the days since the ad's first impression" in note for note in notes) == is_proposed
    if is_proposed:
        schema = schema_lib.schema_from_json(proposal)
        convert.convert(convert.Source(path, schema, "tabular"), tmp_path / "data")
        ages = reader.DataSet(tmp_path / "data").catalog().table["ad_age"].to_pylist()
        # Test rows are the last 200 hours.
        assert max(age for age in ages if age is not None) == pytest.approx(1_799 / 24)


@pytest.mark.parametrize(
    "values", [("1", "0"), ("oui", "non"), ("clicked", "not clicked"), ("x", ""), ("1", "NULL")]
)
@pytest.mark.parametrize("key", ["request_id", "userId"])
def test_a_column_of_two_values_may_be_the_click(
    key: str, values: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    log = impressions()
    outcome = [values[0] if click else values[1] for click in log["click"]]
    flag = {"is_bright": np.repeat(np.arange(200) % 3 == 0, 3)}
    for name in ("click", "conversion", "revenue", "request_id"):
        if name != key:
            del log[name]
    proposal, notes = infer.propose(
        [write(tmp_path / "a.csv", {**log, "outcome": outcome, **flag})]
    )
    assert proposal["click"] is None
    assert "outcome" not in fields(proposal)
    # The values of a request are equal, but users have both.
    assert ("is_bright" in fields(proposal)) == (key == "request_id")
    # A column about the context by its name stays.
    assert "device" in fields(proposal)
    first, second = sorted(values)
    said = f"the values '{first}' and '{second}'"
    if values[1] in ("", "NULL"):
        said = f"only the value '{values[0]}'"
        written = "1" if values[0] == "1" else "'x'"
        assert any(f"(log['outcome'] == {written}).astype(int)" in note for note in notes)
    assert any(note.startswith(f"! 'outcome' has {said} and may be the click") for note in notes)
    # With a click, both are fields.
    log["click"] = impressions()["click"]
    proposal, notes = infer.propose([write(tmp_path / "b.csv", log | flag)])
    assert {"device", "is_bright"} <= fields(proposal).keys()
    assert "may be the click" not in " ".join(notes)


def test_warnings_of_a_proposal_come_first(tmp_path: pathlib.Path) -> None:
    log = {**impressions(), **{f"outcome{n}": impressions()["click"] for n in range(8)}}
    del log["click"], log["conversion"], log["revenue"]
    path = write(tmp_path / "log.csv", log)
    message = infer.write_proposal(str(path), None, None, tmp_path / "schema.json")
    lines = message.splitlines()
    assert all(line.startswith("  ! 'outcome") for line in lines[1:4])
    others = ", ".join(f"'outcome{n}'" for n in range(3, 8))
    assert lines[4] == f"  ! The same for {others}."
