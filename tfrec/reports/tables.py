"""The tables of an evaluation, for both the page and the terminal."""

from collections.abc import Callable, Iterator, Sequence

from tfrec import evaluation
from tfrec.evaluation import Estimate
from tfrecords import pages

_INTERVAL = "95 % interval"
# Outcomes are partly random, so a lower normalized entropy means that a field copies the label.
_TOO_GOOD = 0.05
# Metric of a head -> label; others have their names as labels, and come behind these.
_HEAD_METRICS = {
    "auc": "AUC",
    "auc_share_of_achievable": "share of achievable AUC",
    "per_user_auc": "per-user AUC",
    "normalized_entropy": "normalized entropy",
    "normalized_entropy_of_zero_part": "normalized entropy, above 0",
    "log_loss": "log loss",
    "normalized_gini": "normalized Gini",
    "expected_calibration_error": "calibration error (ECE)",
    "calibration_ratio": "predicted / observed",
    "ndcg_at_10_logged_lists": "NDCG@10, logged lists",
}
# Part of a recommender's quality and metric -> label.
_RETRIEVAL_METRICS = {
    **{("metrics", f"corpus_recall_at_{k}"): f"recall@{k}, all ads" for k in evaluation.RECALL_AT},
    **{("metrics", f"ndcg_at_{k}"): f"NDCG@{k}, all ads" for k in evaluation.NDCG_AT},
    ("on_unseen_ads", "corpus_recall_at_500"): "recall@500, unseen ads",
    ("metrics", "auc_against_uniform_ads"): "AUC against uniform ads",
    ("metrics", "auc_against_popular_ads"): "AUC against popular ads",
    ("metrics", "catalog_coverage_at_10"): "catalog coverage@10",
    ("metrics", "popularity_percentile_at_10"): "popularity percentile@10",
    ("excluding_seen", "corpus_recall_at_10"): "recall@10 by user",
    ("excluding_seen", "corpus_recall_at_20"): "recall@20 by user",
    ("excluding_seen", "ndcg_at_10"): "NDCG@10 by user",
    ("excluding_seen", "ndcg_at_20"): "NDCG@20 by user",
}


def head_table(report: evaluation.EvaluationReport) -> pages.PageTable:
    """Returns the metrics of the heads, next to their ceilings if there is ground truth."""
    has_truth = isinstance(report.funnel, evaluation.ValueFunnel)
    head = ["", "value", _INTERVAL, *(["achievable"] if has_truth else [])]
    rows = []
    for name, quality in report.ranker.items():
        for metric in dict.fromkeys([*_HEAD_METRICS, *quality.metrics]):
            estimate = quality.metrics.get(metric)
            if estimate is not None and estimate.value is not None:
                ceiling = [pages.format_metric(estimate.ground_truth)] if has_truth else []
                rows.append([f"{name}: {_label(metric)}", *_cells(estimate), *ceiling])
    return pages.PageTable(head, rows)


def heads_in_words(report: evaluation.EvaluationReport) -> Iterator[str]:
    """Yields the weights of the heads, and which heads are too good or weak, and why."""
    if report.weights:
        weights = ", ".join(f"{head} {weight:.4g}" for head, weight in report.weights.items())
        yield f"Default weights of the utility ({report.weights_source}): {weights}"
    for head, quality in report.ranker.items():
        for name in ("normalized_entropy", "normalized_entropy_of_zero_part"):
            value = quality.metrics.get(name, Estimate()).value
            if value is not None and value < _TOO_GOOD:
                yield (
                    f"{head} is too good to be true: its {_label(name)} is below "
                    f"{_TOO_GOOD}, so a field probably contains the label. Remove fields that are "
                    "known only after an ad was shown; the data card names each field that "
                    "predicts the clicks on its own"
                )
    for head, why in report.weak_heads.items():
        yield f"{head} is weak: {why}"


def not_measured(report: evaluation.EvaluationReport) -> Iterator[str]:
    """Yields the metrics without a value, and why."""
    if report.without_ranker is not None:
        yield f"the ranker: not trained, because {report.without_ranker}"
    for head in report.absent_heads:
        unnamed = head in report.unnamed_heads
        why = f"the schema names no {head}" if unnamed else "no training row has a positive label"
        yield f"{head}: {why}, so the head is neither trained nor served"
    for head, quality in report.ranker.items():
        if not quality.labeled:
            yield f"{head}: no row of the split has the label"
        for name, estimate in quality.metrics.items():
            if estimate.absent is not None:
                yield f"{head}, {_label(name)}: {estimate.absent}"
    funnel = report.funnel
    if (
        isinstance(funnel, evaluation.ValueFunnel)
        and funnel.utilities["utility"].over_all_ads is None
    ):
        yield f"funnel, ranker over all ads: it would take too long for {funnel.ads:,} ads"
    for name, reason in report.retrieval.absent.items():
        yield f"retrieval, {_words(name)}: {reason}"


def retrieval_table(quality: evaluation.RetrievalQuality) -> pages.PageTable:
    """Returns the metrics of the recommenders that at least one of them has."""
    rows = []
    for (part, metric), label in _RETRIEVAL_METRICS.items():
        parts = [getattr(recommender, part) or {} for recommender in quality.recommenders.values()]
        if any(metric in metrics for metrics in parts):
            rows.append([label, *(pages.format_metric(metrics.get(metric)) for metrics in parts)])
    uniform = quality.uniform_exposure
    if uniform is not None:
        recalls = (uniform.corpus_recall_at_500.get(name) for name in quality.recommenders)
        cells = (pages.format_metric(None if share is None else share.value) for share in recalls)
        rows.append(["recall@500, uniform exposure", *cells])
    return pages.PageTable(["", *map(_words, quality.recommenders)], rows)


def weak_towers_in_words(quality: evaluation.RetrievalQuality) -> Iterator[str]:
    """Yields a warning if the two-tower model is no better than popularity or chance."""
    # Longer lists, even random ones, contain most of a small catalog.
    k = max((k for k in evaluation.RECALL_AT if 2 * k <= quality.num_ads), default=None)
    recall = {
        name: recommender.metrics.get(f"corpus_recall_at_{k}")
        for name, recommender in quality.recommenders.items()
    }
    two_tower = recall.get("two_tower")
    if two_tower is None:
        return
    better = [
        f"{name} ({pages.format_metric(value)})"
        for name in ("popularity", "random")
        if (value := recall.get(name)) is not None and two_tower <= value
    ]
    if better:
        yield (
            f"The two-tower model is no better than {' and '.join(better)} at finding held-out "
            f"clicks: its recall@{k} is {pages.format_metric(two_tower)}. A larger log may help, "
            "and so may fields that tell users or ads apart"
        )


def uniform_exposure_in_words(quality: evaluation.RetrievalQuality) -> Iterator[str]:
    """Yields the meaning of recall under uniform exposure, and its share of the achievable."""
    uniform = quality.uniform_exposure
    if uniform is not None:
        yield (
            f"Uniform exposure, {uniform.requests:,} requests: clicks are expected as if every ad "
            "were shown with the same probability. The two-tower model reaches "
            f"{share_in_words(uniform.share_of_achievable)} of the recall of an ideal model, which "
            "orders ads by true click probability"
        )


def funnel_lines(
    measured: evaluation.UtilityFunnel | evaluation.ClickFunnel,
) -> list[tuple[str, Estimate]]:
    """Returns the best possible value, the loss of each stage, and the returned value."""
    if isinstance(measured, evaluation.UtilityFunnel):
        first, last = ("best possible", measured.best_possible), ("returned", measured.returned)
    else:
        first = ("clicked ads", Estimate(value=1.0))
        last = ("in the ten", list(measured.survived.values())[-1])
    lost = ((f"lost by {_words(stage)}", value) for stage, value in measured.lost.items())
    return [first, *lost, last]


def utility_table(measured: evaluation.UtilityFunnel) -> pages.PageTable:
    """Returns the value that each stage loses, and the value of ten ads chosen otherwise."""

    def row(label: str, mean: Estimate, best: float | None) -> list[str]:
        return [
            label,
            *_cells(mean, pages.format_mean),
            pages.format_percent(mean.value / best if best and mean.value is not None else None),
        ]

    lines = funnel_lines(measured)
    if len(measured.head_known) > 1:
        lines += [(f"if {head} were known", mean) for head, mean in measured.head_known.items()]
    lines += [(f"for comparison: {_words(key)}", mean) for key, mean in measured.baselines.items()]
    rows = [row(label, mean, measured.best_possible.value) for label, mean in lines]
    ranker = measured.over_all_ads
    if ranker is not None:
        best = ranker.best_possible.value
        rows += [
            row(f"best possible, {ranker.requests} requests", ranker.best_possible, best),
            row("ranker over all ads, same requests", ranker.ranker, best),
            row("returned, same requests", ranker.returned, best),
        ]
    return pages.PageTable(["", "value", _INTERVAL, "share of best"], rows)


def retrieved_list_table(funnel: evaluation.ValueFunnel) -> pages.PageTable:
    """Returns the NDCG of the ranker's order of the candidates."""
    ndcg = funnel.ndcg_at_10_retrieved_lists
    return pages.PageTable(
        ["", "NDCG@10", _INTERVAL], [[name, *_cells(estimate)] for name, estimate in ndcg.items()]
    )


def promise_table(measured: evaluation.UtilityFunnel) -> pages.PageTable:
    """Returns the expected and the true value of the ten ads."""
    rows = [
        [
            head,
            pages.format_mean(promise.expected.value),
            pages.format_mean(promise.expected.ground_truth),
            *_cells(promise.ratio),
            *_cells(promise.ratio_of_candidates),
        ]
        for head, promise in measured.promised.items()
    ]
    ratio = "expected / true"
    head = ["", "expected", "true", ratio, _INTERVAL, f"{ratio}, all candidates", _INTERVAL]
    return pages.PageTable(head, rows)


def click_table(funnel: evaluation.ClickFunnel) -> pages.PageTable:
    """Returns the shares of clicked ads that remain after each stage, and in simpler systems."""
    lines = [(f"after {_words(stage)}", share) for stage, share in funnel.survived.items()]
    lines += [(f"for comparison: {_words(key)}", share) for key, share in funnel.baselines.items()]
    rows = [[label, *_cells(share, pages.format_percent)] for label, share in lines]
    return pages.PageTable(["", "share", _INTERVAL], rows)


def clicks_in_words(report: evaluation.EvaluationReport) -> Iterator[str]:
    """Yields how to interpret a share of held-out clicks."""
    funnel = report.funnel
    if not isinstance(funnel, evaluation.ClickFunnel) or not funnel.clicks:
        return
    yield (
        "A held-out click is on an ad that was shown and clicked, so these shares reward agreement "
        "with the exposure (by the logging policy, or by the users' choice) as well as with the "
        "clicks. Popularity, and towers trained on clicks alone, model the exposure; the ranker, "
        "and towers distilled from it, estimate the probability of a click on a shown ad. A lower "
        "share for the latter therefore does not mean a worse order"
    )
    if funnel.leaves_out_seen:
        yield (
            "Fewer than 1 % of the held-out clicks repeat an earlier click of the user, so all "
            "lists leave out the ads that the user clicked before"
        )
    if "ranker_by_click_alone" in funnel.baselines:
        yield (
            "The ten returned ads have the greatest utility, which includes more than clicks; the "
            "row for the ranker by click alone orders the same candidates by click probability"
        )
    if report.order_of_shown_ads:
        yield "On ads that were shown, the orders compare as follows"


def shown_ad_table(report: evaluation.EvaluationReport) -> pages.PageTable:
    """Returns how the ranker, retrieval and popularity order the ads that were shown."""
    orders = report.order_of_shown_ads
    rows = []
    for metric in next(iter(orders.values()), {}):
        estimates = [order[metric] for order in orders.values()]
        if any(estimate.value is not None for estimate in estimates):
            cells = (cell for estimate in estimates for cell in _cells(estimate))
            rows.append([f"click: {_HEAD_METRICS[metric]}", *cells])
    head = [cell for name in orders for cell in (_words(name), _INTERVAL)]
    return pages.PageTable(["", *head], rows)


def segment_table(cuts: dict[str, Sequence[evaluation.Segment]]) -> pages.PageTable:
    """Returns the quality of a head in each segment."""
    head = ["", "rows", "observed", "predicted", "AUC", _INTERVAL, "normalized entropy",
            "predicted / observed", _INTERVAL]  # fmt: skip
    rows = []
    for name, segments in cuts.items():
        for segment in segments:
            metrics = segment.metrics
            rows.append(
                [
                    f"{name}: {segment.value}",
                    pages.format_count(segment.rows),
                    pages.format_percent(metrics["observed"].value),
                    pages.format_percent(metrics["predicted"].value),
                    *_cells(metrics["auc"]),
                    pages.format_metric(metrics["normalized_entropy"].value),
                    *_cells(metrics["calibration_ratio"]),
                ]
            )
    return pages.PageTable(head, rows)


def share_in_words(share: Estimate) -> str:
    """Returns a share in percent, with its interval."""
    value, interval = _cells(share, pages.format_percent)
    return f"{value} ({interval})"


def _cells(
    estimate: Estimate, form: Callable[[float | None], str] = pages.format_metric
) -> tuple[str, str]:
    return form(estimate.value), pages.format_interval(estimate.interval, form)


def _label(metric: str) -> str:
    return _HEAD_METRICS.get(metric, _words(metric))


def _words(name: str) -> str:
    if name == "ease":
        return "EASE"
    return name.replace("_", " ")
