"""The data card: every number on a log small enough to count by hand, warnings, and the page."""

import dataclasses
import html.parser
import json
import re

import logs
import numpy as np
import pyarrow as pa
import pytest
import scripts_in_forks

from tfrecords import card, convert, events, pages, reader, records
from tfrecords import schema as schema_lib
from tfrecords.card import model, rejects, split_counts, statistics, time

pytestmark = pytest.mark.slow

SECTIONS = ("warnings", "splits", "labels", "fields", "drift", "values", "ads", "rejected")
FIELDS = (
    schema_lib.Field("city", "categorical", "query", min_count=2),
    schema_lib.Field("tags", "categorical_list", "query", min_count=1, max_list_length=3),
    schema_lib.Field("age", "numeric", "query"),
    schema_lib.Field("ad", "categorical", "ad", min_count=1),
)
SCHEMA = schema_lib.Schema(
    "shop", FIELDS, ("ad",), "clicked", request_key="request", split="split", revenue="paid"
)
QUERY_AND_AD = (
    schema_lib.Field("q", "categorical", "query"),
    schema_lib.Field("ad", "categorical", "ad"),
)
# In training four requests with 2, 3, 1 and 1 ads; one of validation, two of test.
LOG = """split,request,city,tags,age,ad,clicked,paid
train,1,<b>A</b>,x|y,1,a,1,2.5
train,1,<b>A</b>,x|y,1,b,0,
train,2,<b>A</b>,,2,a,0,0
train,2,<b>A</b>,,2,b,0,0
train,2,<b>A</b>,,2,c,1,0
train,3,B,x,,a,1,0.5
train,4,,x|y|z,4,a,0,0
train,5,B,x,1,a,maybe,0
train,6,B,x,1,a,perhaps,0
train,7,B,x,1,,1,0
validation,8,<b>A</b>,x,1,a,1,0
test,9,C,w,1,a,0,0
test,9,C,w,1,d,1,0
test,10,<b>A</b>,,,d,0,0
"""


def converted(directory, text, schema, **options):
    """Converts a log with a header line."""
    (directory / "log.csv").write_text(text)
    source = convert.Source(directory / "log.csv", schema, format="tabular")
    convert.convert(source, directory / "data", **{"max_rejected_fraction": 0.5, **options})
    return reader.DataSet(directory / "data")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("small"), LOG, SCHEMA)


@pytest.fixture(scope="module")
def built(small):
    return card.build_card(small)


@pytest.fixture(scope="module")
def built_of_data_set(data_set):
    return card.build_card(data_set)


def field(built, name):
    return next(own for own in built.fields if own.name == name)


def texts(built):
    return " ".join(own.text for own in built.warnings)


def test_keys_missing_in_a_table_are_shown_with_keys_of_the_table(tmp_path):
    # Ads 001 to 020 in the log, 1 to 20 in the table; users u0 to u7 in the log, U0 to u9 in it.
    rows = [f"u{n % 8},{1 + n % 20:03d},{n % 2}" for n in range(80)]
    (tmp_path / "log.csv").write_text("\n".join(["user,sku,click", *rows, ",001,0"]) + "\n")
    brands = [f"{n},b{n % 3}" for n in range(1, 21)]
    (tmp_path / "ads.csv").write_text("\n".join(["sku,brand", "001,b", *brands]) + "\n")
    (tmp_path / "users.csv").write_text("user,age\nU0,1\nU1,1\nu2,3\nu3,1\n")
    fields = (
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("brand", "categorical", "ad", min_count=1),
    )
    source = convert.Source(
        tmp_path / "log.csv",
        schema_lib.Schema("keys", fields, ("sku",), "click", user_key="user"),
        "tabular",
        ads_path=tmp_path / "ads.csv",
        users_path=tmp_path / "users.csv",
    )
    convert.convert(source, tmp_path / "data")
    built = card.build_card(reader.DataSet(tmp_path / "data"))
    found = [own for own in built.warnings if "not in the table of" in own.text]
    # 001 is in the table. Six of eight users are not, in 60 of 80 rows; one row has no user.
    assert [own.text for own in found] == [
        "The keys (sku) of 19 of 20 shown ads are not in the table of ads, such as '002', '003', "
        "'004'; it has keys such as '1', '2', '3'.",
        "The users (user) of 60 of 80 rows are not in the table of users, such as 'u0', 'u1', "
        "'u4'; it has keys such as 'U0', 'U1', 'u2'.",
    ]


def test_rows_requests_and_list_lengths(built):
    train = built.splits["train"]
    assert (train.rows, train.requests, train.share_with_click) == (7, 4, 3 / 4)
    assert train.list_lengths.mean == 7 / 4
    assert (train.list_lengths.median, train.list_lengths.max) == (1, 3)
    assert train.list_lengths.one_ad == 0.5
    assert built.splits["test"].list_lengths.mean == 3 / 2
    assert built.data.split.kind == "column"
    assert train.share_with_click == 3 / 4


def test_label_rates_and_missing_labels(built):
    labels = built.splits["train"].labels
    assert labels["click"] == model.LabelSummary(
        known=7, missing=0, positive=3, rate=3 / 7, mean=3 / 7
    )
    # One of seven is empty, without a click, and so 0; 2.5 and 0.5 are paid.
    assert labels["revenue"] == model.LabelSummary(
        known=7, missing=0, positive=2, rate=2 / 7, mean=3 / 7
    )


def test_missing_and_out_of_vocabulary_shares_are_per_request_of_a_query_field(built):
    city = field(built, "city")
    assert city.unit == "request"
    assert city.missing == {"train": 1 / 4, "validation": 0, "test": 0}
    # Only A occurs twice in training (A, A, B); C is new in test.
    assert city.out_of_vocabulary == {"train": 1 / 3, "validation": 0, "test": 1 / 2}
    assert (city.distinct, city.vocabulary) == (2, 1)
    assert city.top == [model.TopValue(value="<b>A</b>", train=2 / 4, validation=1, test=1 / 2)]
    assert field(built, "age").missing == {"train": 1 / 4, "validation": 0, "test": 1 / 2}


def test_a_list_field_counts_values_and_empty_lists(built):
    tags = field(built, "tags")
    assert tags.missing == {"train": 1 / 4, "validation": 0, "test": 1 / 2}
    # Lists x y, none, x, x y z: six values.
    assert tags.value_lists["train"] == [1, 1, 1, 1]
    assert [(own.value, own.train, own.test) for own in tags.top] == [
        ("x", 3 / 6, 0), ("y", 2 / 6, 0), ("z", 1 / 6, 0),
    ]  # fmt: skip
    assert tags.out_of_vocabulary == {"train": 0, "validation": 0, "test": 1}


def test_an_ad_field_is_counted_per_impression(built):
    ad = field(built, "ad")
    assert ad.unit == "impression"
    assert [(own.value, own.train, own.test) for own in ad.top] == [
        ("a", 4 / 7, 1 / 3), ("b", 2 / 7, 0), ("c", 1 / 7, 0),
    ]  # fmt: skip
    assert ad.out_of_vocabulary["test"] == 2 / 3


def test_popularity_and_new_ads(built):
    ads = built.ads
    assert (ads.count, ads.shown_in_training, ads.clicked_in_training) == (4, 3, 2)
    assert ads.top == model.PopularityCurve(rank=[1], impressions=[4 / 7], clicks=[2 / 3])
    assert ads.curve.rank == [1, 2, 3, 4]
    assert ads.curve.impressions == pytest.approx([4 / 7, 6 / 7, 1, 1])
    assert ads.curve.clicks == pytest.approx([2 / 3, 1, 1, 1])
    assert ads.most_shown[0].ad_id == "a"
    assert ads.new["test"] == model.NewAds(
        counted="impressions", ads=1, of_ads=2, share=2 / 3, share_of_clicks=1
    )
    assert ads.changed_share == 0


@pytest.mark.parametrize(
    ("changes", "is_reported"),
    [({}, True), ({"time": None, "user_key": None}, False), ({"fields": "with a rate"}, False)],
)
def test_if_ads_are_new_their_recent_click_rate_is_proposed(tmp_path, changes, is_reported):
    fields = (
        schema_lib.Field("city", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    if "fields" in changes:
        rate = schema_lib.Field("rate", "numeric", "ad", of="ad", event=("click",))
        changes = {"fields": (*fields, rate)}
    schema = schema_lib.Schema("news", fields, ("ad",), "clicked", time="t", user_key="u")
    schema = dataclasses.replace(schema, **changes)
    # Each ad is shown in two of 40 hours.
    rows = [f"u{n % 3},x,a{n // 4},{n % 2},{1_700_000_000 + 1800 * n}" for n in range(80)]
    text = "\n".join(["u,city,ad,clicked,t", *rows, ""])
    built = card.build_card(converted(tmp_path, text, schema))
    (found,) = (own for own in built.warnings if "never shown in training" in own.text)
    assert ("recent click rate" in found.action) == is_reported


def test_rejected_rows_are_grouped_by_reason(built):
    rejected = built.rejected
    assert (rejected.count, rejected.lines, rejected.share) == (3, 14, 3 / 14)
    assert rejected.reasons == [
        model.RejectedReason(reason="clicked must be 0 or 1, got …", count=2),
        model.RejectedReason(reason="ad is empty", count=1),
    ]
    first = rejected.examples[0]
    assert (first.line, first.text) == ("9", "train,5,B,x,1,a,maybe,0")


@pytest.mark.parametrize(
    ("reason", "blanked"),
    [
        ("I1 must be a finite number or empty, got 'a, got b'",
         "I1 must be a finite number or empty, got …"),
        ("expected 40 columns, got 38 columns", "expected 40 columns, got …"),
        ("it cannot be parsed: invalid value 'x' in row 7",
         "it cannot be parsed: invalid value … in row …"),
        ("forgotten is empty", "forgotten is empty"),
    ],
)  # fmt: skip
def test_rejected_values_are_removed_from_reasons(reason, blanked):
    assert rejects.blanked(reason) == blanked


def test_a_damaged_list_of_rejected_rows_is_refused(tmp_path):
    (tmp_path / "rejected.tsv").write_text("log\t3\n")
    with pytest.raises(ValueError, match="line 1: 2 columns; expected file, line, reason and"):
        rejects.describe(tmp_path / "rejected.tsv", 10)


def test_psi_of_a_known_drift():
    grouped = np.array([0, 1, 2])
    ids = {"train": np.array([0, 5000, 5000]), "test": np.array([0, 9000, 1000])}
    drift = statistics.drift(grouped, ids)
    # (0.9 - 0.5) ln(0.9 / 0.5) + (0.1 - 0.5) ln(0.1 / 0.5) = 0.8789
    assert drift.psi == pytest.approx(0.8789, abs=1e-3)
    assert (drift.groups, drift.level) == (2, "drifted")
    assert drift.by_chance == pytest.approx(2 / 10_000)


def test_drift_of_few_rows_is_unknown():
    grouped = np.array([0, 1, 2])
    few = {"train": np.array([0, 5, 5]), "test": np.array([0, 4, 1])}
    assert statistics.drift(grouped, few).level == "unknown"
    none = {"train": np.array([0, 5, 5]), "test": np.zeros(3, int)}
    assert statistics.drift(grouped, none).psi is None


def test_rare_values_are_grouped_so_that_they_do_not_drift(tmp_path):
    # 400 cities, each once among the first rows and each once among the last.
    lines = [f"{i},c{i % 400},{i % 20},{i % 3 % 2}" for i in range(2_000)]
    schema = schema_lib.Schema(
        "many",
        (
            schema_lib.Field("city", "categorical", "query", min_count=1),
            schema_lib.Field("ad", "categorical", "ad", min_count=1),
        ),
        ("ad",),
        "clicked",
    )
    text = "id,city,ad,clicked\n" + "\n".join(lines) + "\n"
    data_set = converted(tmp_path, text, schema, validation_fraction=0.2, test_fraction=0.2)
    drift = field(card.build_card(data_set), "city").drift
    assert drift.groups == 18
    assert drift.psi < 0.01
    groups = statistics.groups(
        data_set.fitted, data_set.schema.fields[0], np.array([0, *[3] * 400, *[0] * 8])
    )
    assert groups.max() == statistics.MAX_GROUPS - 1
    assert set(groups[401:]) == {1}


def test_both_ways_of_counting_ids_agree():
    ids = np.array([3, 1, 3, 999], np.int32)
    for size in (1_000, 16):
        totals = np.zeros(size, np.int64)
        split_counts.add_ids(totals, ids % size)
        assert totals[3] == 2
        assert totals.sum() == 4


def test_the_precision_of_times_fits_their_span():
    # 1700000000 is 2023-11-14 22:13:20 UTC.
    assert time.formatted([1.7e9, 1.7e9 + 86_400 * 30], "seconds")[0] == "2023-11-14"
    assert time.formatted([1.7e12, 1.7e12 + 36e5], "milliseconds")[0] == "2023-11-14 22:13"
    assert time.formatted([5.0, 2_600_000.0], None) == ["5", "2,600,000"]
    # Python has no dates after the year 9999.
    assert time.formatted([0.0, 1.7e12], "seconds") == ["0", "1,700,000,000,000"]


def test_shares_never_round_to_none_or_all():
    assert [pages.format_percent(s) for s in (0, -1e-5, 1e-5, 0.5, 0.99999, 1, None)] == [
        "0.0 %", "> -0.1 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %", "–",
    ]  # fmt: skip


def test_a_mean_that_rounds_to_zero_has_no_sign():
    assert [pages.format_mean(mean) for mean in (-0.004, 0.0, -0.02, 1234.5)] == [
        "0.00", "0.00", "-0.02", "1,234.50",
    ]  # fmt: skip


@pytest.mark.parametrize(("labels", "is_reported"), [("01", True), ("11", False), ("00", False)])
def test_the_note_that_the_ranker_alone_decides_needs_a_ranker(tmp_path, labels, is_reported):
    rows = [f"q,a{n % 3},{labels[n % 2]}" for n in range(30)]
    schema = schema_lib.Schema("clicks", QUERY_AND_AD, ("ad",), "click")
    built = card.build_card(converted(tmp_path, "q,ad,click\n" + "\n".join(rows), schema))
    assert ("The number of ads, 3, is at most the 500 candidates" in texts(built)) is is_reported


def bad_log(tmp_path, **changes):
    """A log of 1,000 rows with every fault of the warnings below."""
    rows = []
    for i in range(1_000):
        ad = "x" if i % 10 else f"ad{i}"
        late = i >= 900
        empty = "v" if i % 50 == 0 else ""
        rows.append(
            f"{1.7e9 + i},u{i},same,{empty},{f'new{i % 7}' if late else f'old{i % 7}'},{ad}"
        )
    fields = (
        schema_lib.Field("visit", "categorical", "query"),
        schema_lib.Field("fixed", "categorical", "query"),
        schema_lib.Field("sparse", "categorical", "query"),
        schema_lib.Field("moving", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("bad", fields, ("ad",), None, time="time", **changes)
    return converted(tmp_path, "time,visit,fixed,sparse,moving,ad\n" + "\n".join(rows), schema)


def test_a_random_split_is_proposed_for_a_log_sorted_by_user(tmp_path):
    rows = [f"u{n // 10},ad{n % 7},{n % 2}" for n in range(1_000)]
    fields = tuple(
        schema_lib.Field(name, "categorical", side)
        for name, side in (("user", "query"), ("ad", "ad"))
    )
    schema = schema_lib.Schema("sorted", fields, ("ad",), "click", user_key="user")
    text = "\n".join(["user,ad,click", *rows]) + "\n"
    for split, is_reported in (("order", True), ("fraction", False)):
        (tmp_path / split).mkdir()
        built = card.build_card(converted(tmp_path / split, text, schema, split=split))
        told = " ".join(own.action for own in built.warnings)
        assert ("convert it with --split=fraction" in told) == is_reported


@pytest.fixture(scope="module")
def built_of_bad_log(tmp_path_factory):
    return card.build_card(bad_log(tmp_path_factory.mktemp("bad")))


def test_faults_are_warned_of_with_what_to_do(built_of_bad_log):
    built = built_of_bad_log
    found = texts(built)
    for text in (
        "Every training row is a click, so there is no ranker: retrieval alone orders ads.",
        "Constant, with the same id in every training row: fixed.",
        "Missing in nearly every training row: sparse (98.0 %).",
        "like an id: visit (800 values in 800 requests)",
        "Out of vocabulary far more often in test than in training: moving (0.0 % to 100.0 %)",
        "One ad, 'x', has 90.0 % of the training impressions.",
        "Each test request has one ad",
        "PSI of at least 0.25",
    ):
        assert text in found
    levels = [own.level for own in built.warnings]
    assert levels == sorted(levels, reverse=True)


def test_the_advice_for_an_id_knows_the_keys(built_of_bad_log, tmp_path):
    with_user = card.build_card(bad_log(tmp_path, user_key="visit"))
    for built, action in (
        (built_of_bad_log, "or name its column as request_key or user_key."),
        (with_user, "its column stays"),
    ):
        (own,) = (own for own in built.warnings if "like an id" in own.text)
        assert action in own.action
        assert all(own.action for own in built.warnings)
        assert built.time.unit == "seconds"
        assert "--sampled_negatives" in built.warnings[0].action


def users_log(tmp_path, times, num_users):
    """Clicks of users, with a history of their earlier ones."""
    fields = (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
        schema_lib.Field("seen", "history", "query", of="ad", event="click"),
    )
    tmp_path.mkdir()
    rows = [f"{at},u{n % num_users},a{n % 7},{n % 2}" for n, at in enumerate(times)]
    schema = schema_lib.Schema("users", fields, ("ad",), "click", user_key="user", time="time")
    return converted(tmp_path, "time,user,ad,click\n" + "\n".join(rows), schema)


def test_a_history_may_start_empty_but_not_stay_so(tmp_path):
    times = range(1_700_000_000, 1_700_001_000)
    starting = texts(card.build_card(users_log(tmp_path / "starting", times, 301)))
    assert "missing share changes" not in starting
    assert "seen (" not in starting
    assert "Empty in every training row" not in starting
    never = texts(card.build_card(users_log(tmp_path / "never", times, 1_000)))
    assert "Empty in every training row: seen." in never
    assert "Missing in every training row" not in never


def test_a_few_times_far_from_the_others_are_warned_of(tmp_path):
    times = [*range(1_700_000_000, 1_700_001_000), 2_200_000_000]
    far = texts(card.build_card(users_log(tmp_path / "far", times, 50)))
    assert "but nearly all rows are from 2023-11-14 to" in far
    near = texts(card.build_card(users_log(tmp_path / "near", times[-301:-1], 50)))
    assert "nearly all rows" not in near


@pytest.mark.parametrize("num_users", [3, 200])
def test_clicks_without_views_are_warned_of(tmp_path, num_users):
    """Row n has user n % num_users and ad n % 2; every fourth one is a click of ad 1."""
    fields = (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    of_types = events.Events("what", view=("view",), click=("click",))
    schema = schema_lib.Schema(
        "events", fields, ("ad",), None, user_key="user", time="time", events=of_types
    )
    types = ("view", "view", "view", "click")
    rows = [f"{1_700_000_000 + n},u{n % num_users},a{n % 2},{types[n % 4]}" for n in range(400)]
    log = "\n".join(["time,user,ad,what", *rows])
    found = texts(card.build_card(converted(tmp_path, log, schema)))
    # Each of 200 users has two rows of one type: 100 clicks have no view.
    said = "100 clicks and engagements (100.0 %) have no view of their ad"
    assert (said in found) == (num_users == 200)
    assert ("have no view of their ad" in found) == (num_users == 200)


@pytest.mark.parametrize("request_key", [None, "visit"])
def test_views_of_anonymous_visitors_that_no_click_can_be_joined_to_are_warned_of(
    tmp_path, request_key
):
    """Every visit is a view and a click; a fourth of them lack the user."""
    fields = (
        schema_lib.Field("page", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    of_types = events.Events("what", view=("view",), click=("click",))
    schema = schema_lib.Schema(
        "events", fields, ("ad",), None, user_key="user", time="time", events=of_types,
        request_key=request_key,
    )  # fmt: skip
    rows = [
        f"{1_700_000_000 + n},v{n // 2},{f'u{n // 2}' if n % 8 > 1 else ''},p,a,"
        f"{('view', 'click')[n % 2]}"
        for n in range(400)
    ]
    log = "\n".join(["time,visit,user,page,ad,what", *rows])
    found = texts(card.build_card(converted(tmp_path, log, schema)))
    said = "25.0 % of the rows have no 'user': their views count as not clicked"
    assert (said in found) == (request_key is None)


def test_impressions_whose_labels_may_still_come_are_warned_of(tmp_path):
    of_types = events.Events("what", ("view",), ("click",), ("buy",), window_seconds=86_400)
    schema = schema_lib.Schema(
        "late", QUERY_AND_AD, ("ad",), None, user_key="user", time="time", events=of_types
    )
    # A view a minute; each is clicked at once, and every second one is bought 10 hours later.
    views = [(60 * n, n, "view") for n in range(3_000)]
    clicks = [(time + 1, n, "click") for time, n, _ in views]
    bought = [(time + 36_000, n, "buy") for time, n, _ in views[::2]]
    rows = sorted(row for row in (*views, *clicks, *bought) if row[0] <= views[-1][0])
    lines = [f"{1_700_000_000 + time},u{n},q,a{n % 5},{what}" for time, n, what in rows]
    text = "\n".join(["time,user,q,ad,what", *lines])
    built = card.build_card(converted(tmp_path, text, schema))
    assert "impressions are younger than 36,000 seconds at the end of the log" in texts(built)
    assert any("--engagement_window_seconds=36000" in own.action for own in built.warnings)
    assert "of the clicks come" not in texts(built)
    known = converted(tmp_path, text, schema, engagement_window_seconds=36_000)
    assert "younger than 36,000 seconds at the end" not in texts(card.build_card(known))


def test_repeated_rows_are_warned_of(tmp_path):
    times = [*range(1_700_000_000, 1_700_001_000)]
    data_set = users_log(tmp_path / "once", times, 50)
    assert data_set.description.repeated_rows == 0
    log = (tmp_path / "once" / "log.csv").read_text()
    rows = log.splitlines()[1:]
    repeated = converted(tmp_path / "once", "\n".join([log, *rows[:200]]), data_set.schema)
    assert repeated.description.repeated_rows == 200
    # 200 of 1,200.
    assert "200 rows (16.7 %) repeat another row" in texts(card.build_card(repeated))


@pytest.mark.parametrize(("ids_a_day", "num_long"), [(10, 9), (100, 0)])
def test_ids_of_requests_that_restart_each_day_are_warned_of(tmp_path, ids_a_day, num_long):
    # Ten requests a day of two rows; a tenth is on the first day alone.
    days = [n // 20 for n in range(200)]
    rows = [
        f"{1_714_521_600 + 86_400 * day + 60 * (n % 20)},{(n // 2) % ids_a_day},q{n % 3},a{n % 7},"
        f"{int(n % 5 == 0)}"
        for n, day in enumerate(days)
        if n < 20 or (n // 2) % 10 != 9
    ]
    schema = schema_lib.Schema(
        "days", QUERY_AND_AD, ("ad",), "clicked", request_key="request", time="time"
    )
    text = "\n".join(["time,request,q,ad,clicked", *rows])
    data_set = converted(tmp_path, text, schema)
    assert data_set.description.long_requests == num_long
    told = f"{num_long} requests (90.0 %) have rows that are more than a day apart."
    assert (told in texts(card.build_card(data_set))) == bool(num_long)


def test_times_in_another_unit_or_none_are_counted(tmp_path):
    times = [n * 1_000 for n in range(1_700_000_000, 1_700_000_300)]
    mixed = users_log(tmp_path / "mixed", [0, 1_700_000_000, *times], 50)
    built = card.build_card(mixed)
    assert built.time.unit == "milliseconds"
    (found,) = (own.text for own in built.warnings if "the unit of most rows" in own.text)
    assert found.startswith("2 rows (0.7 %) have a time that is not a date between 1990 and 2100")
    assert "1 would be dates in seconds and 1 would not be dates in any unit." in found


@pytest.mark.parametrize(
    ("first", "level", "text"),
    [(20_260_301, "warning", "They look like dates as digits."), (5, "note", "count as seconds.")],
)
def test_times_that_are_not_dates_are_reported_if_spans_of_time_matter(
    tmp_path, first, level, text
):
    built = card.build_card(users_log(tmp_path / "log", [first + n // 50 for n in range(300)], 50))
    (found,) = (own for own in built.warnings if "in any unit since 1970" in own.text)
    assert (found.level, found.text.endswith(text)) == (level, True)


def test_repeated_and_missing_keys_of_tables_are_warned_of(tmp_path):
    fields = (
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("brand", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("shop", fields, ("sku",), None, user_key="user")
    (tmp_path / "ads.csv").write_text("sku,brand\ns0,a\ns1,b\ns0,c\n,d\n")
    (tmp_path / "users.csv").write_text("user,age\nu0,1\nu1,2\nu0,1\n")
    rows = "".join(f"u{n % 3},s{n % 2}\n" for n in range(60))
    (tmp_path / "log.csv").write_text(f"user,sku\n{rows}")
    source = convert.Source(
        tmp_path / "log.csv",
        schema,
        "tabular",
        ads_path=tmp_path / "ads.csv",
        users_path=tmp_path / "users.csv",
    )
    convert.convert(source, tmp_path / "data")
    built = card.build_card(reader.DataSet(tmp_path / "data"))
    found = {own.text: own.level for own in built.warnings if "of the table of" in own.text}
    repeat = (
        "1 row of the table of {} repeats a key ({}); rows that differ from the last row of their "
        "key: {}."
    )
    assert found == {
        repeat.format("ads", "sku", 1): "warning",
        "1 row of the table of ads has no key (sku).": "warning",
        repeat.format("users", "user", 0): "note",
    }


@pytest.mark.parametrize(("placeholder", "num_users"), [("unknown", 121), ("", 150)])
def test_a_user_with_much_of_the_log_is_warned_of(tmp_path, placeholder, num_users):
    # 120 users have a request each, and 30 requests have no known user.
    users = [placeholder if n % 5 == 0 else f"u{n}" for n in range(150)]
    fields = (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("users", fields, ("ad",), None, user_key="user")
    rows = "".join(f"{user},a{n % 3}\n" for n, user in enumerate(users))
    built = card.build_card(converted(tmp_path, f"user,ad\n{rows}", schema))
    assert built.data.num_users == num_users
    told = (
        "One user, 'unknown', has 20.0 % of the requests, in a log of 121 users and anonymous "
        "visits."
    )
    assert (told in texts(built)) == (placeholder == "unknown")
    assert ("One user" in texts(built)) == (placeholder == "unknown")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["118", "7.0", "119", "118.0", "119.0"], (2, "118", "118.0")),
        (["7", "007", "12", "0012", "0"], (2, "7", "007")),
        # Postal codes of two countries, with one number in both.
        (["1000", "01000", "08001", "28001", "09001"], None),
        (["118", "7.0"], None),
        # Versions: 2.0 and 2 may differ.
        (["2", "2.0", "2.1"], None),
        (["a", "a.0", ""], None),
        ([], None),
    ],
)
def test_whole_numbers_that_are_written_in_two_ways_are_found(values, expected):
    found = statistics.written_twice(pa.array(values, pa.string()))
    assert (found and (found.count, found.example, found.other)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["118.0", "7.0"], "118.0"),
        ([*(f"{n}.0" for n in range(19)), "unknown"], "0.0"),
        (["118.0", "7.0", "8"], None),
        (["2.0", "2.1", "3.0"], None),
        (["1.0"], None),
        ([], None),
    ],
)
def test_columns_of_whole_floats_are_found(values, expected):
    assert statistics.written_as_float(pa.array(values, pa.string())) == expected


def test_requests_have_to_send_the_floats_of_a_log_which_is_likely_a_mistake_in_keys(tmp_path):
    # A tenth of the users are missing.
    rows = [f"{n % 5}.0,{n % 3}.0,{f'{n % 7}.0' if n % 10 else ''}\n" for n in range(100)]
    fields = (
        schema_lib.Field("q", "categorical", "query", min_count=1),
        schema_lib.Field("sku", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("ids", fields, ("sku",), None, user_key="user")
    built = card.build_card(converted(tmp_path, f"sku,q,user\n{''.join(rows)}", schema))
    found = [own for own in built.warnings if "end in '.0'" in own.text]
    levels = {"q": "note", "sku": "warning", "user": "warning"}
    pattern = r"The ids of '(\w+)' end in '\.0': requests have to send '(\d)\.0', not '\2'\."
    matches = [re.fullmatch(pattern, own.text) for own in found]
    assert {match[1]: own.level for match, own in zip(matches, found, strict=True)} == levels


def test_ids_in_two_forms_are_warned_of_once(tmp_path):
    rows = [f"{n % 5}{'.0' if n % 2 else ''},{n % 3}\n" for n in range(100)]
    fields = (
        schema_lib.Field("q", "categorical", "query", min_count=1),
        schema_lib.Field("sku", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("ids", fields, ("sku",), None)
    built = card.build_card(converted(tmp_path, f"sku,q\n{''.join(rows)}", schema))
    assert built.ads.written_twice.count == 5
    (found,) = (own.text for own in built.warnings if "written in two ways" in own.text)
    assert re.fullmatch(r"Whole numbers .* ways: sku \(5, such as (\d) and \1\.0\)\.", found)


def test_fields_that_predict_the_click_alone_are_warned_of(tmp_path):
    rng = np.random.default_rng(0)
    click = rng.random(1_000) < 0.2
    columns = {
        "copy": np.where(click, "yes", "no"),
        "noisy": (10 * click + rng.normal(size=1_000)).round(3),
        "after": np.where(click, "2024", ""),
        "tags": np.where(click, "a|b", ""),
        "user": [f"u{n % 300}" for n in range(1_000)],
        "age": rng.normal(size=1_000).round(3),
        # Informative, as a good field is.
        "good": np.where(rng.random(1_000) < 0.1, ~click, click),
        "ad": rng.integers(0, 50, 1_000),
        "click": click.astype(int),
    }
    kinds = {"noisy": "numeric", "age": "numeric", "tags": "categorical_list"}
    fields = tuple(
        schema_lib.Field(
            name,
            kinds.get(name, "categorical"),
            "ad" if name in ("copy", "ad") else "query",
            **({} if name in kinds else {"min_count": 1}),
        )
        for name in columns
        if name != "click"
    )
    rows = "\n".join(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    schema = schema_lib.Schema("leaks", fields, ("ad",), "click")
    built = card.build_card(converted(tmp_path, f"{','.join(columns)}\n{rows}\n", schema))
    (found,) = (own for own in built.warnings if "like a copy of the label" in own.text)
    assert re.findall(r"(\w+) \(AUC", found.text) == ["copy", "noisy", "after", "tags"]
    # It is wrong in a tenth of the rows: 0.9.
    assert field(built, "good").click_auc == pytest.approx(0.9, abs=0.05)


def test_values_that_are_not_in_training_do_not_predict_the_click():
    # Training never shows values 2 and 3, and its click rate is 0.5.
    train = np.array([[0, 9, 0, 0], [9, 0, 0, 0]])
    held_out = np.array([[5, 5, 0, 10], [5, 5, 10, 0]])
    clicks = {"train": train, "validation": held_out, "test": held_out}
    assert statistics.click_auc(clicks) == 0.5
    few = {"train": train, "validation": held_out // 5, "test": held_out // 5}
    assert statistics.click_auc(few) is None


def test_a_drifting_click_rate_and_unlabeled_revenue_are_warned_of(tmp_path):
    # Half of the first 1,800 rows are clicks, a tenth of the last 200.
    rows = [f"q,a{i % 5},{int(i % 2 == 0 if i < 1_800 else i % 10 == 0)},0" for i in range(2_000)]
    schema = schema_lib.Schema("drift", QUERY_AND_AD, ("ad",), "clicked", revenue="paid")
    built = card.build_card(converted(tmp_path, "q,ad,clicked,paid\n" + "\n".join(rows), schema))
    found = texts(built)
    assert "The click rate drifts from 50.0 % in training to 10.0 % in test." in found
    assert "revenue is never above 0 in the train split, so the release has no such head." in found
    assert "The number of ads, 5, is at most the 500 candidates" in found


def test_labels_without_a_click_are_warned_of(tmp_path):
    # Engaged are 0, 6, 12, …; clicked are 0, 2, 4, …; paid are 0, 3, 6, … of 80 training rows.
    rows = "".join(
        f"q{n % 5},a{n % 7},{int(n % 2 == 0)},{int(n % 6 == 0)},{2.5 * (n % 3 == 0)}\n"
        for n in range(100)
    )
    schema = schema_lib.Schema(
        "labels", QUERY_AND_AD, ("ad",), "clicked", engagement="engaged", revenue="paid"
    )
    built = card.build_card(converted(tmp_path, f"q,ad,clicked,engaged,paid\n{rows}", schema))
    found = texts(built)
    # 3, 9, …, 75.
    assert "13 train rows have revenue without a click." in found
    assert "have engagement without a click" not in found


@pytest.mark.parametrize(("unclicked", "is_reported"), [("", True), ("0", False)])
def test_engagements_of_clicked_rows_alone_are_warned_of(tmp_path, unclicked, is_reported):
    # A third of the clicked rows are engaged, and some lack the label in both logs.
    rows = "".join(
        f"q{n % 5},a{n % 7},{n % 2},{('1', '0', '')[n % 3] if n % 2 else unclicked}\n"
        for n in range(120)
    )
    schema = schema_lib.Schema("labels", QUERY_AND_AD, ("ad",), "clicked", engagement="engaged")
    built = card.build_card(converted(tmp_path, f"q,ad,clicked,engaged\n{rows}", schema))
    told = "Only clicked train rows have engagement labels; unclicked rows lack them."
    assert (told in texts(built)) == is_reported


@pytest.mark.parametrize("needs_click", [True, False])
def test_the_entry_of_a_label_says_whether_it_needs_a_click(tmp_path, monkeypatch, needs_click):
    label = schema_lib.Label("engagement", after="click" if needs_click else None)
    monkeypatch.setitem(schema_lib.LABELS, label.name, label)
    rows = "".join(f"q,a{n % 7},{n % 2},{int(n % 4 == 0)}\n" for n in range(100))
    schema = schema_lib.Schema("labels", QUERY_AND_AD, ("ad",), "clicked", engagement="saved")
    found = texts(card.build_card(converted(tmp_path, f"q,ad,clicked,saved\n{rows}", schema)))
    # 0, 4, …, 76.
    assert ("20 train rows have engagement without a click." in found) == needs_click


def test_each_label_of_0_or_1_is_shown_over_time(built_of_data_set, monkeypatch):
    assert list(built_of_data_set.time.rates) == ["click", "engagement"]
    profile = records.TimeProfile(
        low=0.0, high=2.0, by_time=False, rows=[2, 2], cart_known=[2, 1], cart_positive=[1, 0]
    )
    monkeypatch.setitem(schema_lib.LABELS, "cart", schema_lib.Label("cart", after="click"))
    assert time.describe(profile, {}).rates == {"cart": [0.5, 0.0]}


def test_an_unlabeled_test_split_is_warned_of_and_has_no_click_rate(tmp_path):
    log = logs.write(tmp_path / "log.tsv", logs.rows(300))
    unlabeled = logs.write(tmp_path / "test.tsv", [["", *row[1:]] for row in logs.rows(50, seed=1)])
    source = convert.Source(log, logs.FEW_FIELDS, test_path=(unlabeled,))
    convert.convert(source, tmp_path / "data")
    built = card.build_card(reader.DataSet(tmp_path / "data"))
    assert "The test split has no click labels." in texts(built)
    test = built.splits["test"]
    assert (test.labels["click"].missing, test.labels["click"].rate) == (50, None)
    assert test.share_with_click is None
    assert not Page(card.render_html(built)).open


def test_sampled_negatives_are_counted_separately(tmp_path):
    rows = [f"u{i % 20},{'xyz'[i % 3]},ad{i % 40}" for i in range(400)]
    schema = schema_lib.Schema("likes", QUERY_AND_AD, ("ad",), None, user_key="user")
    text = "user,q,ad\n" + "\n".join(rows)
    built = card.build_card(converted(tmp_path, text, schema, sampled_negatives=3))
    train = built.splits["train"]
    # 320 clicks, each with 3 drawn ads.
    assert (train.rows, train.sampled) == (1_280, 960)
    assert train.labels["click"].rate == 0.25
    assert built.ads.new["test"].counted == "clicks"
    assert sum(own.impressions for own in built.ads.most_shown) == 80
    assert "rows are sampled negatives, 3 for each click" in texts(built)
    actions = [own.action for own in built.warnings if "sampled negatives" in own.text]
    assert "a negative may be an ad that its user clicked" in actions[0]


def test_the_card_of_a_synthetic_log_agrees_with_its_data_set(data_set, built_of_data_set):
    built = built_of_data_set
    for split, own in built.splits.items():
        assert own.labels["click"].positive == data_set.label_sum(split, "click")
        assert own.labels["revenue"].mean * own.rows == pytest.approx(
            data_set.label_sum(split, "revenue")
        )
    assert built.ads.count == 300
    assert sum(built.time.rows) == data_set.description.source.lines
    for own in built.fields:
        assert own.drift.psi >= 0
        if own.kind == "numeric":
            assert sum(own.buckets["train"]) == pytest.approx(1)
    json.dumps(built.model_dump(mode="json"), allow_nan=False)
    assert "0 of 4,000 lines were rejected" in card.render_text(built)


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and notes ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("which", ["built", "built_of_data_set"])
def test_the_page_is_well_formed_and_needs_nothing_else(which, request):
    text = card.render_html(request.getfixturevalue(which))
    page = Page(text)
    assert not page.open
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    # What a figure refers to is in it.
    for name in re.findall(r'(?:href="|url\()#([^")]+)', text):
        assert name in page.ids


def test_values_of_the_log_are_escaped(built):
    text = card.render_html(built)
    assert "<b>A</b>" not in text
    assert "<b>A</b>" in Page(text).text


def test_histories_are_described_as_lists_and_vectors_have_no_vocabulary(tmp_path):
    fields = (
        schema_lib.Field(
            "seen", "history", "query", of="ad", event="impression", max_length=2, min_count=1
        ),
        schema_lib.Field("title", "text", "query", length=4),
        schema_lib.Field("vector", "dense", "ad", length=2, separator="|"),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("users", fields, ("ad",), "click", user_key="user", time="time")
    rows = [f"{1_700_000_000 + n},u,a{n},shoe,1|0,{n % 2}" for n in range(20)]
    text = "time,user,ad,title,vector,click\n" + "\n".join(rows)
    page = card.render_html(card.build_card(converted(tmp_path, text, schema)))
    # 16 of the 20 rows are for training: lists of 0, 1 and 14 times 2 ads, 29 in all.
    about = "1.81 values per list on average; 87.5 % have 2, the maximum."
    assert about in " ".join(page.split())
    assert "every value is too rare" not in page


@pytest.mark.process
def test_the_script_writes_a_page_and_prints_json(small, tmp_path):
    output = tmp_path / "out" / "card.html"
    done = scripts_in_forks.run(
        "inspect_dataset.py", f"--data={small.directory}", f"--output={output}", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["rows"] == 7
    assert output.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.process
def test_a_card_is_printed_even_where_its_page_cannot_be_written(small, tmp_path):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "card.html"
    done = scripts_in_forks.run(
        "inspect_dataset.py", f"--data={small.directory}", f"--output={output}"
    )
    assert done.stdout.startswith("Data card of shop: 14 lines of")
    assert "Data card with figures" not in done.stdout
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {output.parent}: ")


def test_shards_that_hold_other_rows_than_described_are_refused(small, tmp_path):
    other = reader.DataSet(small.directory)
    other.description.splits["test"].rows = 4
    with pytest.raises(
        ValueError, match=r"the test shards have 3 rows in 2 requests; dataset.json expects 4"
    ):
        split_counts.count_split(other, "test")
