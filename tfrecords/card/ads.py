"""The distribution of impressions and clicks over ads, and new ads in held-out splits.

Shapes: N ads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrecords import reader
from tfrecords.card import split_counts, statistics

_CURVE_POINTS = 120
_RANKS = (1, 10, 100, 1_000, 10_000, 100_000)
_TOP_ADS = 10
Counts = Mapping[str, split_counts.SplitCounts]


def describe(data_set: reader.DataSet, counts: Counts) -> dict[str, Any]:
    """Describes the ads.

    Popularity is counted in the training rows of the log, without sampled negatives.

    Args:
        data_set: The data set.
        counts: Counts of each split.

    Returns:
        JSON values.
    """
    catalogue = data_set.catalogue()
    impressions, clicks = catalogue.impressions, catalogue.clicks
    changed = data_set.description.impressions_of_changed_ads
    sampled = sum(data_set.description.splits[split].sampled for split in counts)
    logged = sum(of_split.rows for of_split in counts.values()) - sampled
    most_shown = np.argsort(-impressions, kind="stable")[:_TOP_ADS]
    names = catalogue.ad_ids.take(most_shown).to_pylist()
    total = int(impressions.sum())
    return {
        "count": len(catalogue),
        "shown_in_training": int((impressions > 0).sum()),
        "clicked_in_training": int((clicks > 0).sum()),
        "impressions_of_changed_ads": changed,
        "changed_share": changed / logged if logged else None,
        "most_shown": [
            {
                "ad_id": name,
                "impressions": int(impressions[place]),
                "share": int(impressions[place]) / max(total, 1),
                "click_rate": int(clicks[place]) / max(int(impressions[place]), 1),
            }
            for name, place in zip(names, most_shown.tolist(), strict=True)
            if impressions[place]
        ],
        "popularity": popularity(impressions, clicks),
        "new": {
            split: new_ads(impressions, counts[split], bool(sampled))
            for split in counts
            if split != "train"
        },
    }


def popularity(impressions: np.ndarray, clicks: np.ndarray) -> dict[str, Any]:
    """Returns the cumulative shares of the most popular ads.

    Args:
        impressions: Impressions of each ad [N].
        clicks: Clicks of each ad [N].

    Returns:
        `curve`: ranks, and the share of impressions and of clicks of the ads up to each rank, by
        descending impressions or clicks. `top`: the same at round ranks.
    """
    shares = {}
    for name, values in (("impressions", impressions), ("clicks", clicks)):
        falling = np.cumsum(np.sort(values)[::-1])
        shares[name] = falling / max(int(values.sum()), 1)
    num_ads = len(impressions)
    ranks = np.unique(np.geomspace(1, max(num_ads, 1), _CURVE_POINTS).round().astype(int))
    round_ranks = [rank for rank in _RANKS if rank < num_ads]
    return {
        "curve": {"rank": ranks.tolist(), **{n: s[ranks - 1].tolist() for n, s in shares.items()}},
        "top": [
            {"rank": rank, **{n: float(s[rank - 1]) for n, s in shares.items()}}
            for rank in round_ranks
        ],
    }


def new_ads(train: np.ndarray, split: split_counts.SplitCounts, sampled: bool) -> dict[str, Any]:
    """Counts the ads of a split that training never shows.

    Args:
        train: Impressions in training [N].
        split: Counts of the split.
        sampled: Whether requests have sampled negatives, which are not in the log: then only
            clicked ads are counted.
    """
    new = train == 0
    own = split.ad_clicks if sampled else split.ad_impressions
    return {
        "counted": "clicks" if sampled else "impressions",
        "ads": int((new & (own > 0)).sum()),
        "of_ads": int((own > 0).sum()),
        "share": statistics.share(int(own[new].sum()), int(own.sum())),
        "share_of_clicks": statistics.share(
            int(split.ad_clicks[new].sum()), int(split.ad_clicks.sum())
        ),
    }
