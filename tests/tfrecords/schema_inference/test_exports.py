"""Proposed schemas: layouts in which systems of shops and ad tech export their logs."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tfrecords import schema
from tfrecords.schema_inference import proposal as infer

ROWS = 400
TIMES = pd.Series(pd.Timestamp("2024-06-01") + pd.to_timedelta(np.arange(ROWS) * 600, unit="s"))


def write(path: pathlib.Path, columns: Mapping[str, Any]) -> pathlib.Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def write_json(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sides(proposal: dict[str, Any]) -> dict[str, str]:
    schema.schema_from_json(proposal)
    return {field["name"]: field["side"] for field in proposal["fields"]}


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
    proposal, _ = infer.propose([write(tmp_path / "log.csv", log)])
    assert proposal["events"] == {
        "column": "event", "view": [view], "click": [click], "engagement": [purchase]
    }  # fmt: skip


def follow(refused: pytest.ExceptionInfo[ValueError], folder: pathlib.Path) -> pathlib.Path:
    """Runs the lines of pandas in an error, and returns the log that they write."""
    program = str(refused.value).partition("with pandas:\n")[2]
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    return folder / "log.csv"


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("has_ad", [True, False])
def test_clicks_and_conversions_in_other_files_are_joined_by_a_recipe(
    order: tuple[int, ...], has_ad: bool, tmp_path: pathlib.Path
) -> None:
    log = pd.DataFrame(impressions(user_id=[f"u{n % 30}" for n in range(ROWS)]))
    keys = list(log) if has_ad else ["impression_id", "timestamp", "user_id"]
    clicks = log.loc[::4, keys].assign(click_id=range(100))
    conversions = log.loc[::16, ["impression_id"]].assign(value=12.5, conversion_id=range(25))
    # A click converted twice.
    conversions = pd.concat([conversions, conversions[:1]])
    tables = {"impressions": log, "clicks": clicks, "conversions": conversions}
    paths = [write(tmp_path / f"{name}.csv", table) for name, table in tables.items()]
    with pytest.raises(ValueError, match=r"expected the files of one table\. Join") as refused:
        infer.propose([paths[index] for index in order])
    path = follow(refused, tmp_path)
    proposal, notes = infer.propose([path])
    roles = ("ad_key", "click", "engagement", "revenue", "time", "user_key")
    assert [proposal[role] for role in roles] == [
        ["creative_id"], "click", "conversions", "revenue", "timestamp", "user_id"
    ]  # fmt: skip
    joined = pd.read_csv(path)
    assert len(joined) == ROWS
    assert joined[["click", "conversions", "revenue"]].sum().tolist() == [100, 25, 26 * 12.5]


def test_orders_are_joined_with_their_lines_by_a_recipe(tmp_path: pathlib.Path) -> None:
    orders = {"order_id": range(ROWS), "customer_id": np.arange(ROWS) % 30, "created_at": TIMES}
    numbers = np.arange(2 * ROWS)
    lines = {"order_id": numbers // 2, "product_id": numbers * 7 % 20, "price": numbers % 20}
    paths = [write(tmp_path / "orders.csv", orders), write(tmp_path / "lines.csv", lines)]
    with pytest.raises(ValueError, match="lines.csv") as refused:
        infer.propose(paths)
    proposal, _ = infer.propose([follow(refused, tmp_path)])
    assert (proposal["time"], proposal["user_key"]) == ("created_at", "customer_id")


def test_files_of_events_may_lack_the_ad(tmp_path: pathlib.Path) -> None:
    frame = pd.DataFrame(impressions(event="view"))
    frame.loc[1::2, "event"] = "click"
    searches = frame[["timestamp", "user_id"]].assign(event="search", query="x")
    paths = [write(tmp_path / "a.csv", frame), write(tmp_path / "b.csv", searches)]
    assert infer.propose(paths)[0]["ad_key"] == ["creative_id"]
