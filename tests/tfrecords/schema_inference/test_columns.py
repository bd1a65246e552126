"""Proposed schemas: how they follow from names and values of columns, on small tables."""

import datetime
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest

from tfrecords import schema
from tfrecords.schema_inference import proposal as infer
from tfrecords.schema_inference.sample import sample_files

ROWS = 120


def propose(tmp_path: pathlib.Path, /, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """Proposes for 120 rows: 17 users, 7 items, requests of 4 rows of one user.

    Args:
        tmp_path: Where to write the tables.
        more: More columns of the log; `ads` is the table of ads.
    """
    ads = more.pop("ads", None)
    columns = {
        "user": [f"u{n // 4 % 17}" for n in range(ROWS)],
        "item": [f"i{n % 7}" for n in range(ROWS)],
        "request_id": [n // 4 for n in range(ROWS)],
        **more,
    }
    ads_path = None if ads is None else write(tmp_path / "ads.tsv", ads)
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)], None, ads_path)
    schema.schema_from_json(proposal)
    return proposal, notes


def write(path: pathlib.Path, columns: dict[str, Any]) -> pathlib.Path:
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def sides(proposal: dict[str, Any]) -> dict[str, str]:
    return {field["name"]: field["side"] for field in proposal["fields"]}


# Every third row, so not the same for an item or in a request.
THIRD = [int(n % 3 == 0) for n in range(ROWS)]
# Every sixth: half of them.
SIXTH = [int(n % 6 == 0) for n in range(ROWS)]
# Requests of 6 rows of one user and one item, in which events follow each other.
VISITS = {
    "user": [f"u{n // 6 % 9}" for n in range(ROWS)],
    "item": [f"i{n // 6 % 7}" for n in range(ROWS)],
    "request_id": [n // 6 for n in range(ROWS)],
}


def test_names_are_what_a_saved_model_takes_as_inputs(tmp_path: pathlib.Path) -> None:
    values = ["xyzwv"[n // 4 % 5] for n in range(ROWS)]
    names = ("User.ID", "user-id", "self", "ad_features", "Preis €", "когда", "2nd", "")
    proposal, _ = propose(tmp_path, click=THIRD, **dict.fromkeys(names, values))
    named = {f.get("column"): f["name"] for f in proposal["fields"] if "column" in f}
    assert named == {
        "User.ID": "User_ID",
        # TensorFlow makes names unique whatever their case.
        "user-id": "user_id_2",
        "self": "self_field",
        "ad_features": "ad_features_field",
        "Preis €": "Preis",
        "когда": "field",
        "2nd": "field_2nd",
    }


def test_columns_that_vary_within_a_request_are_not_on_the_query_side(
    tmp_path: pathlib.Path,
) -> None:
    proposal, notes = propose(
        tmp_path,
        click=THIRD,
        # 11 and 7 have no common factor, so these differ for an item too.
        price_usd=[10.5 + n % 11 for n in range(ROWS)],
        stars=[n % 5 + 1 for n in range(ROWS)],
        nights=[n // 4 % 3 + 1 for n in range(ROWS)],
        brand=[f"b{n % 7 % 2}" for n in range(ROWS)],
        item_country=[f"c{n % 7 % 3}" for n in range(ROWS)],
        browser=[f"w{n % 5}" for n in range(ROWS)],
        second_slot=[n % 4 for n in range(ROWS)],
    )
    assert sides(proposal) == {
        "user": "query", "item": "ad", "price_usd": "ad", "stars": "ad", "nights": "query",
        "brand": "ad", "item_country": "ad",
    }  # fmt: skip
    assert (
        "Ad side, varies within a request; the catalog stores each ad's latest value: "
        "'price_usd', 'stars'."
    ) in notes
    assert "Query side, constant within each request: 'nights'." in notes
    assert any(
        "varies within a request, which has one value" in n and "'browser'" in n for n in notes
    )
    assert any(
        "the position of the ad, which is unknown" in n and "'second_slot'" in n for n in notes
    )


def test_an_error_in_one_request_of_many_is_tolerated(tmp_path: pathlib.Path) -> None:
    columns: dict[str, list[Any]] = {
        "item": [f"i{n % 7}" for n in range(800)],
        "request_id": [n // 4 for n in range(800)],
        "click": [int(n % 3 == 0) for n in range(800)],
        "nights": [n // 4 % 3 + 1 for n in range(800)],
        "days": [n // 4 % 3 + 1 for n in range(800)],
    }
    # One of 200 requests is below, three are above the hundredth that is forgiven; they differ for
    # an item too.
    columns["nights"][1] = 9
    for row in (1, 5, 9):
        columns["days"][row] = 9
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert sides(proposal) == {"nights": "query", "item": "ad"}


@pytest.mark.parametrize(
    "name",
    ["click_bool", "is_click", "clicked_bool", "wasClicked", "label", "user_clicked", "isAdClicked",
     "clickFlg"],
)  # fmt: skip
def test_names_of_clicks(tmp_path: pathlib.Path, name: str) -> None:
    proposal, _ = propose(tmp_path, **{name: THIRD})
    assert (proposal["click"], proposal.get("click_threshold")) == (name, None)


@pytest.mark.parametrize(
    ("ad", "user", "other"),
    [
        ("iid", "uid", "page"),
        ("crid", "device_ifa", "campaign_id"),
        ("id_product", "id_customer", "id_category"),
        ("商品ID", "用户ID", "类目"),
        ("anuncio", "usuario", "campaña"),
        ("gtin", "recipient_email", "brand"),
        ("AdGroup", "user", "campaign"),
        ("ID do Anúncio", "ID do Usuário", "ID da Loja"),
    ],
)
def test_names_of_keys(tmp_path: pathlib.Path, ad: str, user: str, other: str) -> None:
    columns = {
        other: [n % 7 // 3 for n in range(ROWS)],
        ad: [n % 7 for n in range(ROWS)],
        user: [n * 5 % 17 for n in range(ROWS)],
        "click": THIRD,
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert (proposal["ad_key"], proposal["user_key"]) == ([ad], user)


@pytest.mark.parametrize(
    ("name", "ids"), [("account_id", [n % 7 // 2 for n in range(ROWS)]), ("uuid", range(ROWS))]
)
def test_ids_of_advertisers_and_rows_are_not_users(
    tmp_path: pathlib.Path, name: str, ids: Iterable[int]
) -> None:
    columns = {
        name: [f"i{n}" for n in ids],
        "ad_id": [n % 7 for n in range(ROWS)],
        "device_id": [n * 5 % 17 for n in range(ROWS)],
        "click": THIRD,
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["user_key"] == "device_id"
    assert sides(proposal).get(name, "ad") == "ad"


def test_ids_that_are_written_as_floats_are_reported(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{n % 7}.0,{n % 5},{n % 9}.0,{n % 2}\n" for n in range(90)]
    path.write_text("".join(["user_id,item_id,version,click\n", *rows]))
    _, notes = infer.propose([path])
    (said,) = [note for note in notes if "end in '.0'" in note]
    assert said.startswith("! The ids of 'user_id'")
    assert "requests have to send '0.0', not '0'" in said
    # The conversion reads numbers of Parquet as 0, not 0.0.
    log = pd.read_csv(path)
    log.to_parquet(tmp_path / "log.parquet")
    _, notes = infer.propose([tmp_path / "log.parquet"])
    assert "end in '.0'" not in " ".join(notes)


def test_ids_with_short_names_are_not_quantities(tmp_path: pathlib.Path) -> None:
    names = ("user_id", "item_id", "cookie", "pid", "campaignid", "店铺ID")
    columns = {name: [n * 7 % (60 - i) for n in range(ROWS)] for i, name in enumerate(names)}
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", {**columns, "click": THIRD})])
    assert len(proposal["fields"]) == len(names)
    assert {field["kind"] for field in proposal["fields"]} == {"categorical"}


@pytest.mark.parametrize(
    "name",
    ["booking_bool", "purchase_flag", "conv", "sale", "has_ordered", "is_like", "lead_ind", "achat",
     "is_paid", "num_orders", "conv_cnt"],
)  # fmt: skip
def test_names_of_engagements(tmp_path: pathlib.Path, name: str) -> None:
    proposal, _ = propose(tmp_path, click=THIRD, **{name: SIXTH})
    assert proposal["engagement"] == name
    assert sides(proposal) == {"user": "query", "item": "ad"}


@pytest.mark.parametrize(
    "name",
    ["gross_bookings_usd", "gmv", "SalesAmountInEuro", "order_value", "rev_usd", "total_revenue",
     "Umsatz"],
)  # fmt: skip
def test_names_of_revenues(tmp_path: pathlib.Path, name: str) -> None:
    revenue = [n + 0.5 if label else "NULL" for n, label in enumerate(SIXTH)]
    proposal, notes = propose(tmp_path, click=THIRD, **{name: revenue})
    assert proposal["revenue"] == name
    # 100 of 120.
    assert any(n.startswith(f"83.3% of the rows have no '{name}'") for n in notes)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("bookings", [n % 3 for n in range(ROWS)]),
        ("follow", SIXTH),
        ("order_total", [n % 11 for n in range(ROWS)]),
        ("num_clicks", [n % 5 for n in range(ROWS)]),
        ("watch_time_ms", [n % 13 for n in range(ROWS)]),
        ("target", [n % 2 for n in range(ROWS)]),
    ],
)
def test_an_outcome_without_a_role_is_left_out(
    tmp_path: pathlib.Path, name: str, values: list[int]
) -> None:
    labels = {"click": THIRD, "conversion": SIXTH, "revenue": SIXTH}
    proposal, notes = propose(tmp_path, **labels, **{name: values})
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any(n.startswith("Left out (known only after") and repr(name) in n for n in notes)


@pytest.mark.parametrize("nothing", ["0", "0,00", "false", ""])
def test_a_column_present_only_with_a_click_is_left_out(
    tmp_path: pathlib.Path, nothing: str
) -> None:
    # In half of the clicked rows, and in no other; the name says nothing.
    ertrag = [f"{1 + n % 8},50" if n % 6 == 0 else nothing for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, ertrag=ertrag)
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any("only in clicked rows" in n and "'ertrag'" in n for n in notes)


@pytest.mark.parametrize(
    ("types", "events"),
    [
        (
            ["view", "cart", "purchase"],
            {"view": ["view"], "click": ["cart"], "engagement": ["purchase"]},
        ),
        (
            ["view", "click", "Purchase"],
            {"view": ["view"], "click": ["click"], "engagement": ["Purchase"]},
        ),
        (
            ["impression", "view", "cart"],
            {"view": ["impression"], "click": ["view"], "engagement": ["cart"]},
        ),
        (["pv", "fav", "odd"], {"view": ["pv"], "click": ["fav"]}),
        (["listen", "like", "odd"], {"view": ["listen"], "click": ["like"]}),
        (["buy", "order", "odd"], {"click": ["buy", "order"]}),
        (["view", "page_view", "odd"], {"click": ["view", "page_view"]}),
    ],
)
def test_a_column_of_events_is_mapped_to_labels(
    tmp_path: pathlib.Path, types: list[str], events: dict[str, list[str]]
) -> None:
    # Types of events are not those of the seven items.
    proposal, notes = propose(tmp_path, **VISITS, what=[types[n // 2 % 3] for n in range(ROWS)])
    assert proposal["click"] is None
    assert proposal["events"] == {"column": "what", **events}
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any(n.startswith("'what' holds event types, which are joined to labels") for n in notes)
    assert any("'odd' will be left out" in n for n in notes) == ("odd" in types)


def test_a_column_with_one_word_of_an_event_is_a_field(tmp_path: pathlib.Path) -> None:
    page = [["view", "list", "home"][n // 4 % 3] for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, page=page)
    assert sides(proposal)["page"] == "query"


def test_a_table_of_ads_that_repeats_some_is_joined_by_its_ad(tmp_path: pathlib.Path) -> None:
    # 14 rows of 7 items.
    ads = {"item": [f"i{n % 7}" for n in range(14)], "brand": [f"b{n % 3}" for n in range(14)]}
    proposal, notes = propose(tmp_path, click=THIRD, ads=ads)
    assert proposal["ad_key"] == ["item"]
    assert sides(proposal)["brand"] == "ad"
    assert any(n.startswith("7 rows of the table of ads repeat a 'item'") for n in notes)


def test_a_log_of_jobs_and_who_seeks_them(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "jobs.tsv"
    columns = {
        "seeker_id": [f"s{n // 4 % 17}" for n in range(ROWS)],
        "job_id": [f"j{n % 7}" for n in range(ROWS)],
        "clicked": THIRD,
        "applied": SIXTH,
    }
    proposal, _ = infer.propose([write(path, columns)])
    roles = {key: proposal[key] for key in ("ad_key", "user_key", "click", "engagement")}
    assert roles == {
        "ad_key": ["job_id"],
        "user_key": "seeker_id",
        "click": "clicked",
        "engagement": "applied",
    }


@pytest.mark.parametrize(
    "name", ["clicks_last_week", "booking_window", "sort_order", "purchase_history"]
)
def test_what_only_sounds_like_an_outcome_is_proposed(tmp_path: pathlib.Path, name: str) -> None:
    proposal, _ = propose(tmp_path, click=THIRD, **{name: [n // 4 % 13 for n in range(ROWS)]})
    assert sides(proposal)[name] == "query"


def test_a_flag_that_is_constant_per_ad_is_not_an_engagement(tmp_path: pathlib.Path) -> None:
    proposal, _ = propose(tmp_path, click=THIRD, is_sale=[n % 7 // 4 for n in range(ROWS)])
    assert "engagement" not in proposal
    assert sides(proposal)["is_sale"] == "ad"


@pytest.mark.parametrize(
    ("name", "values", "share"),
    [
        ("click", [0, 1, 2], "66.7%"),
        ("clicks", [0, 0, 7], "33.3%"),
        ("num_clicks", [0, 3, 5], "66.7%"),
        ("nclicks", [0, 3, 5], "66.7%"),
        ("clickcount", [0, 3, 5], "66.7%"),
        ("cnt_clk", [0, 0, 2], "33.3%"),
        ("label", [-1, -1, 1], "33.3%"),
    ],
)
def test_counts_of_clicks_have_a_threshold(
    tmp_path: pathlib.Path, name: str, values: list[int], share: str
) -> None:
    proposal, notes = propose(tmp_path, **{name: values * 40}, rating=[1, 2, 3, 4] * 30)
    assert (proposal["click"], proposal["click_threshold"]) == (name, 1.0)
    assert sides(proposal) == {"user": "query", "item": "ad"}
    span = (
        f"{name!r} ranges from {values[0]} to {max(values)}; values of at least 1 count as clicks"
    )
    assert any(n.startswith(f"{span} ({share} of the rows)") for n in notes)


@pytest.mark.parametrize("name", ["note", "feedback", "Bewertung"])
def test_names_of_ratings(tmp_path: pathlib.Path, name: str) -> None:
    proposal, _ = propose(tmp_path, **{name: [n % 5 + 1 for n in range(ROWS)]})
    assert (proposal["click"], proposal["click_threshold"]) == (name, 4.0)
    proposal, _ = propose(tmp_path, click=THIRD, **{name: [n % 5 + 1 for n in range(ROWS)]})
    assert proposal["click"] == "click"
    assert sides(proposal) == {"user": "query", "item": "ad"}


@pytest.mark.parametrize("name", ["orders", "num_purchases", "convCnt"])
def test_counts_of_engagements_should_be_0_or_1(tmp_path: pathlib.Path, name: str) -> None:
    counts = [2 * label for label in SIXTH]
    proposal, notes = propose(tmp_path, click=THIRD, **{name: counts})
    assert name not in {*sides(proposal), proposal.get("engagement")}
    (said,) = [note for note in notes if note.startswith("! ")]
    assert said.startswith(f"! {name!r} counts from 0 to 2 and may be the engagement")
    assert f"log[{name!r}] = (log[{name!r}] > 0).astype(int)" in said


def test_outcomes_are_not_fields_if_the_click_is_in_another_language(
    tmp_path: pathlib.Path,
) -> None:
    bought = [label * 7 for label in SIXTH * 5]
    columns = {
        "user": [f"u{n // 4 % 17}" for n in range(5 * ROWS)],
        "item": [f"i{n % 7}" for n in range(5 * ROWS)],
        "cliqué": ["oui" if label else "non" for label in THIRD * 5],
        "panier": bought,
    }
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any("only in clicked rows; it may be the engagement" in note for note in notes)


def test_a_flag_is_preferred_to_a_count(tmp_path: pathlib.Path) -> None:
    proposal, _ = propose(tmp_path, click=[n % 5 for n in range(ROWS)], is_click=THIRD)
    assert (proposal["click"], proposal.get("click_threshold")) == ("is_click", None)
    assert "click" not in sides(proposal)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["yep", "no", "no"], "values such as 'yep' are not 0 or 1"),
        (["1", "", ""], "66.7% of the rows lack it and will be rejected; write 0"),
    ],
)
def test_a_click_that_cannot_be_read_is_reported_and_proposed(
    tmp_path: pathlib.Path, values: list[str], why: str
) -> None:
    proposal, notes = propose(tmp_path, click=values * 40)
    # Not null, with which every row would be a click.
    assert proposal["click"] == "click"
    assert any(why in note for note in notes)
    proposal, notes = propose(tmp_path, click=values * 40, rating=[1, 2, 3, 4] * 30)
    assert proposal["click"] == "rating"
    assert any("'rating' is used instead." in note for note in notes)


@pytest.mark.parametrize(
    "values", [["Y", "N", "N"], ["t", "f", "f"], ["TRUE", "FALSE", "FALSE"], ["y", "n", "NULL"]]
)
def test_how_databases_write_a_click(tmp_path: pathlib.Path, values: list[str]) -> None:
    clicks = values[:2] * 60
    clicks[1] = values[2]
    proposal, notes = propose(tmp_path, click=clicks)
    assert (proposal["click"], proposal.get("click_threshold")) == ("click", None)
    # 1 of 120, less than the hundredth that a conversion rejects.
    is_missing = any(n.startswith("0.83% of the rows have no 'click'") for n in notes)
    assert is_missing == (values[2] == "NULL")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("order_value", ["much", "", "little", "", ""]),
        ("liked", ["very", "", "no", "", ""]),
        ("comment", ["good stuff", "", "bad stuff", "", ""]),
    ],
)
def test_an_outcome_written_as_text_is_not_a_field(
    tmp_path: pathlib.Path, name: str, values: list[str]
) -> None:
    proposal, notes = propose(tmp_path, click=THIRD, **{name: values * 24})
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any(n.startswith("Left out (known only after") and repr(name) in n for n in notes)
    if name == "order_value":
        assert any("'order_value' is named like revenue, but values" in n for n in notes)


@pytest.mark.parametrize(("share", "is_key"), [(2, True), (20, False)])
def test_a_user_key_may_be_missing_in_most_rows(
    tmp_path: pathlib.Path, share: int, is_key: bool
) -> None:
    # Every second, or twentieth, of 120 requests of one row has a known user.
    users = [f"u{n % 6}" if n % share == 0 else "NULL" for n in range(ROWS)]
    columns = {"user_id": users, "item": [f"i{n % 7}" for n in range(ROWS)], "click": THIRD}
    country = [f"c{n % 5}" for n in range(ROWS)]
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", {**columns, "country": country})])
    assert proposal.get("user_key") == ("user_id" if is_key else None)
    assert any("have no 'user_id'; each of them counts as" in n for n in notes) == is_key


@pytest.mark.parametrize(
    ("values", "decimal"),
    [
        (["12,95", "7,5", "-3,49", "8"], ","),
        (["$12.50", "", "$7.00", "$8"], "."),
        (["1.234,50 €", "3,10 €", "7 €", "8,00 €"], ","),
        # Perhaps thousands, perhaps lists, perhaps decimals.
        (["1,000", "2,500", "3,000", "4,000"], None),
        (["123,456", "789", "123,789", "456"], None),
        (["0,512", "1,250", "12,125", "8"], None),
    ],
)
def test_formatted_numbers(tmp_path: pathlib.Path, values: list[str], decimal: str | None) -> None:
    proposal, notes = propose(tmp_path, click=THIRD, bid=values * 30)
    kind = "categorical" if decimal is None else "numeric"
    assert {f["name"]: f["kind"] for f in proposal["fields"]}["bid"] == kind
    assert proposal.get("decimal") == decimal
    assert any(n.startswith("'bid' holds numbers such as") for n in notes) == bool(decimal)
    revenue, _ = propose(tmp_path, click=THIRD, order_value=[f"{n % 5},5" for n in range(ROWS)])
    assert (revenue["revenue"], revenue["decimal"]) == ("order_value", ",")


@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (".", ",")])
def test_thousands(tmp_path: pathlib.Path, separator: str, decimal: str) -> None:
    counts = [f"{(n // 4) ** 4 * 5:,}".replace(",", separator) for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, follower_count=counts)
    assert {f["name"]: f["kind"] for f in proposal["fields"]}["follower_count"] == "numeric"
    assert proposal["decimal"] == decimal


@pytest.mark.parametrize("other", ["1,5", "0001-01-01", "€2,50"])
def test_a_value_written_differently_is_reported(tmp_path: pathlib.Path, other: str) -> None:
    bids = [f"{n // 4}.25" for n in range(ROWS - 4)]
    proposal, notes = propose(tmp_path, click=THIRD, bid=[*bids, *[other] * 4])
    assert "decimal" not in proposal
    assert any(n.startswith("'bid'") and repr(other) in n for n in notes)


def test_both_decimal_signs_in_a_file_are_reported(tmp_path: pathlib.Path) -> None:
    more = {
        "bid": [f"{n % 9},5" for n in range(ROWS)],
        "ctr_score": [n % 9 / 4 for n in range(ROWS)],
    }
    proposal, notes = propose(tmp_path, click=THIRD, **more)
    assert "decimal" not in proposal
    assert any("'bid' has decimal commas and 'ctr_score' has decimal points" in n for n in notes)


def test_revenue_with_the_other_decimal_sign_is_an_outcome(tmp_path: pathlib.Path) -> None:
    revenue = [f"{click * (5 + n % 9)},{click * n % 4 * 25:02} €" for n, click in enumerate(THIRD)]
    scores = [n % 7 / 4 for n in range(ROWS)]
    _, notes = propose(tmp_path, click=THIRD, revenue=revenue, ctr_score=scores)
    assert any("'revenue' has decimal commas" in n for n in notes)
    assert "Left out (known only after the ad was shown, by its name): 'revenue'." in notes


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_session_is_not_a_request(tmp_path: pathlib.Path, unit: int) -> None:
    # Rows of one key are a quarter of an hour apart, or a second.
    more = {"click": THIRD, "page_number": [n % 4 + 1 for n in range(ROWS)]}
    times = [1_600_000_000 * unit + n * 900 * unit for n in range(ROWS)]
    proposal, notes = propose(tmp_path, **more, time=times)
    assert "request_key" not in proposal
    assert sides(proposal) == {
        "user": "query",
        "item": "ad",
        "page_number": "query",
        "recent_clicks": "query",
    }
    assert any("'request_id' is a session, not a request" in n for n in notes)
    times = [1_600_000_000 * unit + n * unit for n in range(ROWS)]
    proposal, notes = propose(tmp_path, **more, time=times)
    assert proposal["request_key"] == "request_id"
    # A property of the page, not of the item.
    assert sides(proposal) == {"user": "query", "item": "ad", "recent_clicks": "query"}
    assert any(
        "for an ad, but the catalog stores one value per ad" in n and "'page_number'" in n
        for n in notes
    )


@pytest.mark.parametrize(
    ("values", "role"),
    [
        # Rows of a session are adjacent, or an item apart.
        ([f"s{n // 4}" for n in range(ROWS)], "request"),
        ([f"s{n // 8 * 2 + n % 2}" for n in range(ROWS)], "left out"),
        # The first, second, … session of each user, and a kind of session.
        ([n % 23 for n in range(ROWS)], "field"),
        ([["app", "web"][n // 4 % 2] for n in range(ROWS)], "field"),
    ],
)
def test_a_session_without_more_words_is_an_id_by_its_values(
    tmp_path: pathlib.Path, values: list[Any], role: str
) -> None:
    columns = {
        "user": [f"u{n // 8}" for n in range(ROWS)],
        "item": [f"i{n % 7}" for n in range(ROWS)],
        "session": values,
        "click": THIRD,
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert ("session" in sides(proposal)) == (role == "field")
    assert (proposal.get("request_key") == "session") == (role == "request")


@pytest.mark.parametrize(("period", "side"), [(3, None), (ROWS, None), (30, "query")])
def test_values_that_never_return_are_not_a_field(
    tmp_path: pathlib.Path, period: int, side: str | None
) -> None:
    # A new value every three or two rows, or one of 30 that come back.
    visits = [f"v{n // 3}" if period == 3 else f"v{n // 2 % period}" for n in range(ROWS)]
    times = [1_600_000_000 + 900 * n for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, time=times, visited_in=visits)
    assert sides(proposal).get("visited_in") == side
    assert any("as with ids of sessions): 'visited_in'" in n for n in notes) == (side is None)


def test_order_numbers_are_not_a_field(tmp_path: pathlib.Path) -> None:
    rows = range(10 * ROWS)
    columns = {
        "OrderNo": [5000 + n // 5 for n in rows],
        "user": [f"u{n // 5 * 7 % 60}" for n in rows],
        "item": [f"i{n * n % 11}" for n in rows],
        "time": [1_600_000_000 + 900 * (n // 5) for n in rows],
    }
    # The lines of an order are not adjacent.
    for values in columns.values():
        values[::2] = values[::2][::-1]
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert "OrderNo" not in sides(proposal)
    assert any("later rows do not repeat" in n and "'OrderNo'" in n for n in notes)


def test_a_session_replaces_a_missing_user(tmp_path: pathlib.Path) -> None:
    columns = {
        "session": [f"s{n // 4}" for n in range(ROWS)],
        "aid": [f"i{n % 7}" for n in range(ROWS)],
        "type": [("clicks", "clicks", "clicks", "orders")[n % 4] for n in range(ROWS)],
        "ts": [1_600_000_000_000 + 60_000 * n for n in range(ROWS)],
    }
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    schema.schema_from_json(proposal)
    assert proposal["user_key"] == "session"
    assert proposal["events"]["engagement"] == ["orders"]
    assert sides(proposal) == {"aid": "ad", "recent_clicks": "query"}
    assert any("each 'session' counts as a user" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "side"),
    [
        # Half price in every eighth row; two prices that often change, which would tell the query
        # tower the item; and a price that has nothing to do with the item.
        ([(10 + n % 7) / (1 + (n % 8 == 0)) for n in range(ROWS)], "ad"),
        ([(10 + n % 7) / (1 + (n // 7 % 3 == 0)) for n in range(ROWS)], None),
        ([1 + n * 37 % 101 for n in range(ROWS)], "query"),
    ],
)
def test_a_price_with_discounts_is_on_the_ad_side(
    tmp_path: pathlib.Path, values: list[float], side: str | None
) -> None:
    times = [1_600_000_000 + 900 * n for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, time=times, price=values)
    assert sides(proposal).get("price") == side
    assert any("(about the ad by name, but changes often" in note for note in notes) == (not side)


def test_reviews_by_users_are_not_fields(tmp_path: pathlib.Path) -> None:
    columns = {
        "reviewerID": [f"A{n % 17:05}" for n in range(ROWS)],
        "asin": [f"B{n % 7:05}" for n in range(ROWS)],
        "overall": [1 + n * 7 % 5 for n in range(ROWS)],
        "reviewText": [("good", "bad", "it was good")[n * 5 % 3] for n in range(ROWS)],
        "unixReviewTime": [1_400_000_000 + 900 * n for n in range(ROWS)],
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["user_key"] == "reviewerID"
    assert sides(proposal) == {"reviewerID": "query", "asin": "ad", "recent_clicks": "query"}


@pytest.mark.parametrize("name", ["play_duration", "play_count", "interaction_type"])
def test_outcomes_are_not_fields(tmp_path: pathlib.Path, name: str) -> None:
    values = [n * 5 % 23 for n in range(ROWS)]
    proposal, _ = propose(tmp_path, **{name: values})
    assert proposal["click"] is None
    assert sides(proposal) == {"user": "query", "item": "ad"}
    # A property of the items.
    proposal, _ = propose(tmp_path, **{name: [n % 7 * 10 for n in range(ROWS)]})
    assert sides(proposal)[name] == "ad"


def test_city_codes_are_not_quantities(tmp_path: pathlib.Path) -> None:
    proposal, _ = propose(
        tmp_path,
        click=THIRD,
        city=[n // 4 * 7 % 30 * 9 for n in range(ROWS)],
        city_population=[n // 4 * 7 % 30 * 900 for n in range(ROWS)],
        user_segid=[n // 4 * 7 % 30 * 90 for n in range(ROWS)],
    )
    kinds = {field["name"]: field["kind"] for field in proposal["fields"]}
    assert kinds["city_population"] == "numeric"
    assert kinds["city"] == kinds["user_segid"] == "categorical"


def test_an_engagement_without_a_click_is_the_click(tmp_path: pathlib.Path) -> None:
    proposal, notes = propose(tmp_path, purchase=SIXTH)
    assert (proposal["click"], proposal.get("engagement")) == ("purchase", None)
    assert any(n.startswith("No column is named like a click, so 'purchase' is") for n in notes)


@pytest.mark.parametrize("name", ["click_time", "clicked_at", "clickTimestamp"])
def test_a_time_of_clicks_is_reported_if_no_column_is_the_click(
    tmp_path: pathlib.Path, name: str
) -> None:
    times = [f"2024-05-01T00:{n % 60:02}:00" if THIRD[n] else "" for n in range(ROWS)]
    proposal, notes = propose(tmp_path, **{name: times})
    assert proposal["click"] is None
    told = f"! {name!r} is in 33.3% of the rows and may be the time of a click."
    (note,) = [n for n in notes if n.startswith(told)]
    assert note.endswith(f'log["click"] = log[{name!r}].notna().astype(int)')
    _, notes = propose(tmp_path, click=THIRD, **{name: times})
    assert not any("may be the time of a click" in n for n in notes)


def test_labels_that_are_positive_without_a_click_are_reported(tmp_path: pathlib.Path) -> None:
    # 40 rows are clicks. Every sixth row is one of them; of every fourth, two thirds are not.
    fourth = [2.5 * (n % 4 == 0) for n in range(ROWS)]
    _, notes = propose(tmp_path, click=THIRD, conversion=SIXTH, revenue=fourth)
    told = [note for note in notes if "have no click" in note]
    assert [note.partition(" have no")[0] for note in told] == [
        "66.7% of the rows with a positive 'revenue'"
    ]


@pytest.mark.parametrize(
    ("currencies", "is_reported"), [(["EUR", "USD", "JPY"], True), (["EUR"] * 3, False)]
)
def test_amounts_in_several_currencies_are_reported(
    tmp_path: pathlib.Path, currencies: list[str], is_reported: bool
) -> None:
    paid = [2.5 * third for third in THIRD]
    _, notes = propose(tmp_path, click=THIRD, revenue=paid, currency=currencies * (ROWS // 3))
    told = "! 'currency' has 3 currencies such as 'EUR', 'USD', and 'revenue' would be added up"
    assert any(note.startswith(told) for note in notes) == is_reported


@pytest.mark.parametrize(("unclicked", "is_reported"), [("", True), ("0", False)])
def test_an_engagement_only_in_clicked_rows_is_reported(
    tmp_path: pathlib.Path, unclicked: str, is_reported: bool
) -> None:
    ordered = [SIXTH[n] if THIRD[n] else unclicked for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, ordered=ordered)
    assert proposal["engagement"] == "ordered"
    assert any(n.startswith("! Only clicked rows have 'ordered'.") for n in notes) == is_reported


def test_counts_of_an_ad_over_the_whole_log_are_left_out(tmp_path: pathlib.Path) -> None:
    of_item = [n % 7 * 3 for n in range(ROWS)]
    ads = {"item": [f"i{n}" for n in range(7)], "ctr": [0.1 + n for n in range(7)]}
    ads |= {"views": [n * 5 for n in range(7)], "click_url": [f"x{n % 3}" for n in range(7)]}
    proposal, notes = propose(tmp_path, ads=ads, clicked=THIRD, clicks=of_item, impressions=of_item)
    assert proposal["click"] == "clicked"
    assert sides(proposal) == {"user": "query", "item": "ad", "views": "ad", "click_url": "ad"}
    left_out = next(n for n in notes if n.startswith("Left out (a count of outcomes"))
    assert left_out.endswith("add it if it was counted before): 'clicks', 'impressions', 'ctr'.")
    assert any(n.startswith("'views' looks like a count of outcomes") for n in notes)


def test_a_history_is_a_list_even_if_every_row_differs(tmp_path: pathlib.Path) -> None:
    lists = [" ".join(f"N{(n // 4 * k + k) % 31}" for k in (1, 3, 5)) for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, clicked_articles=lists)
    (field,) = [f for f in proposal["fields"] if f["name"] == "clicked_articles"]
    assert (field["kind"], field["side"]) == ("categorical_list", "query")
    assert (field["separator"], field["max_list_length"]) == (" ", 3)


def test_a_list_that_holds_the_ad_if_it_was_clicked_is_left_out(tmp_path: pathlib.Path) -> None:
    # The clicked items of a request, and another one.
    clicked = [[f"i{n % 7}" for n in range(r, r + 4) if THIRD[n]] for r in range(0, ROWS, 4)]
    lists = [" ".join([*clicked[n // 4], f"i{n // 4 + 50}"]) for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, clicked_items=lists)
    assert "clicked_items" not in sides(proposal)
    assert any("its lists contain the ad of the row if it was clicked" in note for note in notes)


def test_keys_and_numbered_categories_are_categorical(tmp_path: pathlib.Path) -> None:
    columns = {
        "uid": [n % 40 for n in range(ROWS)],
        "campaign": [n % 23 for n in range(ROWS)],
        "click": THIRD,
        "cat1": [n % 19 for n in range(ROWS)],
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert {f["name"]: f["kind"] for f in proposal["fields"]} == {
        "uid": "categorical", "campaign": "categorical", "cat1": "categorical"
    }  # fmt: skip


def test_numbers_too_large_for_the_converter_are_categorical(tmp_path: pathlib.Path) -> None:
    values = [f"{n // 4 % 9}e30{n // 4 % 2}" for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, huge=values)
    assert {f["name"]: f["kind"] for f in proposal["fields"]}["huge"] == "categorical"


def test_a_column_equal_in_adjacent_rows_is_the_request(tmp_path: pathlib.Path) -> None:
    numbers = [n // 4 * 7 for n in range(ROWS)]
    columns = {
        "user": [f"u{n // 4 % 17}" for n in range(ROWS)],
        "item": [f"i{n % 7}" for n in range(ROWS)],
        "click": THIRD,
        "batch": numbers,
        "turn": [n // 4 // 17 * 4 + n % 4 for n in range(ROWS)],
    }
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["request_key"] == "batch"
    # The rows of each user are numbered in their order.
    assert sides(proposal) == {"user": "query", "item": "ad"}
    assert any("'batch' is equal in adjacent rows" in n for n in notes)
    assert any("counts 0, 1, 2" in n and "'turn'" in n for n in notes)


def test_numbers_of_the_requests_of_each_user_are_not_a_field(tmp_path: pathlib.Path) -> None:
    # Each of 20 users has 6 orders of 3 products; the log begins within the orders of the first.
    rows = [
        (f"o{user}-{number}", f"u{user}", number, f"p{(user + number * k) % 50}", 7 * user % 11)
        for user in range(20)
        for number in range(4 if user == 0 else 1, 7)
        for k in range(3)
    ]
    path = tmp_path / "orders.csv"
    lines = [
        "order_id,user_id,order_number,product_id,shop",
        *(",".join(map(str, r)) for r in rows),
    ]
    path.write_text("\n".join(lines) + "\n")
    proposal, notes = infer.propose([path])
    assert proposal["request_key"] == "order_id"
    assert "order_number" not in {field["name"] for field in proposal["fields"]}
    assert any("--split=leave_last_out" in n and "'order_number'" in n for n in notes)


def test_codes_are_categories_and_titles_are_shown(tmp_path: pathlib.Path) -> None:
    of_item = {
        # Its name sounds like the user's.
        "device_code": [n % 7 % 5 for n in range(ROWS)],
        "item_title": [f"A thing {n % 7}" for n in range(ROWS)],
        "image_url": [f"http://x/{n % 7}.png" for n in range(ROWS)],
    }
    proposal, notes = propose(
        tmp_path, click=THIRD, **of_item, stage=[n // 4 % 13 for n in range(ROWS)]
    )
    assert proposal["show"] == ["item_title", "image_url"]
    own = {f["name"]: (f["kind"], f["side"]) for f in proposal["fields"]}
    assert own["device_code"] == ("categorical", "ad")
    assert own["stage"] == ("categorical", "query")
    assert any("'stage' has 13 different whole numbers: is it a code" in n for n in notes)


@pytest.mark.parametrize(
    ("first", "time_format"),
    [
        ("202603{:02}", "%Y%m%d"),
        ("202603{:02}0003", "%Y%m%d%H%M"),
        ("202603{:02}000306", "%Y%m%d%H%M%S"),
        ("260203{:02}", "%y%m%d%H"),
        # No month 33 or 23, and numbers of another length.
        ("202633{:02}", None),
        ("122303{:02}", None),
        ("20260{:02}", None),
    ],
)
def test_dates_as_digits_have_a_format(
    tmp_path: pathlib.Path, first: str, time_format: str | None
) -> None:
    days = [first.format(n // 12 + 10) for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, date=days)
    assert proposal["time"] == "date"
    assert proposal.get("time_format") == time_format


def test_hours_that_count_up_are_the_time(tmp_path: pathlib.Path) -> None:
    proposal, notes = propose(tmp_path, click=THIRD, ts=[n // 4 for n in range(ROWS)])
    assert proposal["time"] == "ts"
    assert any("if they are hours or days, multiply them by 3600 or" in note for note in notes)


def without_requests(**more: list[Any]) -> dict[str, list[Any]]:
    """Returns the columns of 1,200 rows of 600 users and 7 items, without a request."""
    return {
        "user": [f"u{n // 2}" for n in range(1200)],
        "item": [f"i{n % 7}" for n in range(1200)],
        "click": [int(n % 3 == 0) for n in range(1200)],
        **more,
    }


def test_an_error_does_not_move_a_property_of_ads_to_the_query(tmp_path: pathlib.Path) -> None:
    genre = [f"g{n % 7 % 3}" for n in range(1200)]
    genre[3] = "g9"
    # As rare as a slip, but the item says nothing about it.
    promoted_by = ["nobody"] * 1200
    promoted_by[3] = promoted_by[5] = "mail"
    columns = without_requests(genre=genre, promoted_by=promoted_by)
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert sides(proposal) == {"user": "query", "item": "ad", "genre": "ad", "promoted_by": "query"}


def test_a_property_of_ads_may_change(tmp_path: pathlib.Path) -> None:
    later = [n // 600 for n in range(1200)]
    columns = without_requests(
        price=[n % 7 + 0.5 + later[n] for n in range(1200)],
        wording=[f"{'new' if later[n] else 'old'}-{n % 7}" for n in range(1200)],
        weather=["rain" if n % 5 else "sun" for n in range(1200)],
    )
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert sides(proposal) == {
        "user": "query", "item": "ad", "price": "ad", "wording": "ad", "weather": "query",
    }  # fmt: skip
    assert any("catalog stores its latest value: 'price', 'wording'" in note for note in notes)


def test_the_time_orders_the_changes_of_an_ad(tmp_path: pathlib.Path) -> None:
    # 1,200 has no factor in common with 457, so all rows come, in another order.
    order = [n * 457 % 1200 for n in range(1200)]
    price = [n % 7 + 0.5 + n // 60 for n in range(1200)]
    columns = without_requests(price=price, ts=[1_700_000_000 + 60 * n for n in range(1200)])
    shuffled = {name: [values[n] for n in order] for name, values in columns.items()}
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", shuffled)])
    assert sides(proposal)["price"] == "ad"
    del shuffled["ts"]
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", shuffled)])
    assert sides(proposal)["price"] == "query"


def test_columns_that_change_with_each_impression_are_on_the_query_side(
    tmp_path: pathlib.Path,
) -> None:
    # The rows of an item are 7 apart, which has no factor in common with 5 or 20.
    context = {
        "bid_floor": [n % 5 / 2 for n in range(1200)],
        # In 95 % of the rows it is the same.
        "promo_code": ["none" if n % 20 else "mail" for n in range(1200)],
        # Each leads to one item.
        "placement": [f"p{n % 7}-{n % 5}" for n in range(1200)],
    }
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", without_requests(**context))])
    assert sides(proposal) == {"user": "query", "item": "ad", **dict.fromkeys(context, "query")}


@pytest.mark.parametrize("form", ["201{}0{}15", "201{}-0{}-15"])
def test_dates_of_ads_and_users_are_fields(tmp_path: pathlib.Path, form: str) -> None:
    columns = without_requests(
        user=[f"u{n % 400}" for n in range(1200)],
        release_date=[form.format(n % 7, 1 + n % 7) for n in range(1200)],
        signup_day=[form.format(n % 400 % 10, 1 + n % 400 % 9) for n in range(1200)],
    )
    expected = {"user": "query", "item": "ad", "release_date": "ad", "signup_day": "query"}
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert "time" not in proposal
    assert sides(proposal) == expected
    columns["ts"] = [1_700_000_000 + 60 * n for n in range(1200)]
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["time"] == "ts"
    assert {**sides(proposal), **expected} == sides(proposal)


def test_a_day_is_a_time_even_if_each_user_comes_on_one_day(tmp_path: pathlib.Path) -> None:
    # 24 days with 25 users each, who come twice.
    columns = without_requests(
        user=[f"u{n // 50}-{n % 25}" for n in range(1200)],
        shown_date=[f"2024-05-{1 + n // 50:02d}" for n in range(1200)],
    )
    proposal, _ = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["time"] == "shown_date"
    columns["ts"] = [1_700_000_000 + 1_728 * n for n in range(1200)]
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["time"] == "ts"
    assert any("later requests have later times): 'shown_date'" in note for note in notes)


def test_headers_within_a_log_are_left_out_and_reported(tmp_path: pathlib.Path) -> None:
    more: dict[str, Any] = {
        "click": list(THIRD),
        "revenue": [n % 5 + 0.5 for n in range(ROWS)],
        "ts": [1_700_000_000 + n // 4 for n in range(ROWS)],
    }
    once = write(
        tmp_path / "once.tsv",
        {
            "user": [f"u{n // 4 % 17}" for n in range(ROWS)],
            "item": [f"i{n % 7}" for n in range(ROWS)],
            **more,
        },
    )
    expected, _ = infer.propose([once])
    twice = tmp_path / "twice.tsv"
    lines = once.read_text().splitlines(keepends=True)
    twice.write_text("".join([*lines[:61], lines[0], *lines[61:]]))
    proposal, notes = infer.propose([twice])
    assert proposal == {**expected, "name": "twice"}
    assert any("line 62 repeats the header (such lines in the sample: 1)" in n for n in notes)
    once.write_text(lines[0] * 3)
    with pytest.raises(ValueError, match="has no rows, only repeated header lines"):
        infer.propose([once])


def test_a_note_quotes_a_value_that_is_wrong(tmp_path: pathlib.Path) -> None:
    _, notes = propose(
        tmp_path,
        click=[*["0", "1"] * 58, *["oops"] * 4],
        revenue=[*["1.5", "2.5"] * 58, *["much"] * 4],
        bid=["7", "8", "1,200.50", "9"] * 30,
    )
    said = " ".join(notes)
    assert "values such as 'oops' are not 0 or 1" in said
    assert "'revenue' is named like revenue, but values such as 'much' are not numbers" in said
    assert "'bid' holds numbers such as '1,200.50'" in said


@pytest.mark.parametrize("odd", ["unknown", ""])
@pytest.mark.parametrize("form", ["{}", "2024-01-05 10:00:{:02d}", "14.01.2024 10:00:{:02d}"])
def test_a_few_rows_without_a_time_are_reported(
    tmp_path: pathlib.Path, form: str, odd: str
) -> None:
    times = [form.format(n // 4 + (1_700_000_000_000 if form == "{}" else 0)) for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, ts=[odd, *times[1:]])
    assert proposal["time"] == "ts"
    assert proposal.get("time_format") == ("%d.%m.%Y %H:%M:%S" if "." in form else None)
    assert "decimal" not in proposal
    assert "0.83% of the rows lack 'ts' and are rejected." in notes
    assert any("'ts' such as 'unknown', which is not a time" in n for n in notes) == bool(odd)


def test_dates_of_few_rows_decide_between_day_and_month(tmp_path: pathlib.Path) -> None:
    # Only the last row, fewer than a hundredth, says which number is the month.
    times = [f"0{n // 4 % 9 + 1}/05/2024" for n in range(ROWS)]
    proposal, _ = propose(tmp_path, click=THIRD, date=[*times[:-1], "01/13/2024"])
    assert proposal["time_format"] == "%m/%d/%Y"


@pytest.mark.parametrize(
    "time_format",
    ["%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y %H:%M", "%d-%m-%Y %H:%M", "%m/%d/%y %I:%M %p", "%y/%m/%d"],
)
def test_ambiguous_dates_are_read_in_the_order_in_which_they_are_closest(
    tmp_path: pathlib.Path, time_format: str
) -> None:
    # From February 1 to 10: days and months may be swapped.
    start = datetime.datetime(2026, 2, 1)
    times = [(start + datetime.timedelta(hours=2 * n)).strftime(time_format) for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, date=times)
    assert (proposal["time"], proposal["time_format"]) == ("date", time_format)
    said = next(note for note in notes if "time_format" in note)
    assert said.startswith(f"'date' is read in the format {time_format!r} (time_format). '")
    assert "it is read as February " in said
    if "%Y" in time_format:
        assert "can be February 1, 2026 or January 2, 2026;" in said
    assert said.endswith("Change time_format if this is wrong.")


@pytest.mark.parametrize(
    "time_format",
    [
        "%d-%b-%Y %H:%M:%S",
        "%Y/%m/%d %H:%M",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%m/%d/%Y, %I:%M:%S %p",
        "%Y-%m-%d %H:%M:%S,%f",
        "%b %d, %Y @ %H:%M:%S.%f",
        "%b %d %Y %I:%M%p",
        "%d-%b-%y %I.%M.%S.%f %p",
        "%Y%m%d%H",
    ],
)
def test_formats_of_times_are_recognized(tmp_path: pathlib.Path, time_format: str) -> None:
    start = datetime.datetime(2026, 1, 1)
    times = [(start + datetime.timedelta(hours=6 * n)).strftime(time_format) for n in range(ROWS)]
    proposal, notes = propose(tmp_path, click=THIRD, timestamp=times)
    assert (proposal["time"], proposal["time_format"]) == ("timestamp", time_format)
    assert f"'timestamp' is read in the format {time_format!r} (time_format)." in notes


@pytest.mark.parametrize("label", ["click", "isClicked", "label"])
def test_the_click_of_an_object_in_a_list_is_found(tmp_path: pathlib.Path, label: str) -> None:
    lines = [
        {
            "user": f"u{n % 17}",
            "ts": 1_700_000_000 + n,
            "items": [{"id": f"i{(n + m) % 7}", label: (n + m) % 3 == 0} for m in range(3)],
        }
        for n in range(ROWS)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    proposal, _ = infer.propose([path], None, None)
    assert (proposal["click"], proposal["ad_key"]) == (f"items.{label}", ["items.id"])


def test_lines_of_bad_objects_in_a_list_are_named(tmp_path: pathlib.Path) -> None:
    items = [[{"id": f"i{n % 7}", "click": n % 2}, {"id": "j", "click": 0}] for n in range(ROWS)]
    items[4] = []
    items[8][1]["id"] = [{}]
    path = tmp_path / "log.jsonl"
    path.write_text(
        "\n".join(json.dumps({"user": f"u{n}", "items": own}) for n, own in enumerate(items))
    )
    _, notes = infer.propose([path], None, None)
    assert f"{path}: 1 bad rows, the first on line 9: items.id: expected one value" in " ".join(
        notes
    )


def test_a_few_rows_without_an_ad_are_reported(tmp_path: pathlib.Path) -> None:
    # One of 2,000 is 0.05%.
    columns = {
        "user": [f"u{n % 17}" for n in range(2_000)],
        "item": ["", *(f"i{n % 7}" for n in range(1, 2_000))],
        "click": [int(n % 3 == 0) for n in range(2_000)],
    }
    _, notes = infer.propose([write(tmp_path / "log.tsv", columns)], None, None)
    assert "less than 0.1% of the rows have no 'item'; they will be rejected." in notes


def test_a_time_that_many_rows_lack_is_reported(tmp_path: pathlib.Path) -> None:
    times = [1_700_000_000 + n // 4 for n in range(ROWS)]
    lacking = [*[""] * 3, *times[3:]]
    proposal, notes = propose(tmp_path, click=THIRD, ts=lacking)
    assert "time" not in proposal
    said = " ".join(notes)
    assert "'ts' is not the time, because 2.5% of the rows lack it" in said
    assert "--max_rejected_fraction=0.03" in said
    proposal, notes = propose(tmp_path, click=THIRD, ts=lacking, server_time=times)
    assert proposal["time"] == "server_time"
    assert "is not the time" not in " ".join(notes)


def test_a_column_in_the_name_of_a_folder_is_reported_as_left_out(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "dt=2024-05-01"
    folder.mkdir()
    _, notes = propose(folder, click=THIRD)
    assert any("Left out: the column 'dt' of the folder dt=2024-05-01" in note for note in notes)
    _, notes = propose(folder, click=THIRD, dt=["2024-05-01"] * ROWS)
    assert "of the folder" not in " ".join(notes)


def test_columns_of_later_files_are_reported(tmp_path: pathlib.Path) -> None:
    log = without_requests()
    first = write(tmp_path / "1.tsv", log)
    last = write(tmp_path / "2.tsv", {**log, "channel": ["mail"] * 1200})
    proposal, notes = infer.propose([first, last])
    assert "channel" not in sides(proposal)
    said = (
        f"Left out: columns that are not in {first}: 'channel' (in {last}). To use them, add them"
    )
    assert any(said in note for note in notes)
    _, notes = infer.propose([first, first])
    assert "lacks" not in " ".join(notes)


@pytest.mark.parametrize("in_views", [".5", "", "0"])
def test_the_price_of_events_is_a_field_only_if_impressions_have_it(
    tmp_path: pathlib.Path, in_views: str
) -> None:
    what = [["view", "cart", "purchase"][n // 2 % 3] for n in range(ROWS)]
    is_field = in_views == ".5"
    price = [
        f"{VISITS['item'][n][1:] * is_field}{in_views}" if type_ != "purchase" else f"{n % 11}.5"
        for n, type_ in enumerate(what)
    ]
    proposal, notes = propose(tmp_path, **VISITS, what=what, price=price)
    assert proposal["revenue"] == "price"
    assert ("price" in sides(proposal)) == is_field
    assert any("Impressions have it too" in note for note in notes) == is_field
    assert any("Most impressions lack it" in note for note in notes) != is_field


def test_lists_in_brackets_are_lists(tmp_path: pathlib.Path) -> None:
    tags = ["['a', 'b']", "['c']", "[]", "", "['b', 'c', 'a']"]
    more = {
        "tags": [tags[n // 4 % 5] for n in range(ROWS)],
        "vector": [f"[{n // 4 % 5}.5, 0.25]" for n in range(ROWS)],
        "marks": [["[new]", "[old]"][n // 4 % 2] for n in range(ROWS)],
    }
    proposal, notes = propose(tmp_path, click=THIRD, **more)
    kinds = {field["name"]: field for field in proposal["fields"]}
    assert kinds["tags"]["kind"] == "categorical_list"
    assert kinds["tags"]["max_list_length"] == 3
    assert (kinds["vector"]["kind"], kinds["vector"]["length"]) == ("dense", 2)
    assert kinds["marks"]["kind"] == "categorical"
    assert any(n.startswith("'marks' holds texts such as '[new]', each of them one") for n in notes)
    assert "'tags' holds lists in brackets, such as \"['b', 'c', 'a']\"." in notes


def test_the_revenue_of_events_is_only_in_rows_of_engagements(tmp_path: pathlib.Path) -> None:
    what = [["view_item", "add_to_cart", "purchase"][n // 2 % 3] for n in range(ROWS)]
    bought = [type_ == "purchase" for type_ in what]

    def values_of_purchases(number: float) -> list[Any]:
        return [number + n % 11 if is_bought else "" for n, is_bought in enumerate(bought)]

    more = {
        **VISITS,
        "event_name": what,
        "price": [f"{n % 11}.5" for n in range(ROWS)],
        "quantity": values_of_purchases(1),
        "tax_value": values_of_purchases(0.25),
        "ecommerce_value": values_of_purchases(2.5),
        "purchase_revenue": values_of_purchases(3.5),
    }
    proposal, notes = propose(tmp_path, **more)
    assert proposal["revenue"] == "purchase_revenue"
    assert sides(proposal) == {"user": "query", "item": "ad", "price": "ad"}
    left_out = "'quantity', 'tax_value', 'ecommerce_value'"
    assert f"Left out (empty or 0 in all impressions): {left_out}." in notes
    # The revenue of a purchase is in the row of each of its items.
    proposal, _ = propose(tmp_path, **more, item_revenue=values_of_purchases(1.5))
    assert proposal["revenue"] == "item_revenue"


def test_placeholders_of_categories_are_values(tmp_path: pathlib.Path) -> None:
    brands = [("acme", "NULL", "", "zeta", "acme", "zeta")[n // 4 % 6] for n in range(ROWS)]
    prices = ["NULL" if brand == "NULL" else f"{n % 9}.5" for n, brand in enumerate(brands)]
    _, notes = propose(tmp_path, user_brand=brands, user_price=prices)
    said = [note for note in notes if "is a value like others" in note]
    assert [note.partition(" of the rows")[0] for note in said] == [
        "! 'user_brand' is 'NULL' in 16.7%"
    ]


def test_fields_are_read_from_impressions_if_clicks_lack_them_or_differ(
    tmp_path: pathlib.Path,
) -> None:
    what = [["impression", "click"][n // 2 % 3 // 2] for n in range(ROWS)]
    shown = [type_ == "impression" for type_ in what]
    devices = [f"d{n // 6 % 5}" if seen else "" for n, seen in enumerate(shown)]
    more = {
        "device": devices,
        "position": [n % 4 if seen else "" for n, seen in enumerate(shown)],
        "status": [200 if seen else 302 for seen in shown],
        "landing": ["" if seen else f"p{n % 5}" for n, seen in enumerate(shown)],
    }
    proposal, notes = propose(tmp_path, **VISITS, what=what, **more)
    assert proposal["request_key"] == "request_id"
    assert proposal["position"] == "position"
    assert sides(proposal) == {"user": "query", "item": "ad", "device": "query"}
    assert "Left out (the same value in all impressions): 'status'." in notes
    assert "Left out (empty or 0 in all impressions): 'landing'." in notes
    assert any("Events of one ad in one request belong" in note for note in notes)


def test_a_history_is_proposed_if_users_click_again_not_if_they_see_again(
    tmp_path: pathlib.Path,
) -> None:
    items = [f"i{n // 4 % 7}" for n in range(ROWS)]
    times = [1_700_000_000 + 60 * (n // 4) for n in range(ROWS)]
    # 17 users click in their first of 30 requests, or also in the second, which 13 users have.
    for last, is_proposed in ((17 * 4, False), (ROWS, True)):
        what = ["click" if n % 4 == 3 and n < last else "view" for n in range(ROWS)]
        of_clicks = {"item": items, "what": what, "time": times}
        proposal, notes = propose(tmp_path, **of_clicks)
        assert ("recent_clicks" in sides(proposal)) == is_proposed
        said = "(87% of the rows are from users with several clicks)"
        assert any(said in note for note in notes) == is_proposed
        # A click may name its request and not the user.
        users = ["" if type_ == "click" else f"u{n // 4 % 17}" for n, type_ in enumerate(what)]
        proposal, _ = propose(tmp_path, **of_clicks, user=users)
        assert (proposal["request_key"], proposal["user_key"]) == ("request_id", "user")
        assert "events" in proposal
        assert ("recent_clicks" in sides(proposal)) == is_proposed


def test_events_that_no_view_precedes_are_outcomes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 119 pairs of 17 users and 7 items: row 119 has the pair of row 0, so it alone has a view.
    status = [["impression", "impression", "click", "purchase"][n % 4] for n in range(ROWS)]
    log = {"user": [f"u{n % 17}" for n in range(ROWS)], "status": status}
    proposal, notes = propose(tmp_path, **log)
    assert proposal["click"] is None
    assert "events" not in proposal
    assert "status" not in sides(proposal)
    warning = next(note for note in notes if note.startswith("! "))
    assert "'status' holds event types, but 98% of the clicks have no view" in warning
    assert "log[\"click\"] = log['status'].isin(['click', 'purchase']).astype(int)" in warning
    assert "log[\"engagement\"] = log['status'].isin(['purchase']).astype(int)" in warning
    # The views may be in other rows than the first ones of a log in random order.
    monkeypatch.setattr(sample_files, "ROWS", 60)
    at = [1_700_000_000 + n * 71 % ROWS for n in range(ROWS)]
    proposal, notes = propose(tmp_path, **log, ts=at)
    assert "events" in proposal
    assert any(n.startswith("! 100% of the clicks in the sample have no view") for n in notes)


@pytest.mark.parametrize("name", ["pos", "index", None])
def test_the_index_of_an_object_is_only_a_position(
    tmp_path: pathlib.Path, name: str | None
) -> None:
    lines = []
    for n in range(60):
        items = [
            {"id": f"i{(n + k) % 7}", "click": (n + k) % 3 == 0} | ({name: k} if name else {})
            for k in range(4)
        ]
        request = {"request_id": f"r{n}", "user_id": f"u{n % 9}", "items": items}
        lines.append(json.dumps(request) + "\n")
    path = tmp_path / "log.jsonl"
    path.write_text("".join(lines))
    proposal, _ = infer.propose([path])
    assert proposal["position"] == (f"items.{name}" if name else "items#")
    assert sides(proposal) == {"user_id": "query", "items_id": "ad"}


def test_columns_that_identify_or_follow_the_chosen_ad_are_not_fields(
    tmp_path: pathlib.Path,
) -> None:
    # Plays of songs: only the artists are named like ads.
    songs = [n * n % 97 for n in range(1200)]
    columns = {
        "user_id": [f"u{n % 23}" for n in range(1200)],
        "item_id": [f"artist{song % 13}" for song in songs],
        "track": [f"song{song}" for song in songs],
        "quantity": [1 + n % 3 for n in range(1200)],
        "device": [("phone", "web")[n % 2] for n in range(1200)],
    }
    proposal, notes = infer.propose([write(tmp_path / "log.tsv", columns)])
    assert proposal["click"] is None
    assert sides(proposal) == {"user_id": "query", "item_id": "ad", "device": "query"}
    assert any("each value goes with one 'item_id'" in n and "'track'" in n for n in notes)
    assert any("known only after the ad was shown" in n and "'quantity'" in n for n in notes)
    # In a log of impressions, what always goes with the same ad says nothing of the click.
    columns["click"] = [int(n % 5 == 0) for n in range(1200)]
    proposal, _ = infer.propose([write(tmp_path / "shown.tsv", columns)])
    assert {"track", "quantity"} <= set(sides(proposal))
