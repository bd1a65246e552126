"""The funnel of a log without ground truth: held-out clicked ads that survive each stage.

A log does not say the value of ads that it did not show, but it says whether an ad that was shown
and clicked is still there after each stage. The logging policy chose the shown ads, so a stage
that finds better ads loses too: shares are lower bounds for comparing systems, not values.

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
        calibrators: The ranker's calibrators.
        clicks: [C] held-out clicks, at least one.
        found: The candidates of their requests.
        config: Resamples and their seed.

    Returns:
        `survived`: the shares of clicked ads among the candidates of the tower, of the index,
        after filters, and in the ranker's ten by utility (with the default weights); `lost` by
        stage; `returned`, the last of these shares; `intervals`; `beside`: the shares of the ten
        ads of other choosers. The losses add up to 1 − `returned`.
    """
    catalogue = data_set.catalogue()
    features = np.asarray(catalogue.features)
    keep_rate = data_set.schema.negative_keep_rate
    scores = candidates.score(model, calibrators, clicks.query, features, found.filtered, keep_rate)
    weights = candidates.default_weights(model)
    ranked = candidates.best_ten(found.filtered, candidates.utility(weights, scores))
    popular = retrieval.most_clicked(data_set, catalogue, candidates.LIST_LENGTH)
    wanted = clicks.ad_rows[:, None]
    stages = dict(zip(STAGES, (found.tower, found.index, found.filtered, ranked), strict=True))
    survived = {stage: (rows == wanted).any(axis=1).astype(float) for stage, rows in stages.items()}
    before = [np.ones(len(wanted)), *survived.values()]
    values = {f"survived_{stage}": own for stage, own in survived.items()}
    values |= {f"lost_{stage}": before[i] - own for i, (stage, own) in enumerate(survived.items())}
    unit = np.arange(len(wanted))
    if clicks.user is not None:
        unit = np.unique(clicks.user, return_inverse=True)[1]
    resamples = metrics.Resamples(unit, config.resamples, config.seed)
    total, *sums = resamples.sums(np.ones(len(wanted)), *values.values())
    samples = {name: own / total for name, own in zip(values, sums, strict=True)}
    means = {name: float(own.mean()) for name, own in values.items()}
    return {
        "truth": "held-out clicks",
        "clicks": len(wanted),
        "weights": weights,
        "survived": {stage: means[f"survived_{stage}"] for stage in STAGES},
        "lost": {stage: means[f"lost_{stage}"] for stage in STAGES},
        "returned": means[f"survived_{STAGES[-1]}"],
        "intervals": metrics.intervals(samples),
        "beside": {
            "retrieval_top_10": float(
                (found.filtered[:, : candidates.LIST_LENGTH] == wanted).any(axis=1).mean()
            ),
            "popularity_top_10": float((popular == wanted).any(axis=1).mean()),
            "random_10": min(candidates.LIST_LENGTH / len(catalogue), 1.0),
        },
    }
