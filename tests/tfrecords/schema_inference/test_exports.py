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
