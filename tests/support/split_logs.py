"""A small log that names the split of each row, and the same log with some splits poisoned.

Requests show one to four ads. The log has users, numbers, lists, all three labels, and a catalog
most of whose ads are never shown, so that every part of both models is trained and an index has
cells. Splits that are not poisoned stay the same, byte for byte.
"""

import collections
import csv
import pathlib
from collections.abc import Callable, Sequence

import logs
import numpy as np

from tfrecords import encoding, reader
from tfrecords import schema as schema_lib

NUM_REQUESTS = {"train": 300, "validation": 120, "test": 60}
NUM_USERS, NUM_SHOWN_ADS, NUM_ADS = 20, 40, 1_100
SCHEMA = schema_lib.Schema(
    "splits",
    (
        schema_lib.Field("user", "categorical", "query", min_count=2),
        schema_lib.Field("hour", "numeric", "query"),
        schema_lib.Field("interests", "categorical_list", "query", max_list_length=4, min_count=2),
        schema_lib.Field("ad", "categorical", "ad", min_count=2),
        schema_lib.Field("category", "categorical", "ad", min_count=2),
        schema_lib.Field("price", "numeric", "ad"),
    ),
    ad_key=("ad",),
    click="click",
    engagement="engagement",
    revenue="revenue",
    request_key="request",
    position="slot",
    user_key="user",
    split="split",
)

Row = dict[str, str]
Poison = Callable[[Row], Row]


def rows() -> list[Row]:
    """Returns the rows of the log, one split after the other."""
    rng = np.random.default_rng(11)
    users, ads = rng.normal(size=(NUM_USERS, 3)), rng.normal(size=(NUM_SHOWN_ADS, 3))
    splits = [split for split, count in NUM_REQUESTS.items() for _ in range(count)]
    return [
        row
        for request, split in enumerate(splits)
        for row in _request(request, split, users, ads, rng)
    ]


def _request(
    request: int, split: str, users: np.ndarray, ads: np.ndarray, rng: np.random.Generator
) -> list[Row]:
    user = int(rng.integers(NUM_USERS))
    shared = {
        "request": f"r{request}",
        "split": split,
        "user": f"u{user}",
        "hour": str(rng.integers(24)),
        "interests": "|".join(f"i{number}" for number in rng.choice(12, rng.integers(1, 4))),
    }
    result = []
    for slot, ad in enumerate(rng.choice(NUM_SHOWN_ADS, rng.integers(1, 5), replace=False)):
        logit = 2.0 * users[user] @ ads[ad] - 0.5 * slot - 0.5
        click = int(rng.random() < 1 / (1 + np.exp(-logit)))
        engagement = int(click and rng.random() < 0.5)
        values = {
            "ad": f"a{ad}",
            "slot": str(slot),
            "click": str(click),
            "engagement": str(engagement),
            "revenue": f"{engagement * rng.uniform(1, 3):.2f}",
        }
        result.append({**shared, **values})
    return result


def with_other_labels(row: Row) -> Row:
    """Returns a row with opposite labels."""
    click = 1 - int(row["click"])
    return {
        **row,
        "click": str(click),
        "engagement": str(click),
        "revenue": "900.00" if click else "0.00",
    }


def with_other_values(row: Row) -> Row:
    """Returns a row with a user and values that no other split has, and with another shown ad.

    The ad cannot be a new one, because the catalog has the ads of all splits.
    """
    return {
        **row,
        "user": f"poison-{row['user']}",
        "hour": str(1_000 + int(row["hour"])),
        "interests": "|".join(f"poison-{value}" for value in row["interests"].split("|")),
        "ad": f"a{(int(row['ad'][1:]) + 17) % NUM_SHOWN_ADS}",
        "slot": str(3 - int(row["slot"])),
    }


def convert(
    directory: pathlib.Path,
    schema: schema_lib.Schema = SCHEMA,
    **poisons: Sequence[Poison],
) -> reader.DataSet:
    """Writes the log into a new directory, and converts it; `poisons` are by split."""
    directory.mkdir(parents=True)
    log, ads = directory / "log.csv", directory / "ads.csv"
    with log.open("w", newline="") as file:
        written = rows()
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        for row in written:
            for poison in poisons.get(row["split"], ()):
                row = poison(row)
            writer.writerow(row)
    lines = [f"a{ad},c{ad % 7},{ad % 13}" for ad in range(NUM_ADS)]
    ads.write_text("\n".join(["ad,category,price", *lines]) + "\n")
    return logs.converted_table(log, directory / "data", schema, ads_path=ads)


def count_clicks(data_set: reader.DataSet, *splits: str) -> collections.Counter[tuple[int, int]]:
    """Counts the clicks of splits by the user's fingerprint and the ad's row in the catalog."""
    row_of_ad = {ad: row for row, ad in enumerate(data_set.catalog().ad_ids.to_pylist())}
    return collections.Counter(
        (int(encoding.fingerprint(row["user"])), row_of_ad[row["ad"]])
        for row in rows()
        if row["click"] == "1" and row["split"] in splits
    )
