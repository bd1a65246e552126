"""The page of an evaluation: whole, without outside assets, and for every kind of log."""

import html.parser
import re
import warnings

import numpy as np
import pytest

from tfrec import config, evaluation, ranking, retrieval
from tfrec.evaluation import curve_points
from tfrec.evaluation import report as evaluation_report
from tfrec.reports import html as report_html
from tfrec.reports import report_figures, tables
from tfrec.reports import text as report_text

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(html.parser.HTMLParser):
    """Reads a page; fails where a tag is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.sections, self.titles, self.words = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), (tag, name, value)
        if tag == "section":
            self.sections.append(attributes["id"])
        if tag == "svg":
            self.titles.append(attributes["aria-label"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def reports(data_set, trained, synthetic_log):
    """Evaluations of a log with a truth and of the same as if it had none."""
    ranker, calibrators, _ = ranking.load_ranker(data_set, trained / "ranker")
    two_tower, _ = retrieval.load_two_tower(data_set, trained / "retrieval")
    models = evaluation.Models(two_tower, ranker, calibrators)
    few = config.EvaluationConfig(resamples=20)
    with_truth = evaluation.evaluate(data_set, models, synthetic_log.directory, few)
    funnel = evaluation.evaluate_whole_system(data_set, models, None, None, few)
    return with_truth, with_truth.model_copy(update={"funnel": funnel})


NO_SEGMENTS = evaluation_report.SegmentQuality(by=[], heads={}, absent={})


@pytest.fixture(scope="module")
def page_with_truth(reports):
    return report_html.render_report(reports[0], "synthetic")


@pytest.fixture(scope="module")
def page_without_truth(reports):
    """The figures of segments, which take most of the time, are those of the other page."""
    report = reports[1].model_copy(update={"segments": NO_SEGMENTS, "curves": {}})
    return report_html.render_report(report, "<script>alert(1)</script>")


def words_of(page):
    return " ".join(" ".join(Page(page).words).split())


@pytest.mark.trains
def test_the_page_has_every_figure_and_no_outside_assets(page_with_truth):
    page = Page(page_with_truth)
    assert page.sections == [
        "summary", "funnel", "click", "engagement", "revenue", "segments",
        "retrieval", "reading",
    ]  # fmt: skip
    for head in ("click", "engagement", "revenue"):
        assert f"Calibration of {head}: observed against predicted" in page.titles
        assert f"ROC and precision-recall curves of {head}" in page.titles
        assert f"Predicted scores of {head}" in page.titles
    assert {"Funnel of utility", "Funnel of click"} <= set(page.titles)
    assert sum(title.startswith("Quality by") for title in page.titles) == 8
    ids = re.findall(r'\bid="([^"]+)"', page_with_truth)
    assert len(ids) == len(set(ids))


@pytest.mark.trains
def test_page_and_text_compare_with_the_ranker_over_all_ads_and_uniform_exposure(
    reports, page_with_truth
):
    with_truth, real = reports
    ranker = with_truth.funnel.utilities["utility"].over_all_ads
    words = words_of(page_with_truth)
    text = report_text.report_as_text(with_truth)
    for shown in (words, text):
        assert f"best possible, {ranker.requests} requests" in shown
        assert "ranker over all ads, same requests" in shown
        assert "for comparison: retrieval top 10" in shown
        assert "if revenue were known" in shown
        assert "with weights for clicks alone" in shown.lower()
        assert "with the default weights" in shown or "uses the default weights" in shown
        assert "recall@500, uniform exposure" in shown
        assert "The two-tower model reaches 100.0 % (–)" in shown
    assert "of the value that the ranker would reach over all ads" in words
    without = with_truth.funnel.utilities["utility"].model_copy(update={"over_all_ads": None})
    large = with_truth.funnel.model_copy(update={"utilities": {"utility": without}})
    report = with_truth.model_copy(update={"funnel": large})
    assert "ranker over all ads: it would take too long for 300 ads" in "".join(
        tables.not_measured(report)
    )
    assert "ranker over all ads" not in report_text.report_as_text(real)


@pytest.mark.trains
def test_a_log_without_ground_truth_has_a_page_too_and_its_names_are_escaped(
    reports, page_without_truth
):
    _, real = reports
    assert "Funnel of clicks" in Page(page_without_truth).titles
    assert "&lt;script&gt;" in page_without_truth
    for shown in (words_of(page_without_truth), " ".join(report_text.report_as_text(real).split())):
        assert "A lower share for the latter therefore does not mean a worse order" in shown
        assert "for comparison: ranker by click alone" in shown
        assert "with the default weights" in shown
        assert "On ads that were shown, the orders compare as follows" in shown
        assert "repeat an earlier click" not in shown
    assert "A lower share for the latter" not in report_text.report_as_text(reports[0])


@pytest.mark.trains
def test_the_text_counts_one_click_in_the_singular(reports):
    _, real = reports
    one_click = {
        "retrieval": real.retrieval.model_copy(update={"num_clicks": 1}),
        "funnel": real.funnel.model_copy(update={"clicks": 1}),
    }
    text = report_text.report_as_text(real.model_copy(update=one_click))
    assert ", 1 test click among " in text
    assert ", 1 held-out click: share of " in text


@pytest.mark.trains
def test_the_page_says_that_lists_leave_out_what_was_clicked(reports):
    _, real = reports
    funnel = real.funnel.model_copy(update={"leaves_out_seen": True})
    report = real.model_copy(update={"funnel": funnel, "ranker": {}, "segments": NO_SEGMENTS})
    page = report_html.render_report(report, "x")
    assert "of the held-out clicks repeat an earlier click" in words_of(page)


@pytest.mark.trains
def test_weights_are_named_only_if_there_is_a_ranker(reports, page_without_truth):
    _, real = reports
    retrieval_alone = real.model_copy(update={"ranker": {}, "segments": NO_SEGMENTS})
    page_alone = report_html.render_report(retrieval_alone, "x")
    for report, page, is_told in (
        (real, page_without_truth, True),
        (retrieval_alone, page_alone, False),
    ):
        assert ("ads are ranked with weights for clicks alone;" in words_of(page)) is is_told
        text = report_text.report_as_text(report)
        assert ("Retrieval with weights for clicks alone, " in text) is is_told


@pytest.mark.trains
def test_the_text_says_how_many_users_are_measured_if_there_are_any(reports):
    _, real = reports
    for count, is_told in ((1, True), (0, False)):
        found = real.retrieval.model_copy(update={"num_users": count})
        text = report_text.report_as_text(real.model_copy(update={"retrieval": found}))
        assert ("user clicked before; number of users: 1" in text) is is_told


@pytest.mark.trains
def test_without_labels_in_the_split_the_page_has_no_segments(reports):
    report, _ = reports
    nothing = evaluation.HeadQuality(labeled=0, metrics={}, calibration_curve=[])
    unlabeled = {
        "ranker": dict.fromkeys(report.ranker, nothing),
        "segments": report.segments.model_copy(update={"heads": {}}),
        "curves": {},
    }
    page = Page(report_html.render_report(report.model_copy(update=unlabeled), "x"))
    assert "segments" not in page.sections
    assert page.words.count("No row of the split has the label.") == len(report.ranker)


@pytest.mark.trains
def test_the_text_has_every_metric_of_the_heads_and_the_funnel(reports):
    for report in reports:
        text = report_text.report_as_text(report)
        for label, value, *_ in tables.head_table(report).rows:
            assert re.search(rf"^{re.escape(label)} +{value} ", text, re.MULTILINE)
        assert f"(index: {report.funnel.index}; filters: none)" in text
        assert "Not measured: retrieval, item knn: the schema names no user_key" in text


def test_a_new_metric_of_a_head_is_in_the_report_under_its_name():
    metrics = {
        "brier_score": evaluation.Estimate(value=0.25),
        "auc": evaluation.Estimate(value=0.75),
        "lift_at_10": evaluation.Estimate(absent="no ad was shown"),
    }
    quality = evaluation.HeadQuality(labeled=9, metrics=metrics, calibration_curve=[])
    report = evaluation.EvaluationReport.model_construct(
        absent_heads=[],
        ranker={"click": quality},
        funnel=None,
        retrieval=evaluation.RetrievalQuality(num_ads=1, num_clicks=0),
    )
    labels = [label for label, *_ in tables.head_table(report).rows]
    assert labels == ["click: AUC", "click: brier score"]
    assert list(tables.not_measured(report)) == ["click, lift at 10: no ad was shown"]


def test_an_absent_head_is_one_without_a_column_or_without_a_positive_label():
    report = evaluation.EvaluationReport.model_construct(
        absent_heads=["engagement", "revenue"],
        unnamed_heads=["engagement"],
        ranker={},
        funnel=None,
        retrieval=evaluation.RetrievalQuality(num_ads=1, num_clicks=0),
    )
    assert list(tables.not_measured(report)) == [
        "engagement: the schema names no engagement, so the head is neither trained nor served",
        "revenue: no training row has a positive label, so the head is neither trained nor served",
    ]


@pytest.mark.parametrize(("entropy", "is_told"), [(0.04, True), (0.06, False), (None, False)])
def test_a_head_that_predicts_the_label_almost_exactly_is_reported(entropy, is_told):
    metrics = {"normalized_entropy": evaluation.Estimate(value=entropy)}
    quality = evaluation.HeadQuality(labeled=9, metrics=metrics, calibration_curve=[])
    report = evaluation.EvaluationReport.model_construct(ranker={"click": quality})
    said = " ".join(tables.heads_in_words(report))
    assert said.startswith("click is too good to be true") == is_told
    assert bool(said) == is_told


@pytest.mark.parametrize(
    ("recall_of_towers", "num_ads", "named"),
    [
        (0.05, 2_000, "no better than popularity (0.3000) and random (0.2500) at finding"),
        (0.26, 2_000, "no better than popularity (0.3000) at finding"),
        (0.31, 2_000, ""),
        # Five hundred are most of the ads: recall@100 counts, and nobody has it.
        (0.05, 400, ""),
    ],
)
def test_towers_that_find_no_more_than_popularity_or_chance_are_reported(
    recall_of_towers, num_ads, named
):
    recall = {"two_tower": recall_of_towers, "popularity": 0.3, "random": 0.25}
    recommenders = {
        name: evaluation_report.RecommenderQuality(metrics={"corpus_recall_at_500": value})
        for name, value in recall.items()
    }
    quality = evaluation.RetrievalQuality(num_ads=num_ads, num_clicks=9, recommenders=recommenders)
    said = " ".join(tables.weak_towers_in_words(quality))
    assert named in said
    assert bool(said) == bool(named)


def test_the_first_sentence_has_the_share_returned_and_the_worst_stage():
    lost = {"tower": 1.0, "index": 0.0, "filters": 0.0, "ranker": 3.0, "calibration": 1.0}
    utility = evaluation.UtilityFunnel(
        weights={"click": 1.0},
        best_possible=evaluation.Estimate(value=10.0),
        lost={stage: evaluation.Estimate(value=value) for stage, value in lost.items()},
        returned=evaluation.Estimate(value=5.0),
        share_returned=evaluation.Estimate(value=0.5, interval=(0.4, 0.6)),
        promised={},
    )
    setting = {"candidates": 500, "ads": 1_000, "index": "exact search"}
    funnel = evaluation.ValueFunnel(
        requests=9,
        utilities={"utility": utility, "click": utility},
        ndcg_at_10_retrieved_lists={},
        **setting,
    )
    assert report_html.funnel_in_words(funnel).startswith(
        "The system returns 50.0 % (40.0 % to 60.0 %) of the value of the best possible ten ads; "
        "the ranker loses the most, 30.0 %."
    )
    clicks = evaluation.ClickFunnel(
        clicks=40,
        survived={"ranker": evaluation.Estimate(value=0.25)},
        lost={"tower": evaluation.Estimate(value=0.75)},
        **setting,
    )
    assert report_html.funnel_in_words(clicks) == (
        "25.0 % of 40 held-out clicked ads are among the ten returned ads; the tower loses the "
        "most, 75.0 %. Only shown ads can be clicked, so these shares also depend on the exposure."
    )
    nothing = {"tower": evaluation.Estimate(value=0.0), "ranker": evaluation.Estimate(value=0.0)}
    whole = {"ranker": evaluation.Estimate(value=1.0)}
    assert report_html.funnel_in_words(
        clicks.model_copy(update={"survived": whole, "lost": nothing})
    ).startswith("100.0 % of 40 held-out clicked ads are among the ten returned ads. Only shown")


@pytest.mark.parametrize("values", [(2.0, -0.5, 2.5), (0.0, 0.0, 0.0)])
def test_a_waterfall_with_gains_and_without_value_is_drawn(values):
    stages = [
        (name, evaluation.Estimate(value=value)) for name, value in zip("abc", values, strict=True)
    ]
    page = Page(f"<p>{report_figures.waterfall('x', stages)}</p>")
    assert {"a", "b", "c"} <= set(page.words)


def test_curves_end_where_they_must_and_their_area_is_the_auc():
    rng = np.random.default_rng(0)
    labels = rng.random(2_000) < 0.3
    scores = labels + rng.normal(size=2_000)
    curves = curve_points.compute(labels, scores)
    points = np.array(curves.roc)
    assert points[0].tolist() == [0.0, 0.0]
    assert points[-1].tolist() == [1.0, 1.0]
    assert len(points) < 200
    # AUC of two unit normals a distance of 1 apart: Φ(1/√2) = 0.7602.
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(0.76, abs=0.02)
    # The order of an amount is by the probability of one.
    reversed_order = curve_points.compute(labels, scores, True, -scores)
    points = np.array(reversed_order.roc)
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(0.24, abs=0.02)
    recall, precision = curves.precision_recall[-1]
    assert (recall, precision) == (1.0, pytest.approx(labels.mean(), abs=1e-4))


def test_curves_of_equal_scores_or_one_class_are_computed():
    same = curve_points.compute(np.array([0, 1, 0]), np.full(3, 0.2))
    assert same.roc == [(0.0, 0.0), (1.0, 1.0)]
    assert sum(same.scores.negative) == pytest.approx(1.0)
    one_class = curve_points.compute(np.zeros(3), np.array([0.0, 0.0, 1.0]), ratios=True)
    assert one_class.roc is None
    assert sum(one_class.scores.negative) == pytest.approx(1.0, abs=1e-4)
    assert sum(one_class.scores.positive) == 0.0


def test_scores_within_a_power_of_ten_have_a_scale():
    scores = np.geomspace(2.5, 8.0, 1000)
    curves = curve_points.compute(np.arange(1000) % 2, scores, ratios=True)
    figure = report_figures.scores("revenue", curves.scores)
    labels = [float(text) for text in re.findall(r"<text[^>]*>([0-9.]+)</text>", figure)]
    assert len(labels) == 6
    # The tails are cut.
    assert 2.5 <= labels[0] < 2.6
    assert 7.8 < labels[-1] <= 8.0


def test_tick_labels_keep_their_decimals():
    curve = [
        evaluation.CalibrationBin(
            predicted=p,
            observed=evaluation.Estimate(value=p, interval=(0.8 * p, 1.2 * p)),
            rows=9,
        )
        for p in (0.001, 0.002, 0.004)
    ]
    words = Page(f"<p>{report_figures.calibration('click', curve)}</p>").words
    ticks = {float(word) for word in words if re.fullmatch(r"[\d.]+", word)}
    assert len([tick for tick in ticks if 0 < tick < 0.0051]) >= 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("$5 to $10", "$5 to $10"),
        # Neither of these is a formula that can be drawn.
        ("$\\nothing$", "$\\nothing$"),
        ("$5 & more, $9 #1", "$5 &amp; more, $9 #1"),
        ("two\nlines", "two lines"),
        # Matplotlib's font has no such glyphs.
        ("\u5e7f\u544a", "\u5e7f\u544a"),
        ("<b>&</b>", "&lt;b&gt;&amp;&lt;/b&gt;"),
    ],
)
def test_the_name_of_a_segment_is_shown_literally(value, shown):
    metrics = {
        "auc": evaluation.Estimate(value=0.6),
        "calibration_ratio": evaluation.Estimate(value=1.0),
    }
    segment = evaluation.Segment(value=value, rows=9, metrics=metrics)
    with warnings.catch_warnings(record=True) as noise:
        warnings.simplefilter("always")
        assert f">{shown}</text>" in report_figures.by_segment("name", [segment], metrics)
    assert not noise
