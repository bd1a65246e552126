"""Proposed schemas: layouts in which public logs are distributed."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proposals import follow, sides, write_json

from tfrecords import schema
from tfrecords.schema_inference import proposal as infer

ROWS = 400


def write(path: pathlib.Path, columns: Mapping[str, Any], header: bool = True) -> pathlib.Path:
    rows = [*([list(columns)] if header else []), *zip(*columns.values(), strict=True)]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def reviews(**more: Any) -> dict[str, Any]:
    """Returns columns of ratings of 40 items by 30 users."""
    rng = np.random.default_rng(0)
    return {
        "user_id": [f"u{user}" for user in rng.integers(0, 30, ROWS)],
        "item_id": [f"i{item}" for item in rng.integers(0, 40, ROWS)],
        "rating": rng.integers(1, 6, ROWS),
        **more,
    }


def test_lists_of_objects_that_are_not_ads_are_left_out_and_lines_are_rows(
    tmp_path: pathlib.Path,
) -> None:
    columns = reviews()
    # A review has images, most have none. A product has two variants and several images.
    rows = [
        {
            "rating": int(rating),
            "title": f"Great {n % 7}",
            "images": [{"url": "x"}] * (n % 5 == 0),
            "asin": f"{item}-{n % 2}",
            "parent_asin": item,
            "user_id": user,
        }
        for n, (user, item, rating) in enumerate(zip(*columns.values(), strict=True))
    ]
    products = [
        {"title": f"Thing {n}", "images": [{"url": "y"}] * 3, "parent_asin": f"i{n}"}
        for n in range(40)
    ]
    log = write_json(tmp_path / "log.jsonl", rows)
    ads = write_json(tmp_path / "ads.jsonl", products)
    proposal, notes = infer.propose([log], None, ads)
    assert proposal["ad_key"] == ["parent_asin"]
    assert "position" not in proposal
    # The variant is known only with the product.
    assert sides(proposal)["asin"] == "ad"
    assert any(f"['images'] of {log}; each line is a row" in note for note in notes)
    assert any(note.startswith(f"About {ROWS} rows") for note in notes)


def test_the_objects_of_lists_are_counted_as_rows(tmp_path: pathlib.Path) -> None:
    rows = [
        {
            "user_id": n % 9,
            "events": [{"aid": n * k % 7, "ts": 1_700_000_000 + n} for k in range(4)],
        }
        for n in range(100)
    ]
    _, notes = infer.propose([write_json(tmp_path / "log.jsonl", rows)])
    assert any(note.startswith("About 400 rows") for note in notes)


def test_the_key_of_a_table_with_the_values_of_the_log_should_be_renamed(
    tmp_path: pathlib.Path,
) -> None:
    log = write(tmp_path / "log.tsv", reviews())
    users = {"uid": [f"u{n}" for n in range(30)], "age": [n % 7 for n in range(30)]}
    with pytest.raises(ValueError, match="'uid' has the values of the log's 'user_id': rename it"):
        infer.propose([log], write(tmp_path / "users.tsv", users))
    ads = {"id": [f"i{n}" for n in range(40)], "brand": [n % 7 for n in range(40)]}
    with pytest.raises(ValueError, match="'id' has the values of the log's 'item_id': rename it"):
        infer.propose([log], None, write(tmp_path / "ads.tsv", ads))
    with pytest.raises(ValueError, match=r"row, not a header.* each column, 'item_id' above 'i0'"):
        infer.propose([log], None, write(tmp_path / "rows.tsv", ads, header=False))


@pytest.mark.parametrize("header", [True, False])
def test_ads_with_their_clicks_are_refused_with_a_recipe(
    header: bool, tmp_path: pathlib.Path
) -> None:
    lists = [" ".join(f"N{n % 5 + k}-{int(k == 1)}" for k in range(3)) for n in range(ROWS)]
    columns = {"request": range(ROWS), "user": [f"u{n % 17}" for n in range(ROWS)], "shown": lists}
    log = write(tmp_path / "log.tsv", columns, header)
    with pytest.raises(ValueError, match=r"a row for each ad\. Write the rows") as refused:
        infer.propose([log])
    assert ("correct the names in this program" in str(refused.value)) == (not header)
    proposal, notes = infer.propose([follow(refused, tmp_path, "rows.csv")])
    assert (proposal["ad_key"], proposal["click"]) == (["item_id"], "click")
    # One of the three ads of a request was clicked.
    assert any("'click' is the click (33.33% of the rows)" in note for note in notes)


@pytest.mark.parametrize("form", ["lists", "texts"])
def test_lists_of_shown_and_of_clicked_ads_are_refused_with_a_recipe(
    form: str, tmp_path: pathlib.Path
) -> None:
    shown = [[100 + (n + k) % 9 for k in range(4)] for n in range(ROWS)]
    clicked = [[own[n % 4]] for n, own in enumerate(shown)]
    columns = {
        "article_id": [None if n % 2 else 7 for n in range(ROWS)],
        "user_id": [f"u{n % 17}" for n in range(ROWS)],
        "ids_inview": shown,
        "prices": [[own * 2 for own in ads] for ads in shown],
        "ids_clicked": clicked,
    }
    if form == "lists":
        log = tmp_path / "log.parquet"
        pq.write_table(pa.table(columns), log)
    else:
        texts = {n: ["|".join(map(str, own)) for own in columns[n]] for n in list(columns)[2:]}
        log = write(tmp_path / "log.tsv", columns | texts)
    articles = {"article_id": range(100, 109), "topic": [n % 3 for n in range(9)]}
    ads = write(tmp_path / "ads.tsv", articles)
    with pytest.raises(ValueError, match="'ids_inview' holds the ads of a request") as refused:
        infer.propose([log], None, ads)
    proposal, notes = infer.propose([follow(refused, tmp_path, "rows.csv")], None, ads)
    assert (proposal["ad_key"], proposal["click"]) == (["article_id"], "click")
    assert any("'click' is the click (25.00% of the rows)" in note for note in notes)
    # Each ad keeps its own price.
    assert sides(proposal)["prices"] == "ad"


USERS = [f"user_{n // 7:03}" for n in range(ROWS)]
SONGS = [f"s{n * 7 % 11:05}-a" for n in range(ROWS)]
NUMBERS = [100 + n % 23 for n in range(ROWS)]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        # Without numbers, the time shows that there is no header.
        (
            [USERS, [f"2009-05-{n % 28 + 1:02}T23:08:57Z" for n in range(ROWS)], SONGS],
            ["user_id", "time", "item_id"],
        ),
        (
            [NUMBERS, SONGS, [f"Tue Apr {n % 28 + 1:02} 18:00:09 +0000 2012" for n in range(ROWS)]],
            ["user_id", "item_id", "time"],
        ),
        (
            [
                range(1, ROWS + 1),
                USERS,
                [f"11/{n % 28 + 1}/2019 9:05:58 AM" for n in range(ROWS)],
                NUMBERS,
            ],
            ["request_id", "user_id", "time", "item_id"],
        ),
        # How often a user played a song differs between the users; its category does not.
        ([USERS, SONGS, [n % 17 * n for n in range(ROWS)]], ["user_id", "item_id", "count"]),
        ([USERS, SONGS, [n % 4 + 60 for n in range(ROWS)]], ["user_id", "item_id", "column_3"]),
        (
            [USERS, SONGS, [500 + n * 7 % 11 // 4 for n in range(ROWS)]],
            ["user_id", "item_id", "category_id"],
        ),
    ],
    ids=["times", "written times", "ids of requests", "counts", "codes", "categories"],
)
def test_the_columns_of_a_log_without_a_header_are_named_by_their_content(
    columns: list[Any], names: list[str], tmp_path: pathlib.Path
) -> None:
    named = {str(n): values for n, values in enumerate(columns)}
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", named, header=False)])
    assert proposal["header"] == names
    assert ("time" in names) == ("time" in proposal)


def test_a_rating_of_zero_may_be_none(tmp_path: pathlib.Path) -> None:
    ratings = np.arange(ROWS) * 7 % 11
    columns = reviews(is_read=np.sign(ratings), votes=ratings % 3, was_viewed=ratings % 2)
    columns["book-rating"] = ratings
    del columns["rating"]
    columns["isbn"] = columns.pop("item_id")
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert (proposal["click"], proposal["click_threshold"]) == ("book-rating", 8)
    # 37 of 400.
    assert any(note.startswith("! 9.2% of the rows have the 'book-rating' 0,") for note in notes)
    # What a user does with a book and what others say of it is known after it was shown.
    assert sides(proposal) == {"user_id": "query", "isbn": "ad"}
    columns["book-rating"] = ratings + 1
    _, notes = infer.propose([write(tmp_path / "other.tsv", columns)])
    assert not any(note.startswith("! ") for note in notes)


def test_nested_lists_are_left_out(tmp_path: pathlib.Path) -> None:
    rows = pd.DataFrame(reviews()).to_dict("records")
    rows = [
        row | {"box": [[n, 1], [2]] * (n % 2), "tags": ["ab"[n % 2], "c"]}
        for n, row in enumerate(rows)
    ]
    proposal, notes = infer.propose([write_json(tmp_path / "log.jsonl", rows)])
    assert {"tags", "box"} & sides(proposal).keys() == {"tags"}
    assert any(n.startswith("Left out: ") and "'box' are lists of lists" in n for n in notes)


def test_lists_of_codes_are_not_numbers_with_decimal_commas(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    tags = [",".join(map(str, rng.integers(10, 40, 1 + n % 2))) for n in range(ROWS)]
    prices = [f"{n % 50 + 1},{n * 7 % 100:02}" for n in range(ROWS)]
    proposal, _ = infer.propose([write(tmp_path / "tags.tsv", reviews(label=tags))])
    kinds = {field["name"]: field["kind"] for field in proposal["fields"]}
    assert (kinds["label"], proposal.get("decimal")) == ("categorical_list", None)
    proposal, _ = infer.propose([write(tmp_path / "prices.tsv", reviews(paid_before=prices))])
    kinds = {field["name"]: field["kind"] for field in proposal["fields"]}
    assert (kinds["paid_before"], proposal.get("decimal")) == ("numeric", ",")


def test_codes_of_event_types_are_asked_about(tmp_path: pathlib.Path) -> None:
    columns = reviews(action_type=[n * 3 % 4 for n in range(ROWS)])
    del columns["rating"]
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    note = next(note for note in notes if note.startswith("! 'action_type' may hold event types"))
    events = json.loads("{" + note[note.index('"events"') :] + "}")
    # The example is a valid part of the schema.
    schema.schema_from_json(proposal | events)


def test_properties_in_rows_should_be_columns(tmp_path: pathlib.Path) -> None:
    ads = pd.DataFrame(
        {
            "item_id": [f"i{n // 3}" for n in range(120)],
            "property": ["brand", "color", "size"] * 40,
            "value": range(120),
            "timestamp": range(1_431_226_800, 1_431_226_920),
        }
    )
    # Each property has a former value, in a later row.
    ads = pd.concat([ads, ads.assign(value=-ads["value"], timestamp=1_430_000_000)])
    log = write(tmp_path / "log.tsv", reviews())
    path = write(tmp_path / "ads.tsv", ads.to_dict("list"))
    _, notes = infer.propose([log], None, path)
    note = next(note for note in notes if note.startswith("! The table of ads has a row for each"))
    values = {"ads": ads}
    exec(note.partition("pandas: ")[2], values)
    assert sorted(values["ads"]["brand"]) == [*range(0, 120, 3)]
    path = write(tmp_path / "wide.tsv", values["ads"].to_dict("list"))
    proposal, notes = infer.propose([log], None, path)
    assert {"brand", "color", "size"} <= sides(proposal).keys()
    assert not any(note.startswith("! The table of ads") for note in notes)


def test_a_session_of_days_is_not_a_request_and_stands_for_unknown_users(
    tmp_path: pathlib.Path,
) -> None:
    # Sessions of 5 rows: 4 in 5 sessions have no known user, and times are dates.
    sessions = np.arange(ROWS) // 5
    columns = reviews(
        session_id=sessions, date=[f"2016-05-{n // 5 % 28 + 1:02}" for n in range(ROWS)]
    )
    columns["user_id"] = ["NA" if n % 5 else n // 2 for n in sessions]
    del columns["rating"]
    log = write(tmp_path / "log.tsv", columns)
    proposal, notes = infer.propose([log])
    assert (proposal["user_key"], proposal.get("request_key")) == ("user_id", None)
    assert any("'session_id' is a session, not a request, but 'date' has only" in n for n in notes)
    note = next(note for note in notes if "use it for unknown users" in note)
    values = {"log": pd.read_csv(log, sep="\t")}
    exec(note.partition("pandas: ")[2], values)
    # 64 sessions of unknown users, and 16 users.
    assert values["log"]["user_id"].nunique() == 80
    assert values["log"]["user_id"].notna().all()


def test_numbers_of_seen_ads_are_ids(tmp_path: pathlib.Path) -> None:
    items = np.arange(ROWS) * 7 % 101 + 900
    columns = reviews(hist_1=np.roll(items, 1), hist_2=np.where(items % 3, np.roll(items, 2), 0))
    columns["item_id"] = items
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    kinds = {field["name"]: field["kind"] for field in proposal["fields"]}
    assert (kinds["hist_1"], kinds["hist_2"]) == ("categorical", "categorical")


def test_amounts_after_an_ad_was_shown_may_be_the_click(tmp_path: pathlib.Path) -> None:
    columns = reviews(watch_ratio=np.arange(ROWS) % 13 / 7)
    del columns["rating"]
    _, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert any(note.endswith("with a click_threshold: 'watch_ratio'.") for note in notes)


def test_requests_without_a_user_should_be_joined_with_a_table_of_requests(
    tmp_path: pathlib.Path,
) -> None:
    orders = {
        "order_id": [n // 5 for n in range(ROWS)],
        "product_id": [n * 7 % 31 for n in range(ROWS)],
    }
    with pytest.raises(ValueError, match=r"log = log\.merge\(requests, on='order_id'\)") as refused:
        infer.propose([write(tmp_path / "orders.tsv", orders)])
    assert "Ads are identified" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "split"),
    [("user_id", "leave_random_fraction_out"), ("item_id", "leave_random_fraction_out"), ("", "")],
)
def test_a_log_that_is_sorted_by_user_or_ad_is_split_at_random(
    key: str, split: str, tmp_path: pathlib.Path
) -> None:
    log = pd.DataFrame(reviews())
    log = log.sort_values(key, kind="stable") if key else log
    path = write(tmp_path / "log.tsv", log.to_dict("list"))
    message = infer.write_proposal(str(path), None, None, tmp_path / "schema.json")
    assert message.splitlines()[-1].partition("--split=")[2] == split
    assert ("is sorted by its users or ads" in message) == bool(key)
    # The time splits a log in any order.
    log["timestamp"] = range(1_700_000_000, 1_700_000_000 + ROWS)
    path = write(tmp_path / "timed.tsv", log.to_dict("list"))
    message = infer.write_proposal(str(path), None, None, tmp_path / "timed.json")
    assert "--split=" not in message


def test_ids_are_preferred_to_counts_and_names(tmp_path: pathlib.Path) -> None:
    columns = reviews(products=[n * 5 % 83 for n in range(ROWS)])
    columns = {
        {"user_id": "username", "item_id": "product_id"}.get(name, name): values
        for name, values in columns.items()
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert (proposal["user_key"], proposal["ad_key"]) == ("username", ["product_id"])
    columns["user"] = [f"u{n % 19}" for n in range(ROWS)]
    proposal, _ = infer.propose([write(tmp_path / "other.tsv", columns)])
    assert proposal["user_key"] == "user"
