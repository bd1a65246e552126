"""The distribution of impressions and clicks over ads, and new ads in held-out splits.

Shapes: N ads.
"""

from collections.abc import Mapping

import numpy as np

from tfrecords import reader
from tfrecords.card import model, split_counts, statistics

_CURVE_POINTS = 120
_RANKS = (1, 10, 100, 1_000, 10_000, 100_000)
_TOP_ADS = 10


def describe(
    data_set: reader.DataSet, counts: Mapping[str, split_counts.SplitCounts]
) -> model.AdsSummary:
    """Describes the ads.

    Popularity is counted in the training rows of the log, without sampled negatives.
    """
    catalog = data_set.catalog()
    impressions, clicks = catalog.impressions, catalog.clicks
    changed = data_set.description.impressions_of_changed_ads
    sampled = sum(data_set.description.splits[split].sampled for split in counts)
    logged = sum(counted.rows for counted in counts.values()) - sampled
    top = np.argsort(-impressions, kind="stable")[:_TOP_ADS]
    names = catalog.ad_ids.take(top).to_pylist()
    shown = catalog.shown(top)
    total = int(impressions.sum())
    ranks = np.geomspace(1, max(len(catalog), 1), _CURVE_POINTS).round().astype(int)
    round_ranks = np.array([rank for rank in _RANKS if rank < len(catalog)], int)
    return model.AdsSummary(
        count=len(catalog),
        shown_in_training=int((impressions > 0).sum()),
        clicked_in_training=int((clicks > 0).sum()),
        impressions_of_changed_ads=changed,
        changed_share=statistics.share(changed, logged),
        most_shown=[
            model.ShownAd(
                ad_id=name,
                show=show,
                impressions=int(impressions[position]),
                share=int(impressions[position]) / total,
                click_rate=int(clicks[position]) / int(impressions[position]),
            )
            for name, show, position in zip(names, shown, top.tolist(), strict=True)
            if impressions[position]
        ],
        curve=_popularity(impressions, clicks, np.unique(ranks)),
        top=_popularity(impressions, clicks, round_ranks),
        written_twice=statistics.written_twice(catalog.ad_ids),
        written_as_float=statistics.written_as_float(catalog.ad_ids),
        new={
            split: _new_ads(impressions, counted, bool(sampled))
            for split, counted in counts.items()
            if split != "train"
        },
    )


def _popularity(
    impressions: np.ndarray, clicks: np.ndarray, ranks: np.ndarray
) -> model.PopularityCurve:
    """Returns the popularity at some ranks, by descending impressions [N] or clicks [N]."""

    def shares(values: np.ndarray) -> list[float]:
        falling = np.cumsum(np.sort(values)[::-1])
        return (falling[ranks - 1] / max(int(values.sum()), 1)).tolist()

    return model.PopularityCurve(
        rank=ranks.tolist(), impressions=shares(impressions), clicks=shares(clicks)
    )


def _new_ads(train: np.ndarray, split: split_counts.SplitCounts, sampled: bool) -> model.NewAds:
    """Counts the ads of a split that are never shown in training, whose impressions are [N].

    If requests have sampled negatives, which are not in the log, only clicked ads are counted.
    """
    new = train == 0
    ad_counts = split.ad_clicks if sampled else split.ad_impressions
    return model.NewAds(
        counted="clicks" if sampled else "impressions",
        ads=int((new & (ad_counts > 0)).sum()),
        of_ads=int((ad_counts > 0).sum()),
        share=statistics.share(int(ad_counts[new].sum()), int(ad_counts.sum())),
        share_of_clicks=statistics.share(
            int(split.ad_clicks[new].sum()), int(split.ad_clicks.sum())
        ),
    )
