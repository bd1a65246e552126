"""Proposed schemas: layouts in which systems of shops and ad tech export their logs."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from proposals import follow, sides, write_json

from tfrecords.schema_inference import proposal as infer

ROWS = 400
TIMES = pd.Series(pd.Timestamp("2024-06-01") + pd.to_timedelta(np.arange(ROWS) * 600, unit="s"))


def write(path: pathlib.Path, columns: Mapping[str, Any]) -> pathlib.Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def impressions(**more: Any) -> dict[str, Any]:
    """Returns columns of impressions of 20 ads by 30 users."""
    rng = np.random.default_rng(0)
    return {
        "impression_id": [f"{number:08x}" for number in rng.permutation(10**6)[:ROWS]],
        "timestamp": TIMES,
        "user_id": [f"u{user}" for user in rng.integers(0, 30, ROWS)],
        "creative_id": rng.integers(100, 120, ROWS),
        "device": [("mobile", "desktop", "tablet")[n] for n in rng.integers(0, 3, ROWS)],
        **more,
    }


@pytest.mark.parametrize(
    ("view", "click", "purchase"),
    [
        ("ad_impression", "ad_click", "ad_conversion"),
        ("Product List Viewed", "Product Clicked", "Order Completed"),
        ("ItemView", "ItemClick", "ItemPurchase"),
        ("impression", "click", "postback"),
    ],
)
def test_event_types_name_the_ad(
    view: str, click: str, purchase: str, tmp_path: pathlib.Path
) -> None:
    frame = pd.DataFrame(impressions())
    parts = [frame.assign(event=view), frame[::3].assign(event=click)]
    parts += [frame[::9].assign(event=purchase), frame.assign(event="bid", creative_id=None)]
    log = pd.concat(parts).sort_values("timestamp", kind="stable")
    proposal, notes = infer.propose([write(tmp_path / "log.csv", log)])
    assert proposal["events"] == {
        "column": "event", "view": [view], "click": [click], "engagement": [purchase]
    }  # fmt: skip
    # Only bids have no ad, and they are left out.
    assert "rejected" not in " ".join(notes)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("has_ad", [True, False])
def test_clicks_and_conversions_in_other_files_are_joined_by_a_recipe(
    order: tuple[int, ...], has_ad: bool, tmp_path: pathlib.Path
) -> None:
    log = pd.DataFrame(impressions(user_id=[f"0{n % 30}" for n in range(ROWS)]))
    keys = list(log) if has_ad else ["impression_id", "timestamp", "user_id"]
    clicks = log.loc[::4, keys].assign(click_id=range(100))
    conversions = log.loc[::16, ["impression_id"]].assign(value=12.5, conversion_id=range(25))
    # A click converted twice.
    conversions = pd.concat([conversions, conversions[:1]])
    tables = {"impressions": log, "clicks": clicks, "conversions": conversions}
    paths = [write(tmp_path / f"{name}.csv", table) for name, table in tables.items()]
    _, notes = infer.propose(paths[:1])
    assert any("! No column looks like a click" in n and "name both files" in n for n in notes)
    with pytest.raises(ValueError, match=r"expected the files of one table\. Join") as refused:
        infer.propose([paths[index] for index in order])
    path = follow(refused, tmp_path, "log.csv")
    proposal, notes = infer.propose([path])
    roles = ("ad_key", "click", "engagement", "revenue", "time", "user_key")
    assert [proposal[role] for role in roles] == [
        ["creative_id"], "click", "conversions", "revenue", "timestamp", "user_id"
    ]  # fmt: skip
    joined = pd.read_csv(path, dtype={"user_id": "str"})
    assert joined["user_id"].tolist() == log["user_id"].tolist()
    assert joined[["click", "conversions", "revenue"]].sum().tolist() == [100, 25, 26 * 12.5]


def test_orders_are_joined_with_their_lines_by_a_recipe(tmp_path: pathlib.Path) -> None:
    orders = {"order_id": range(ROWS), "customer_id": np.arange(ROWS) % 30, "created_at": TIMES}
    numbers = np.arange(2 * ROWS)
    lines = {"order_id": numbers // 2, "product_id": numbers * 7 % 20, "price": numbers % 20}
    paths = [write(tmp_path / "orders.csv", orders), write(tmp_path / "lines.csv", lines)]
    with pytest.raises(ValueError, match=r"lines\.csv") as refused:
        infer.propose(paths)
    proposal, _ = infer.propose([follow(refused, tmp_path, "log.csv")])
    assert (proposal["time"], proposal["user_key"]) == ("created_at", "customer_id")


def test_files_named_by_their_events_are_joined_by_a_recipe(tmp_path: pathlib.Path) -> None:
    log = pd.DataFrame(impressions())
    tables = {"views": log, "clicks": log[::4], "conversions": log[::16].assign(amount=12.5)}
    paths = [write(tmp_path / f"{name}.csv", table) for name, table in tables.items()]
    with pytest.raises(ValueError, match="the files hold different events") as refused:
        infer.propose(paths)
    proposal, _ = infer.propose([follow(refused, tmp_path, "log.csv")])
    events = {"view": ["view"], "click": ["click"], "engagement": ["conversions"]}
    assert proposal["events"] == {"column": "event", **events}
    assert proposal["revenue"] == "amount"
    # Parts of one log, which has clicks.
    parts = [write(tmp_path / name, log.assign(click=0)) for name in ("clicks1.csv", "log2.csv")]
    assert infer.propose(parts)[0]["click"] == "click"


@pytest.mark.parametrize("has_clicks", [True, False])
def test_orders_of_users_should_become_events(has_clicks: bool, tmp_path: pathlib.Path) -> None:
    log = pd.DataFrame(impressions())
    tables = {"impressions": log}
    if has_clicks:
        tables["clicks"] = log.loc[::4, ["impression_id"]]
    tables["orders"] = log.loc[::16, ["user_id", "creative_id"]].assign(order_value=12.5)
    paths = [write(tmp_path / f"{name}.csv", table) for name, table in tables.items()]
    with pytest.raises(ValueError, match="expected the files of one table") as refused:
        infer.propose(paths)
    said = str(refused.value)
    assert said.count("has only the keys") == 1
    assert (
        f"{paths[-1]} has only the keys ['creative_id', 'user_id'], which do not identify" in said
    )
    assert said.endswith("see 'Events' in docs/data.md.")
    assert ("log['click'] = " in said) == has_clicks


def test_files_of_events_may_lack_the_ad(tmp_path: pathlib.Path) -> None:
    frame = pd.DataFrame(impressions(event="view"))
    frame.loc[1::2, "event"] = "click"
    searches = frame[["timestamp", "user_id"]].assign(event="search", query="x")
    paths = [write(tmp_path / "a.csv", frame), write(tmp_path / "b.csv", searches)]
    assert infer.propose(paths)[0]["ad_key"] == ["creative_id"]


def slates(num_ads: int = 4) -> tuple[list[list[str]], list[int | None]]:
    """Returns lists of shown ads and the index of the clicked one, if any: in every tenth list."""
    shown = [[f"i{(n + k) % 9}" for k in range(num_ads)] for n in range(ROWS)]
    return shown, [None if n % 10 else n // 10 % num_ads for n in range(ROWS)]


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize(
    "clicks",
    ["clicked_index", "clicked_position", "clicks", "clicked_ids", "clicked_item"],
)
def test_lists_of_shown_ads_become_rows_by_a_recipe(
    clicks: str, form: str, tmp_path: pathlib.Path
) -> None:
    shown, index = slates()
    ids = [[] if n is None else [own[n]] for n, own in zip(index, shown, strict=True)]
    found = {
        "clicked_index": [-1 if n is None else n for n in index],
        "clicked_position": [None if n is None else n + 1 for n in index],
        "clicks": [[int(k == n) for k in range(4)] for n in index],
        "clicked_ids": ids,
        "clicked_item": [(own or [None])[0] for own in ids],
    }
    scores = [[0.5, 0.25, 0.125, n / ROWS] for n in range(ROWS)]
    users = [f"u{n % 30}" for n in range(ROWS)]
    columns = {"ts": range(1_717_200_000, 1_717_200_000 + ROWS), "user_id": users, "items": shown}
    columns |= {"scores": scores, clicks: found[clicks]}
    if form == "json":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path = write_json(tmp_path / "log.jsonl", rows)
    else:
        path = write(tmp_path / "log.csv", columns)
    with pytest.raises(ValueError, match=r"'items' holds the ads .* a row for each ad") as refused:
        infer.propose([path])
    rows_path = follow(refused, tmp_path, "rows.csv")
    proposal, _ = infer.propose([rows_path])
    assert (proposal["ad_key"], proposal["click"]) == (["item_id"], "click")
    log = pd.read_csv(rows_path)
    assert len(log) == 4 * ROWS
    clicked = [own[n] for n, own in zip(index, shown, strict=True) if n is not None]
    assert log.item_id[log.click.astype(int) == 1].tolist() == clicked


def test_clicked_ids_of_objects_become_clicks_by_a_recipe(tmp_path: pathlib.Path) -> None:
    shown, index = slates()
    rows = [
        {
            "request_id": f"r{n}",
            "user": {"id": f"u{n % 30}"},
            "items": [{"id": ad, "score": k / 4} for k, ad in enumerate(own)],
            "clicks": [] if clicked is None else [own[clicked]],
        }
        for n, (own, clicked) in enumerate(zip(shown, index, strict=True))
    ]
    with pytest.raises(ValueError, match="'items' holds the ads of a request") as refused:
        infer.propose([write_json(tmp_path / "log.jsonl", rows)])
    proposal, notes = infer.propose([follow(refused, tmp_path, "rows.jsonl")])
    roles = [proposal[role] for role in ("ad_key", "click", "request_key", "user_key")]
    assert roles == [["items.id"], "click", "request_id", "user.id"]
    assert any("'click' is the click (2.50% of the rows)" in note for note in notes)


def test_ads_in_lists_become_rows_by_a_recipe(tmp_path: pathlib.Path) -> None:
    shown, _ = slates()
    log = {"user_id": [f"u{n % 30}" for n in range(ROWS)], "products": shown}
    with pytest.raises(
        ValueError, match="'products' holds lists of ads; expected a row"
    ) as refused:
        infer.propose([write(tmp_path / "log.csv", log)])
    proposal, _ = infer.propose([follow(refused, tmp_path, "rows.csv")])
    assert proposal["ad_key"] == ["products"]


@pytest.mark.parametrize(
    ("names", "user", "ad"),
    [
        # Hive's names of the columns of a table.
        (("log.user_id", "log.ad_id"), "log.user_id", "log.ad_id"),
        (("context.traits.userId", "properties.product_id"), "context.traits.userId",
         "properties.product_id"),
        (("Email", "Lineitem sku"), "Email", "Lineitem sku"),
        (("distinct_id", "ordered_product_id"), "distinct_id", "ordered_product_id"),
        (("device.ifa", "bid.crid"), "device.ifa", "bid.crid"),
    ],
    ids=["prefixes", "objects", "lines", "last words", "bids"],
)  # fmt: skip
def test_keys_have_names_of_exports(
    names: tuple[str, str], user: str, ad: str, tmp_path: pathlib.Path
) -> None:
    columns = impressions()
    columns[names[0]] = columns.pop("user_id")
    columns[names[1]] = columns.pop("creative_id")
    # Each row is a line, all are of one app.
    columns |= {"item_id": range(ROWS), "app_id": "shop"}
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert (proposal["user_key"], proposal["ad_key"]) == (user, [ad])


def test_a_visitor_is_known_without_a_login(tmp_path: pathlib.Path) -> None:
    columns = impressions()
    columns["anonymous_id"] = [f"a{user}" for user in columns["user_id"]]
    columns["user_id"] = [None if n % 3 else user for n, user in enumerate(columns["user_id"])]
    # Most devices have no id but zeros.
    columns["device_id"] = ["0000" if n % 5 else f"d{n % 90}" for n in range(ROWS)]
    path = write(tmp_path / "log.csv", columns)
    assert infer.propose([path])[0]["user_key"] == "anonymous_id"
    del columns["anonymous_id"]
    assert infer.propose([write(path, columns)])[0]["user_key"] == "user_id"
    del columns["user_id"]
    assert "user_key" not in infer.propose([write(path, columns)])[0]


def test_labels_may_be_in_objects(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    columns = impressions()
    columns["outcome.clicked"] = rng.integers(0, 2, ROWS)
    columns["user.clicks"] = rng.integers(0, 9, ROWS)
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["click"] == "outcome.clicked"


def test_outcomes_are_in_the_rows_that_have_their_times_or_ids(tmp_path: pathlib.Path) -> None:
    frame = pd.DataFrame(impressions())
    frame["click_id"] = [None if n % 4 else f"c{n}" for n in range(ROWS)]
    frame["outcome.converted_at"] = frame["timestamp"].where(np.arange(ROWS) % 16 == 0)
    _, notes = infer.propose([write(tmp_path / "log.csv", frame)])
    values = {"log": frame}
    for label, what in (("click", "the id of a click"), ("conversion", "the time of a conversion")):
        note = next(note for note in notes if f"may be {what}. If so, write the {label}" in note)
        exec(note.partition("pandas: ")[2], values)
    assert frame[["click", "conversion"]].sum().tolist() == [100, 25]


@pytest.mark.parametrize(
    ("no", "yes"),
    [(None, 1), (None, "x"), ("Nein", "Ja"), (1, 2)],
    ids=["joined", "marked", "words", "from one"],
)
def test_clicks_that_are_missing_or_texts_are_written_by_a_recipe(
    no: Any, yes: Any, tmp_path: pathlib.Path
) -> None:
    path = write(
        tmp_path / "log.csv", impressions(clicked=[no if n % 4 else yes for n in range(ROWS)])
    )
    note = next(note for note in infer.propose([path])[1] if "is named like a click" in note)
    assert note.startswith("! ")
    values = {"log": pd.read_csv(path)}
    exec(note.partition("pandas: ")[2], values)
    assert values["log"]["clicked"].sum() == 100


@pytest.mark.parametrize(
    ("name", "values"),
    [("outcome", (None, "click")), ("coupon_status", ("redeemed", "issued", "expired", "issued"))],
)
def test_outcomes_with_a_few_texts_are_written_by_a_recipe(
    name: str, values: tuple[Any, ...], tmp_path: pathlib.Path
) -> None:
    frame = pd.DataFrame(impressions())
    frame[name] = [values[n * 7 // 4 % len(values)] for n in range(ROWS)]
    proposal, notes = infer.propose([write(tmp_path / "log.csv", frame)])
    assert name not in [field["name"] for field in proposal["fields"]]
    said = "only the value 'click'" if values[0] is None else "values such as"
    note = next(note for note in notes if f"! {name!r} has {said}" in note)
    frame_of = {"log": frame}
    exec(note.partition("write it as ")[2].partition(", and set")[0], frame_of)
    assert frame["click"].sum() == (frame[name] == values[values[0] is None]).sum() > 0


def test_columns_measured_after_an_ad_was_shown_are_left_out(tmp_path: pathlib.Path) -> None:
    later = ("viewable", "time_in_view", "hover_ms", "scroll_depth", "watched_pct", "bounce")
    before = ("page_depth", "time_of_day", "last_session_duration")
    rng = np.random.default_rng(1)
    numbers = {name: rng.integers(0, 90, ROWS) for name in (*later, *before)}
    path = write(tmp_path / "log.csv", impressions(clicked=np.arange(ROWS) % 4 == 0, **numbers))
    proposal, notes = infer.propose([path])
    assert {*before} <= {field["name"] for field in proposal["fields"]}
    left_out = next(note for note in notes if "known only after the ad was shown" in note)
    assert all(repr(name) in left_out for name in later)


def test_conversions_are_joined_by_the_ids_of_clicks(tmp_path: pathlib.Path) -> None:
    frame = pd.DataFrame(impressions()).assign(impression_id=[f"i{n}" for n in range(ROWS)])
    clicks = pd.DataFrame({"impression_id": frame.impression_id[::4], "ts": 1})
    clicks["click_id"] = [f"c{n}" for n in range(len(clicks))]
    conversions = pd.DataFrame({"click_id": [*clicks.click_id[::5], "c0"], "value_usd": 2.5})
    tables = {"impressions": frame, "clicks": clicks, "conversions": conversions}
    paths = [write(tmp_path / f"{name}.csv", table) for name, table in tables.items()]
    with pytest.raises(ValueError, match="have different rows; expected") as refused:
        infer.propose(paths)
    log = pd.read_csv(follow(refused, tmp_path, "log.csv"))
    assert log[["click", "conversions", "revenue"]].sum().tolist() == [100, 20, 52.5]


def test_the_files_of_a_log_with_nested_ads_are_one_table(tmp_path: pathlib.Path) -> None:
    columns = impressions(clicked=np.arange(ROWS) % 4 == 0)
    skus = columns.pop("creative_id")
    frame = pd.DataFrame(columns).assign(product=[{"sku": f"P-{sku}"} for sku in skus])
    paths = [tmp_path / f"part-{part}.parquet" for part in range(2)]
    for part, path in enumerate(paths):
        frame[part::2].to_parquet(path)
    proposal, _ = infer.propose(paths)
    assert proposal["ad_key"] == ["product.sku"]


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_table_of_ads_among_the_files_of_a_log_is_refused_with_its_flag(
    is_wide: bool, tmp_path: pathlib.Path
) -> None:
    log = write(tmp_path / "log.csv", impressions(clicked=np.arange(ROWS) % 4 == 0))
    columns = {"creative_id": range(100, 120), "timestamp": 1, "customer": "acme"}
    # A table of ads may have more columns than the log.
    columns |= {f"property_{number}": number for number in range(9 * is_wide)}
    ads = write(tmp_path / "ads.csv", columns)
    said = rf"ads\.csv has only the key 'creative_id' of .*log\.csv; .*--ads_path={ads}\."
    for paths in ([log, ads], [ads, log]):
        with pytest.raises(ValueError, match=said):
            infer.propose(paths)
    proposal, _ = infer.propose([log], None, ads)
    assert proposal["ad_key"] == ["creative_id"]


def test_the_number_of_a_row_in_one_list_is_not_a_position(tmp_path: pathlib.Path) -> None:
    rows = pd.DataFrame(impressions(clicked=np.arange(ROWS) % 4 == 0)).to_json(orient="records")
    path = tmp_path / "log.json"
    path.write_text(f'{{"data": {rows}}}')
    assert "position" not in infer.propose([path])[0]


def test_lines_that_end_with_a_carriage_return_alone_are_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.csv", impressions())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    with pytest.raises(ValueError, match="its lines end with a carriage return alone; expected"):
        infer.propose([path])


def test_amounts_in_several_currencies_are_named(tmp_path: pathlib.Path) -> None:
    prices = [f"{'$€'[n % 2]}{n % 40}.50" for n in range(ROWS)]
    path = write(tmp_path / "log.csv", impressions(clicked=np.arange(ROWS) % 4 == 0, price=prices))
    _, notes = infer.propose([path])
    said = "! 'price' has amounts in several currencies, such as '$' and '€', which count"
    assert any(note.startswith(said) for note in notes)


def test_a_placeholder_of_many_devices_is_named(tmp_path: pathlib.Path) -> None:
    columns = impressions(clicked=np.arange(ROWS) % 4 == 0)
    del columns["user_id"]
    columns["idfa"] = ["0000" if n % 2 else f"{n % 93:x}-f00" for n in range(ROWS)]
    proposal, notes = infer.propose([write(tmp_path / "log.csv", columns)])
    assert "user_key" not in proposal
    assert any("because 50.0% of the rows have the 'idfa' '0000'" in note for note in notes)


def test_a_report_becomes_a_row_for_each_impression_by_a_recipe(tmp_path: pathlib.Path) -> None:
    numbers = np.arange(ROWS)
    report = {
        "day": TIMES.dt.date,
        "ad_id": numbers % 21,
        "device": [("mobile", "desktop")[n // 21 % 2] for n in range(ROWS)],
        "impressions": 5 + numbers % 7,
        "clicks": numbers % 4,
        "conversions": (numbers % 8 == 3).astype(int),
        "revenue": (numbers % 8 == 3) * 7.5,
        "ctr": (numbers % 4) / (5 + numbers % 7),
    }
    with pytest.raises(ValueError, match="'impressions' and 'clicks' count the") as refused:
        infer.propose([write(tmp_path / "report.csv", report)])
    path = follow(refused, tmp_path, "rows.csv")
    proposal, _ = infer.propose([path])
    roles = [proposal[role] for role in ("click", "engagement", "revenue", "time")]
    assert roles == ["click", "conversion", "revenue", "day"]
    assert sides(proposal) == {"ad_id": "ad", "device": "query"}
    rows = pd.read_csv(path)
    assert len(rows) == report["impressions"].sum()
    # 400 / 4 * (1 + 2 + 3) clicks; 50 conversions of 7.5.
    assert rows[["click", "conversion", "revenue"]].sum().tolist() == [600, 50, 375]


def test_lists_of_objects_in_parquet_are_written_as_json_by_a_recipe(
    tmp_path: pathlib.Path,
) -> None:
    shown, _ = slates(2)
    items = [[{"item_id": ad, "price": 2.5} for ad in own] for own in shown]
    log = {"event_time": TIMES, "user_id": [f"u{n % 30}" for n in range(ROWS)], "items": items}
    pd.DataFrame(log).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(ValueError, match="'items' holds lists of objects") as refused:
        infer.propose([tmp_path / "events.parquet"])
    line = str(refused.value).partition("pandas: ")[2].partition(". Or leave")[0]
    with contextlib.chdir(tmp_path):
        exec(line, {"pd": pd})
    proposal, _ = infer.propose([tmp_path / "events.jsonl"])
    assert (proposal["ad_key"], proposal["time"]) == (["items.item_id"], "event_time")


def test_an_ad_may_be_in_two_columns_and_an_app_is_not_an_ad(tmp_path: pathlib.Path) -> None:
    columns = impressions(app_id="shop")
    ads = columns.pop("creative_id")
    with pytest.raises(ValueError, match="No column looks like an ad id"):
        infer.propose([write(tmp_path / "log.csv", columns)])
    is_list = np.arange(ROWS) % 3 == 0
    columns["list.product_id"] = pd.Series(ads).where(is_list)
    columns["item.product_id"] = pd.Series(ads).where(~is_list)
    proposal, notes = infer.propose([write(tmp_path / "log.csv", columns)])
    note = next(note for note in notes if note.startswith("! 'item.product_id' has the ad in rows"))
    log = pd.DataFrame(columns)
    exec(note.partition("nested: ")[2], {"log": log})
    assert log[proposal["ad_key"][0]].tolist() == ads.tolist()


def test_the_price_that_an_auction_decides_is_not_a_field(tmp_path: pathlib.Path) -> None:
    prices = np.random.default_rng(1).random(ROWS)
    columns = impressions(win_price=prices, floor_price=prices / 2, click=[0, 1] * (ROWS // 2))
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert "win_price" not in sides(proposal)
    assert sides(proposal)["floor_price"] == "query"


def test_the_revenue_of_a_rewarded_video_is_a_label_and_its_reward_is_not_a_field(
    tmp_path: pathlib.Path,
) -> None:
    micros = np.random.default_rng(1).integers(0, 30_000, ROWS)
    columns = impressions(
        revenue_micros=micros, ecpm_micros=micros * 1000, floor_micros=micros // 7,
        reward_granted=np.arange(ROWS) % 5 > 0, video_completed=np.arange(ROWS) % 7 > 0,
        click=[0, 1] * (ROWS // 2),
    )  # fmt: skip
    proposal, _ = infer.propose([write(tmp_path / "log.csv", columns)])
    assert proposal["revenue"] == "revenue_micros"
    assert sides(proposal).keys().isdisjoint({"ecpm_micros", "reward_granted", "video_completed"})
    kinds = {field["name"]: field["kind"] for field in proposal["fields"]}
    assert kinds["floor_micros"] == "numeric"
