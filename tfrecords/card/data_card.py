"""The data card: what a converted data set holds, and what is wrong with it.

`build_card` gives JSON values; `text` and `html` render them. Every number is exact, over
all rows, unless its place in the card says otherwise.
"""

import dataclasses
from typing import Any

import numpy as np

from tfrecords import reader
from tfrecords.card import ads, rejects, split_counts, statistics, time, warnings
from tfrecords.splits import SPLITS, SplitOptions

_SHARED_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}
_SPLIT_MEANINGS = {
    "order": "by the log's order: the last rows are test, those before them validation. Fair "
    "if the log is in the order of time.",
    "time": "by time: the latest requests are test, those before them validation, as in "
    "production, where tomorrow is predicted from the past.",
    "fraction": "at random, by request. Training sees the same days as test, so metrics are "
    "better than what the future will show.",
    "column": "by the log's own split column.",
    "file": "by file, as the files were given.",
    "leave_last_out": "by user: of each, the last request is test and the one before validation.",
    "leave_fraction_out": "by user: of each, the last share of requests is held out.",
    "leave_random_fraction_out": "by user: of each, a random share of requests is held out. "
    "Training sees later requests of the same user, so metrics are better than what the future "
    "will show.",
}


def build_card(data_set: reader.DataSet) -> dict[str, Any]:
    """Builds the card of a data set, in one pass over its shards.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is not what was written.
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
    """Returns the columns of the log that are keys and labels; None where it has none."""
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
    """Describes how many ads the requests have.

    Args:
        requests: [T] int64 requests by number of ads.

    Returns:
        JSON values: mean, quantiles (of the requests) and `counts`, [length, requests] each.
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
