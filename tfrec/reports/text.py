"""Renders evaluation results and step times as text."""

from collections.abc import Iterator, Mapping

from tfrec import evaluation
from tfrec.reports import shown_metrics
from tfrecords import pages, terminal


def report_as_text(report: evaluation.EvaluationReport) -> str:
    """Returns the tables of one evaluation."""
    funnel = report.funnel
    parts = [*_ranker(report), *_retrieval(report.retrieval)]
    if isinstance(funnel, evaluation.ValueFunnel):
        parts += _value_funnel(funnel)
    else:
        parts += _click_funnel(funnel)
    if report.realized is not None:
        parts += _realized(report.realized)
    parts += [f"Not measured: {line}" for line in shown_metrics.not_measured(report)]
    return "\n".join(parts)


def _ranker(report: evaluation.EvaluationReport) -> Iterator[str]:
    rows = [
        [
            f"  {head}: {label}",
            pages.format_metric(own.value),
            _interval(own),
            pages.format_metric(own.ground_truth),
        ]
        for head, quality in report.ranker.items()
        for label, own in shown_metrics.head_rows(quality)
    ]
    yield f"Ranker, {report.impressions:,} {report.split} impressions"
    yield terminal.text_table(["", "model", "95 % interval", "achievable"], rows)


def _retrieval(quality: evaluation.RetrievalQuality) -> Iterator[str]:
    yield f"Retrieval, {quality.num_clicks:,} test clicks among {quality.num_ads:,} ads"
    if not quality.recommenders:
        return
    names = [shown_metrics.NAMES.get(name, name) for name in quality.recommenders]
    rows = [
        [f"  {label}", *map(pages.format_metric, values)]
        for label, values in shown_metrics.retrieval_rows(quality)
    ]
    yield terminal.text_table(["", *names], rows)
    yield (
        f"  {quality.num_clicks_on_unseen_ads:,} of the clicks are on unseen ads: not shown in "
        "training, not clicked in validation"
    )
    if quality.num_users is not None:
        yield f"  by user: {quality.num_users:,} users, without ads clicked before"


def _value_funnel(funnel: evaluation.ValueFunnel) -> Iterator[str]:
    names = list(funnel.utilities)
    lines = zip(*map(shown_metrics.funnel_lines, funnel.utilities.values()), strict=True)
    rows = [
        [
            f"  {line[0][0]}",
            *(
                cell
                for _, own in line
                for cell in (pages.format_mean(own.value), _interval(own, 2))
            ),
        ]
        for line in lines
    ]
    yield (
        f"Funnel, {funnel.requests} requests: true value of ten ads "
        f"(index: {funnel.index}; {_filters(funnel)})"
    )
    yield terminal.text_table(["", *(c for name in names for c in (name, "95 % interval"))], rows)


def _realized(value: evaluation.RealizedValue) -> Iterator[str]:
    rows = []
    for name, outcomes in value.choosers.items():
        cells = [
            f"{pages.format_metric(own.value)} ({own.simulated:.2f})" for own in outcomes.values()
        ]
        rows.append([f"  {name.replace('_', ' ')}", *cells])
    yield "Ten ads at their positions, expected value per request (one simulated draw)"
    yield terminal.text_table(["", *evaluation.REALIZED_OUTCOMES], rows)


def _click_funnel(funnel: evaluation.ClickFunnel) -> Iterator[str]:
    if not funnel.clicks:
        yield f"Funnel not measured: {funnel.absent}"
        return
    names = {
        "tower": f"tower, {funnel.candidates} of {funnel.ads:,}",
        "ranker": "ranker, ten ads",
    }
    rows = [
        [f"  {names.get(stage, stage)}", pages.format_metric(own.value), _interval(own)]
        for stage, own in funnel.survived.items()
    ]
    rows += [
        [f"  for comparison: {name.replace('_', ' ')}", pages.format_metric(value)]
        for name, value in funnel.baselines.items()
    ]
    yield (
        f"Funnel, {funnel.clicks} held-out clicks: share of clicked ads that remain "
        f"(index: {funnel.index}; {_filters(funnel)})"
    )
    yield terminal.text_table(["  after", "share", "95 % interval"], rows)


def step_times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step on one line."""
    parts = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    return f"Steps: {parts}; total {sum(seconds.values()):.0f} s."


def _filters(funnel: evaluation.ValueFunnel | evaluation.ClickFunnel) -> str:
    return f"filters: {funnel.filters}" if funnel.filters else "no filters"


def _interval(own: evaluation.Estimate, decimals: int = 4) -> str:
    if own.interval is None:
        return ""
    low, high = own.interval
    return f"{low:.{decimals}f}–{high:.{decimals}f}"
