"""Small logs in common layouts: each converts with the schema that is proposed for it."""

import json
import pathlib
import re
import runpy
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from repository import ROOT

from tfrecords import card, convert, reader, schema_inference
from tfrecords import schema as schema_lib

ROWS = 600
TIME = 1_700_000_000
RNG = np.random.default_rng(3)


def lines(path: pathlib.Path, rows: list[list[Any]], delimiter: str) -> pathlib.Path:
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))
    return path


def convert_proposed(
    directory: pathlib.Path, log: pathlib.Path, **tables: pathlib.Path
) -> tuple[dict[str, Any], list[str], reader.DataSet]:
    proposal, notes = schema_inference.propose([log], tables.get("users"), tables.get("ads"))
    source = convert.Source(
        log,
        schema_lib.schema_from_json(json.loads(json.dumps(proposal))),
        "tabular",
        ads_path=tables.get("ads"),
        users_path=tables.get("users"),
    )
    convert.convert(source, directory / "data", validation_fraction=0.2, test_fraction=0.2)
    return proposal, notes, reader.DataSet(directory / "data")


def totals(data_set: reader.DataSet) -> dict[str, float]:
    splits = ("train", "validation", "test")
    labels = ("click", "engagement", "revenue")
    sums = {label: sum(data_set.label_sum(s, label) for s in splits) for label in labels}
    return {"rows": sum(data_set.num_rows(s) for s in splits), **sums}


def sides(proposal: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {field["name"]: (field["kind"], field["side"]) for field in proposal["fields"]}


def test_a_ga4_export(tmp_path: pathlib.Path) -> None:
    """Nested objects, a list of items in an event, parameters as keys and values, and types."""

    def event(name: str, n: int, items: list[int], **more: Any) -> dict[str, Any]:
        return {
            "event_date": "20231114",
            "event_timestamp": (TIME + n) * 1_000_000,
            "event_name": name,
            "event_params": [{"key": "page", "value": {"string_value": f"p{n}"}}],
            "user_pseudo_id": f"u{n % 20}.{n % 3}",
            "device": {"category": ["mobile", "desktop"][n % 2], "language": f"l{n % 4}"},
            "geo": {"country": f"c{n % 5}"},
            "items": [
                {"item_id": f"SKU{i}", "item_name": f"Item {i}", "price": i + 0.5} for i in items
            ],
            **more,
        }

    events = []
    for n in range(0, ROWS, 3):
        shown = [n % 7, 7 + n % 5, 12 + n % 4]
        events.append(event("view_item_list", n, shown))
        events.append(event("page_view", n, []))
        if n % 2 == 0:
            events.append(
                event("select_item", n, shown[:1]) | {"event_timestamp": (TIME + n + 1) * 10**6}
            )
        if n % 4 == 0:
            events.append(
                event("purchase", n, shown[:1]) | {"event_timestamp": (TIME + n + 2) * 10**6}
            )
    path = tmp_path / "ga4.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    proposal, notes, data_set = convert_proposed(tmp_path, path)
    assert proposal["ad_key"] == ["items.item_id"]
    assert proposal["user_key"] == "user_pseudo_id"
    assert proposal["time"] == "event_timestamp"
    assert proposal["show"] == ["items.item_name"]
    assert proposal["events"] == {
        "column": "event_name", "view": ["view_item_list"], "click": ["select_item"],
        "engagement": ["purchase"],
    }  # fmt: skip
    found = sides(proposal)
    assert found["device_category"] == ("categorical", "query")
    assert found["geo_country"] == ("categorical", "query")
    assert found["items_price"] == ("numeric", "ad")
    assert any("'event_params'" in note and note.startswith("Left out") for note in notes)
    # 200 lists of three items; a click of each second one, a purchase of each fourth. The purchases
    # bring the prices n % 7 + 0.5 of n = 0, 12, …, 588: 7 times 0 + … + 6, a 0, and 50 times 0.5.
    assert totals(data_set) == {"rows": 600, "click": 100, "engagement": 50, "revenue": 172}
    source = data_set.description.source
    # Page views list no items, so they are no rows.
    assert (source.events.others, source.events.unmatched) == ({}, 0)
    # The items of a list are a request.
    assert data_set.num_requests("test") == data_set.num_rows("test") / 3


def test_a_shop_export_with_event_types(tmp_path: pathlib.Path) -> None:
    header = ["event_time", "event_type", "product_id", "category_code", "brand", "price",
              "user_id", "user_session"]  # fmt: skip
    rows: list[list[Any]] = [header]
    for n in range(ROWS // 2):
        product = [n % 11, f"cat.{n % 11 % 3}", f"brand{n % 11 % 4}", n % 11 + 0.99]
        session = [f"{n % 23}", f"s{n // 6}"]

        def stamp(second: int, n: int = n) -> str:
            minute = n // 2 % 60
            return f"2019-10-{1 + n // 120:02d} {n % 24:02d}:{minute:02d}:{second:02d} UTC"

        rows.append([stamp(0), "view", *product, *session])
        if n % 3 == 0:
            rows.append([stamp(10), "cart", *product, *session])
        if n % 6 == 0:
            rows.append([stamp(20), "purchase", *product, *session])
        if n % 50 == 0:
            rows.append([stamp(30), "remove_from_cart", *product, *session])
    path = lines(tmp_path / "2019-Oct.csv", rows, ",")
    proposal, notes, data_set = convert_proposed(tmp_path, path)
    assert proposal["ad_key"] == ["product_id"]
    assert proposal["events"] == {
        "column": "event_type", "view": ["view"], "click": ["cart"], "engagement": ["purchase"]
    }  # fmt: skip
    assert any("'remove_from_cart' will be left out" in note for note in notes)
    assert sides(proposal)["price"] == ("numeric", "ad")
    assert proposal["revenue"] == "price"
    # Every sixth view is bought at its price.
    revenue = sum(n % 11 + 0.99 for n in range(0, 300, 6))
    found = totals(data_set)
    assert found.pop("revenue") == pytest.approx(revenue)
    assert found == {"rows": 300, "click": 100, "engagement": 50}
    assert data_set.description.source.events.others == {"remove_from_cart": 6}


def test_recbole_atomic_files(tmp_path: pathlib.Path) -> None:
    log: list[list[Any]] = [
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        *([n % 31, n % 17, n % 5 + 1, TIME + n * 50] for n in range(ROWS)),
    ]
    items: list[list[Any]] = [
        ["item_id:token", "movie_title:token_seq", "genres:token_seq", "release_year:token"],
        *([n, f"A Film {n}", f"Drama Comedy{n % 3}", 1990 + n] for n in range(20)),
    ]
    users: list[list[Any]] = [
        ["user_id:token", "age:float", "gender:token"],
        *([n, 20 + n % 9, "MF"[n % 2]] for n in range(31)),
    ]
    proposal, _, data_set = convert_proposed(
        tmp_path,
        lines(tmp_path / "ml.inter", log, "\t"),
        ads=lines(tmp_path / "ml.item", items, "\t"),
        users=lines(tmp_path / "ml.user", users, "\t"),
    )
    assert (proposal["ad_key"], proposal["user_key"]) == (["item_id:token"], "user_id:token")
    assert (proposal["click"], proposal["click_threshold"]) == ("rating:float", 4.0)
    assert proposal["show"] == ["movie_title:token_seq"]
    found = sides(proposal)
    assert found["genres"] == ("categorical_list", "ad")
    assert found["age"] == ("numeric", "query")
    assert totals(data_set)["rows"] == ROWS
    assert len(data_set.catalog()) == 20
    assert data_set.catalog().shown(np.array([0]))[0]["movie_title:token_seq"].startswith("A Film")


def test_a_taobao_log(tmp_path: pathlib.Path) -> None:
    """User, item, category, behavior and time, without a header."""
    rows: list[list[Any]] = []
    for n in range(ROWS // 2):
        item = 1_000 + n % 13
        keys = [100 + n % 19, item, 50 + item % 4]
        rows.append([*keys, "pv", TIME + n * 60])
        if n % 3 == 0:
            rows.append([*keys, ["cart", "fav"][n % 2], TIME + n * 60 + 5])
        if n % 6 == 0:
            rows.append([*keys, "buy", TIME + n * 60 + 9])
    path = lines(tmp_path / "UserBehavior.csv", rows, ",")
    proposal, notes, data_set = convert_proposed(tmp_path, path)
    assert proposal["header"] == ["user_id", "item_id", "category_id", "column_4", "time"]
    assert any("is a row, not a header" in note for note in notes)
    assert (proposal["ad_key"], proposal["user_key"]) == (["item_id"], "user_id")
    assert proposal["time"] == "time"
    assert proposal["events"]["view"] == ["pv"]
    assert sorted(proposal["events"]["click"]) == ["cart", "fav"]
    assert proposal["events"]["engagement"] == ["buy"]
    assert sides(proposal)["category_id"] == ("categorical", "ad")
    assert totals(data_set) == {"rows": 300, "click": 100, "engagement": 50, "revenue": 0}
    assert data_set.description.source.rejected == 0


def test_ratings_of_ids_with_letters(tmp_path: pathlib.Path) -> None:
    """Reviewer, product, rating and time, without a header."""
    rows = [
        [f"A{n % 19:05}XK", f"B{n * 7 % 13:05}", 1 + n * 5 % 7 % 5, TIME + n * 900]
        for n in range(ROWS)
    ]
    path = lines(tmp_path / "ratings.csv", rows, ",")
    proposal, _, data_set = convert_proposed(tmp_path, path)
    assert proposal["header"] == ["user_id", "item_id", "rating", "time"]
    assert (proposal["ad_key"], proposal["user_key"]) == (["item_id"], "user_id")
    assert (proposal["click"], proposal["click_threshold"]) == ("rating", 4)
    assert totals(data_set)["rows"] == ROWS


def test_games_named_by_titles(tmp_path: pathlib.Path) -> None:
    """User, title, event type, hours and 0, without a header."""
    rows: list[list[Any]] = []
    for n in range(ROWS // 2):
        keys = [1_000 + n % 19, f"Game {n * 7 % 13}: The Return"]
        rows += [[*keys, "play", n % 9 / 10, 0]] + [[*keys, "purchase", 1.0, 0]] * (n % 3 == 0)
    proposal, _, data_set = convert_proposed(tmp_path, lines(tmp_path / "games.csv", rows, ","))
    assert proposal["header"] == ["user_id", "item_id", "column_3", "column_4", "column_5"]
    assert (proposal["ad_key"], proposal["user_key"]) == (["item_id"], "user_id")
    assert proposal["events"] == {"column": "column_3", "view": ["play"], "click": ["purchase"]}
    assert totals(data_set)["click"] == 100


def test_a_wide_parquet_with_lists(tmp_path: pathlib.Path) -> None:
    columns: dict[str, Any] = {
        "impression_id": [f"r{n // 3}" for n in range(ROWS)],
        "user_id": [n // 3 % 40 for n in range(ROWS)],
        "article_id": [n * 7 % 29 for n in range(ROWS)],
        "clicked": [n % 5 == 0 for n in range(ROWS)],
        "history": [[f"{(n // 3 + k) % 29}" for k in range(n // 3 % 4)] for n in range(ROWS)],
        "impression_time": pa.array(
            [(TIME + n // 3) * 1_000 for n in range(ROWS)], pa.timestamp("ms")
        ),
        "topics": [[f"t{n * 7 % 29 % k}" for k in (2, 3)] for n in range(ROWS)],
    }
    for number in range(40):
        columns[f"feature_{number}"] = RNG.normal(size=ROWS // 3).repeat(3)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    proposal, _, data_set = convert_proposed(tmp_path, path)
    assert (proposal["ad_key"], proposal["click"]) == (["article_id"], "clicked")
    assert (proposal["request_key"], proposal["time"]) == ("impression_id", "impression_time")
    found = sides(proposal)
    assert found["history"] == ("categorical_list", "query")
    assert found["topics"] == ("categorical_list", "ad")
    assert found["feature_39"] == ("numeric", "query")
    assert totals(data_set)["click"] == ROWS / 5


def test_an_excel_table(tmp_path: pathlib.Path) -> None:
    header = "Datum;Kunde_ID;Artikel_ID;Produkt Name;Preis;Land;Klick;click"
    rows = [
        f"{1 + n // 30:02d}.03.2024 {n % 24:02d}:{n % 60:02d};k{n % 21};a{n % 9};Ding {n % 9};"
        f"1.{n % 9}00,50 €;{['DE', 'AT', 'CH'][n % 21 % 5 % 3]};x;{int(n % 4 == 0)}"
        for n in range(ROWS)
    ]
    text = "\r\n".join(
        ["sep=;", header.replace("Kunde", "customer").replace("Artikel", "item"), *rows]
    )
    path = tmp_path / "export.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    proposal, notes, data_set = convert_proposed(tmp_path, path)
    assert proposal["decimal"] == ","
    assert (proposal["time"], proposal["time_format"]) == ("Datum", "%d.%m.%Y %H:%M")
    assert proposal["show"] == ["Produkt Name"]
    assert sides(proposal)["Preis"] == ("numeric", "ad")
    assert sides(proposal)["Land"] == ("categorical", "query")
    assert any("such as '1.000,50 €'" in note for note in notes)
    assert totals(data_set) == {"rows": ROWS, "click": ROWS / 4, "engagement": 0, "revenue": 0}
    prices = data_set.catalog().fields["Preis"].to_pylist()
    assert sorted(prices) == [1_000.5 + 100 * n for n in range(9)]


def test_events_without_a_user_are_reported(tmp_path: pathlib.Path) -> None:
    rows = [["item_id", "event", "country"]]
    rows += [[f"i{n % 7}", ["view", "cart", "buy"][n // 2 % 3], f"c{n % 5}"] for n in range(120)]
    proposal, notes = schema_inference.propose([lines(tmp_path / "log.csv", rows, ",")])
    assert proposal["click"] is None
    assert "events" not in proposal
    assert any("cannot be joined and every row counts as a click" in note for note in notes)


def test_the_unreadable_amount_of_a_mixed_column_is_named(tmp_path: pathlib.Path) -> None:
    rows = [["item_id", "user_id", "clicked", "revenue"]]
    # Every fifth amount is a debit, in words.
    amounts = ["$22.53", "$1.00", "", "66.48 DR", "$3.10"]
    rows += [[f"i{n % 7}", f"u{n % 11}", n % 2, amounts[n % 5]] for n in range(100)]
    proposal, notes = schema_inference.propose([lines(tmp_path / "log.csv", rows, ",")])
    assert "revenue" not in proposal
    assert any("values such as '66.48 DR' are not numbers" in note for note in notes)


def test_the_recipe_for_aggregated_logs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = pd.DataFrame(
        {
            "day": [f"2024-05-{1 + n // 10:02d}" for n in range(100)],
            "ad_id": [f"a{n % 10}" for n in range(100)],
            "device": [["ios", "android"][n % 3 % 2] for n in range(100)],
            "impressions": 8,
            "clicks": [n % 4 for n in range(100)],
            "conversions": [n % 4 // 2 for n in range(100)],
            "revenue": [3.5 * (n % 4 // 2) for n in range(100)],
        }
    )
    monkeypatch.chdir(tmp_path)
    report.to_csv("report.csv", index=False)
    schema = {
        "name": "report",
        "fields": [
            {"name": "device", "kind": "categorical", "side": "query"},
            {"name": "ad_id", "kind": "categorical", "side": "ad"},
        ],
        "ad_key": ["ad_id"],
        "time": "day",
    }

    def converted(log: str, **labels: Any) -> tuple[reader.DataSet, str]:
        source = convert.Source(
            pathlib.Path(log), schema_lib.schema_from_json({**schema, **labels}), "tabular"
        )
        convert.convert(source, tmp_path / "data")
        data_set = reader.DataSet(tmp_path / "data")
        return data_set, " ".join(warning.text for warning in card.build_card(data_set).warnings)

    # Two of four rows have 2 or 3 clicks.
    _, told = converted("report.csv", click="clicks", click_threshold=1)
    assert "50.0 % of the rows have a 'clicks' above 1" in told
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (recipe,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if "index.repeat" in block
    )
    (tmp_path / "recipe.py").write_text(recipe)
    runpy.run_path("recipe.py", {"report": report})
    data_set, told = converted("log.csv", click="clicked", engagement="ordered", revenue="paid")
    # 25 * (0 + 1 + 2 + 3) impressions are clicked, and every other row has an order of 3.5.
    assert totals(data_set) == {"rows": 800, "click": 150, "engagement": 50, "revenue": 175}
    assert "above 1" not in told
    assert "repeat another row" not in told
