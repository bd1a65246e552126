"""The data card: content and problems of a converted data set.

`build_card` returns JSON values; `text` and `html` render them. All numbers are exact counts over
all rows, unless the card says otherwise.
"""

import dataclasses
from typing import Any

import numpy as np

from tfrecords import reader
from tfrecords.card import ads, rejects, split_counts, statistics, time, warnings
from tfrecords.splits import SPLITS, SplitOptions

_SHARED_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}
_SPLIT_MEANINGS = {
    "order": "by the order of the log: the last rows are test, those before them validation. "
    "Realistic if the log is in order of time.",
    "time": "by time: the latest requests are test, those before them validation, as in "
    "production, where the future is predicted from the past.",
    "fraction": "at random, by request. Training sees the same days as test, so metrics are "
    "better than in production.",
    "column": "by the split column of the log.",
    "file": "by file.",
    "leave_last_out": "by user: the last request of each user is test, the one before validation.",
    "leave_fraction_out": "by user: the last share of each user's requests is held out.",
    "leave_random_fraction_out": "by user: a random share of each user's requests is held out. "
    "Training sees later requests of the same user, so metrics are better than in production.",
}


def build_card(data_set: reader.DataSet) -> dict[str, Any]:
    """Builds the card of a data set in one pass over its shards.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is damaged.
    """
    description = data_set.description
    profile = data_set.profile()
    distinct = profile["num_distinct"]
    counts = {split: split_counts.count_split(data_set, split) for split in SPLITS}
    source = description.source
    card: dict[str, Any] = {
        "name": data_set.schema.name,
        "directory": str(data_set.directory),
        "fingerprint": data_set.fingerprint,
        "source": source.model_dump(include={"paths", "format", "lines"}),
        "split": _split(description.split),
        "keys": _keys(data_set),
        "sampled_negatives": description.sampled_negatives,
        "engagement_window_seconds": description.engagement_window_seconds,
        "rows_inside_engagement_window": description.rows_inside_engagement_window,
        "splits": {
            split: _of_split(of_split, description.splits[split].sampled)
            for split, of_split in counts.items()
        },
        "time": time.describe(profile["time"]),
        "fields": [
            statistics.field(data_set.fitted, field, counts, distinct.get(field.name))
            for field in data_set.schema.fields
        ],
        "varying": description.rows_of_varying_query_fields,
        "rows_of_other_users": description.rows_of_other_users,
        "ads": ads.describe(data_set, counts),
        "rejected": rejects.describe(data_set.directory / "rejected.tsv", source.lines),
    }
    card["warnings"] = warnings.find(card)
    return card


def _split(options: SplitOptions) -> dict[str, Any]:
    return {**dataclasses.asdict(options), "meaning": _SPLIT_MEANINGS[options.kind]}


def _keys(data_set: reader.DataSet) -> dict[str, Any]:
    """Returns the columns of keys and labels; None if the log has no such column."""
    schema = data_set.schema
    names = ("request_key", "time", "user_key", "position", "click", "engagement", "revenue")
    return {
        "ad_key": list(schema.ad_key),
        **{name: getattr(schema, name) for name in names},
        "click_threshold": schema.click_threshold,
        "negative_keep_rate": schema.negative_keep_rate,
    }


def _of_split(counts: split_counts.SplitCounts, sampled: int) -> dict[str, Any]:
    return {
        "rows": counts.rows,
        "requests": counts.requests,
        "sampled": sampled,
        "requests_with_click": counts.clicked_requests,
        "share_with_click": (
            counts.clicked_requests / counts.requests if counts.labels["click"].known else None
        ),
        "engaged_without_click": counts.engaged_without_click,
        "labels": {
            label: {
                "known": own.known,
                "missing": counts.rows - own.known,
                "positive": own.positive,
                "rate": own.positive / own.known if own.known else None,
                "mean": own.total / own.known if own.known else None,
            }
            for label, own in counts.labels.items()
        },
        "list_lengths": list_lengths(counts.list_lengths),
    }


def list_lengths(requests: np.ndarray) -> dict[str, Any]:
    """Describes the number of ads of requests.

    Args:
        requests: Number of requests by number of ads [T] int64.

    Returns:
        JSON values: mean, quantiles over requests, and `counts`, pairs of a length and its number
        of requests.
    """
    present = np.flatnonzero(requests)
    total = int(requests.sum())
    if not total:
        return {"mean": None, "counts": []}
    up_to = np.cumsum(requests[present])
    quantiles = {
        name: int(present[np.searchsorted(up_to, share * total)])
        for name, share in _SHARED_QUANTILES.items()
    }
    return {
        "mean": float((present * requests[present]).sum() / total),
        "min": int(present[0]),
        **quantiles,
        "max": int(present[-1]),
        "one_ad": float(requests[1] / total),
        "counts": [[int(length), int(requests[length])] for length in present],
    }
