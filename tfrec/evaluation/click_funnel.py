"""The funnel of a log whose truth is not planted: held-out clicked ads that survive each stage.

What a log cannot tell is the value of ads that it did not show; what it can tell is whether an
ad that was shown and clicked is still there after each stage. The logging policy chose what was
shown, so that a stage which finds better ads than it is charged all the same: shares are lower
bounds to compare systems by, not values.

Shapes: C clicks, K candidates.
"""

from typing import Any

import numpy as np

from tfrec import calibration, metrics, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import candidates
from tfrecords import reader

STAGES = ("tower", "index", "filters", "ranker")
MAX_CLICKS = 500
NO_CLICKS = {"truth": "held-out clicks", "clicks": 0, "absent": "the split has no clicks"}


def sample(data_set: reader.DataSet, split: str) -> retrieval.Clicks:
    """Reads clicks of a split, at most `MAX_CLICKS`, evenly spaced."""
    return retrieval.read_clicks(data_set, split, MAX_CLICKS)


def measure(
    data_set: reader.DataSet,
    model: ranking.Ranker,
    calibrators: calibration.Calibrators,
    clicks: retrieval.Clicks,
    found: candidates.Candidates,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures which clicked ads survive.

    Args:
        data_set: The converted log.
        model: The ranker.
        calibrators: Its calibrators.
        clicks: [C] held-out clicks, at least one.
        found: The candidates of their requests.
        config: Resamples and their seed.

    Returns:
        `survived`: the share of clicked ads that are among the candidates of the tower, of the
        index, of what filters leave, and in the ranker's ten by utility (every weight 1);
        `lost` by `FUNNEL_STAGES`; `returned`, the last of these shares; `intervals`; `beside`:
        shares of other choosers' ten. The losses add up to 1 − `returned`.
    """
    catalogue = data_set.catalogue()
    features = np.asarray(catalogue.features)
    keep_rate = data_set.schema.negative_keep_rate
    scores = candidates.score(model, calibrators, clicks.query, features, found.filtered, keep_rate)
    weights = dict.fromkeys(model.heads, 1.0)
    order = candidates.first_ten(candidates.utility(weights, scores))
    popular = retrieval.most_clicked(data_set, catalogue, candidates.LIST_LENGTH)
    lists = (found.tower, found.index, found.filtered,
             np.take_along_axis(found.filtered, order, axis=1))  # fmt: skip
    wanted = clicks.ad_rows[:, None]
    left = [np.ones(len(wanted)), *((own == wanted).any(axis=1).astype(float) for own in lists)]
    lost = {stage: left[i] - left[i + 1] for i, stage in enumerate(STAGES)}
    unit = np.arange(len(wanted))
    if clicks.user is not None:
        unit = np.unique(clicks.user, return_inverse=True)[1]
    resamples = metrics.Resamples(unit, config.resamples, config.seed)
    named = {
        **{f"survived_{stage}": left[i + 1] for i, stage in enumerate(STAGES)},
        **{f"lost_{stage}": values for stage, values in lost.items()},
    }
    total, *sums = resamples.sums(np.ones(len(wanted)), *named.values())
    found_intervals = {
        name: metrics.metric_interval(own / total) for name, own in zip(named, sums, strict=True)
    }
    return {
        "truth": "held-out clicks",
        "clicks": len(wanted),
        "weights": weights,
        "survived": {stage: float(left[i + 1].mean()) for i, stage in enumerate(STAGES)},
        "lost": {stage: float(values.mean()) for stage, values in lost.items()},
        "returned": float(left[-1].mean()),
        "intervals": {name: own for name, own in found_intervals.items() if own is not None},
        "beside": {
            "retrieval_top_10": float(
                (found.filtered[:, : candidates.LIST_LENGTH] == wanted).any(axis=1).mean()
            ),
            "popularity_top_10": float((popular == wanted).any(axis=1).mean()),
            "random_10": min(candidates.LIST_LENGTH / len(catalogue), 1.0),
        },
    }
