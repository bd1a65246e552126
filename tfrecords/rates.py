"""Rates: how often ads with a value are clicked or engaged with lately, as fields of the ad.

    {"name": "category_click_rate", "kind": "numeric", "of": "category", "event": "click",
     "max_age_days": 7}

A rate is never read from the log: conversion computes it for each row, of the impressions before
the row's request. Tastes and seasons change, and it tells a model what it could not learn from
older rows. The rules:

-   It is of a value of an ad-side categorical field, or of the ad itself (`of` is `ad`).
-   Impressions strictly before the request count that are at most `max_age_days` old and have a
    label of the event. A value without any has no rate: it is missing.
-   A click or engagement counts from the time of its impression or, in a log of events, from its
    own time. There, more events than impressions may be recent; a rate is at most 1.
-   With an engagement window, a rate of engagements counts an impression and its engagement once
    the window of the impression has passed.
-   It is smoothed: `SMOOTHING` impressions with the rate of the whole training log are added.
-   Models are measured with catalog rates at the time of the last request that is not a test
    request: in a log that is split by time, no test label is in them. A release has those of the
    end of the log. Rows without a label, and times beyond those of nearly all rows, do not move
    these times.
-   The ranker reads rates. The towers do not: the catalog's rates count the clicks that they learn
    from, and an index would keep old ones. The ranker teaches them what it knows.

References:
    Chapelle, Manavoglu and Rosales, Simple and Scalable Response Prediction for Display
    Advertising, 2014, §3.5 (counts of past events as features).
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §6 (historical
    features matter more than contextual ones).
"""

import numpy as np

SMOOTHING = 50.0


def smoothed(events: np.ndarray, impressions: np.ndarray, overall: float) -> np.ndarray:
    """Returns rates, float64 of any shape; NaN without impressions.

    Args:
        events: Numbers of events.
        impressions: Numbers of impressions, of the same shape.
        overall: The rate of all impressions in training.
    """
    rates = (events + SMOOTHING * overall) / (impressions + SMOOTHING)
    return np.where(impressions > 0, np.minimum(rates, 1.0), np.nan)
