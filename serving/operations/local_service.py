"""Runs a complete recommender in this process: bundle, ranker client and orchestrator."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence

from serving import model_config, model_server, orchestrator, ranker, releases, requests
from serving.impressions import ImpressionLog
from tfrecords import terminal

# Maximum widths of a table of ads, of its shown values together, and of an ad id.
_WIDTH = 100
_SHOWN_WIDTH = 41
_ID_WIDTH = 24


@contextlib.asynccontextmanager
async def open_service(
    base: pathlib.Path,
    version: int | None,
    ranker_address: str | None,
    impressions: ImpressionLog | None = None,
) -> AsyncIterator[orchestrator.Orchestrator]:
    """Loads a release and connects it to a ranker.

    Args:
        base: Base directory of the bundles.
        version: Release version. None: the stable release.
        ranker_address: host:port of a model server. None: start the embedded one in this process.
        impressions: Impression log to record answers in. None: no log.

    Yields:
        The orchestrator.
    """
    release = releases.load(base, version)
    with contextlib.ExitStack() as stack:
        if ranker_address is None and release.manifest.has_ranker:
            served = model_config.build(
                {"ranker": base.resolve() / "ranker"},
                [release.version],
            )
            server = model_server.ModelServer(served, poll_seconds=None)
            stack.enter_context(server)
            ranker_address = f"{server.host}:{server.port}"
        client = ranker.connect(release, ranker_address or "")
        service = orchestrator.Orchestrator(release, client, impressions=impressions)
        try:
            yield service
        finally:
            await service.close()


def describe_answer(answer: requests.Answer) -> str:
    """Returns an answer as text with a table of its ads, without the heads that have no scores."""
    outputs = list(answer.ads[0].model_extra or ()) if answer.ads else []
    # An output is named LABEL_probability or expected_LABEL.
    heads = {name.removesuffix("_probability").removeprefix("expected_"): name for name in outputs}
    heads = {head: name for head, name in heads.items() if head not in answer.absent_heads}
    is_ranked = answer.order == "utility"
    order = "utility" if is_ranked else "retrieval order"
    why = "" if is_ranked else ": the release has no ranker"
    if answer.degraded is not None:
        why = f": {answer.degraded}"
    num_ads = terminal.format_count(len(answer.ads), "ad")
    lines = [f"release {answer.bundle_version}, {num_ads} by {order}{why}"]
    # Without titles, the raw fields describe an ad.
    names = list(answer.ads[0].show) if answer.ads else []
    titles = ("  rank", "ad", *names, "utility", *heads, *(() if names else ("fields",)))
    width = _column_width([[name, *(_shown(ad, name) for ad in answer.ads)] for name in names])
    rows = []
    for ad in answer.ads:
        scores = (ad.utility, *(getattr(ad, name) for name in heads.values()))
        fields = ", ".join(f"{k}={_short(v)}" for k, v in ad.fields.items() if v is not None)
        shown = ("–" if value is None else f"{value:.4f}" for value in scores)
        texts = [_shown(ad, name)[:width] for name in names]
        rows.append(
            [
                str(ad.rank),
                terminal.cut_text(ad.ad_id, _ID_WIDTH),
                *texts,
                *shown,
                *([] if names else [fields]),
            ]
        )
    left = (1, *range(2, 2 + len(names)), *(() if names else (len(titles) - 1,)))
    table = terminal.text_table(titles, rows, left=left).splitlines()
    lines += [terminal.cut_text(line, _WIDTH) for line in table]
    if answer.absent_heads and answer.order == "utility":
        lines.append(
            "  not predicted, without positive labels in training: "
            + ", ".join(answer.absent_heads)
        )
    if answer.weak_heads:
        lines.append(f"  weak, see the evaluation report: {', '.join(answer.weak_heads)}")
    if answer.shortage:
        lines.append(f"  {answer.shortage}")
    if answer.explanation is not None:
        lines += _explained(answer, answer.explanation)
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in answer.stage_ms.items())
    lines.append(f"  milliseconds: {stages}")
    return "\n".join(lines)


def _explained(answer: requests.Answer, effects: requests.Explanation) -> list[str]:
    lines = []
    for ad in answer.ads:
        why = ad.explanation
        assert why is not None
        parts = " + ".join(
            f"{part.weight:g}·{part.score:.4f} {head}" for head, part in (why.parts or {}).items()
        )
        rank = f"rank {why.rank_without_rules} of {effects.candidates} without rules"
        drawn = f", {'drawn, ' if why.explored else ''}propensity {ad.propensity:.4g}"
        spread = f", ×{why.diversity_factor:.4g} for diversity" if why.diversity_factor < 1 else ""
        lines.append(f"  {ad.rank:4}  {parts or 'no scores'}; {rank}{drawn}{spread}")
    for cap in effects.at_frequency_cap:
        capped = "ads" if cap.field is None else f"values of {cap.field}"
        lines.append(f"  frequency cap: {cap.count} {capped} were seen too often")
    for left_out in effects.left_out:
        rule = left_out.rule if left_out.field is None else f"{left_out.rule} on {left_out.field}"
        lines.append(f"  {rule}: left out {left_out.count}, the best {', '.join(left_out.ads)}")
    return lines


def _column_width(columns: Sequence[Sequence[str]]) -> int:
    """Returns the greatest column width, at least 10, at which the columns fit side by side."""
    longest = [max(map(len, column)) for column in columns]
    fitting = (
        w for w in range(10, _SHOWN_WIDTH) if sum(min(n, w) for n in longest) <= _SHOWN_WIDTH
    )
    return max(fitting, default=10)


def _shown(ad: requests.RankedAd, name: str) -> str:
    return "–" if (value := ad.show.get(name)) is None else _short(value)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
