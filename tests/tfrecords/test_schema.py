"""The schema: JSON round trip, fingerprint, and what it refuses."""

import dataclasses
import json

import pytest

from tfrecords import formats
from tfrecords import schema as schema_lib

COUNTRY = schema_lib.Field("country", "categorical", "query")
PRICE = schema_lib.Field("price", "numeric", "ad", num_buckets=7)


def shop(**changes):
    return schema_lib.Schema(
        **{"name": "shop", "fields": (COUNTRY, PRICE), "ad_key": ("sku",), "click": "clicked"}
        | changes
    )


@pytest.mark.parametrize(
    "schema",
    [
        formats.criteo.schema(),
        shop(),
        shop(engagement="bought", revenue="paid", time="t", position="slot"),
    ],
    ids=["criteo", "plain", "every option"],
)
def test_json_and_file_round_trips_give_an_equal_schema(schema, tmp_path):
    assert schema_lib.schema_from_json(json.loads(json.dumps(schema.to_json()))) == schema
    schema_lib.save_schema(schema, tmp_path / "schema.json")
    loaded = schema_lib.load_schema(tmp_path / "schema.json")
    assert loaded == schema
    assert loaded.fingerprint() == schema.fingerprint()


def test_fingerprint_is_sixteen_hex_digits_and_changes_with_every_part():
    variants = [
        shop(),
        shop(name="other"),
        shop(fields=(PRICE, COUNTRY)),
        shop(fields=(dataclasses.replace(COUNTRY, min_count=4), PRICE)),
        shop(fields=(COUNTRY, dataclasses.replace(PRICE, num_buckets=8))),
        shop(ad_key=("sku", "shop")),
        shop(engagement="bought"),
        shop(request_key="request"),
    ]
    fingerprints = [schema.fingerprint() for schema in variants]
    assert len(set(fingerprints)) == len(variants)
    assert all(len(f) == 16 and int(f, 16) >= 0 for f in fingerprints)


def test_sides_labels_and_columns_follow_the_declared_order():
    schema = shop(revenue="paid", request_key="request", position="slot")
    assert schema.query_fields == (COUNTRY,)
    assert schema.ad_fields == (PRICE,)
    assert schema.labels == {"click": "clicked", "revenue": "paid"}
    assert schema.columns == (
        "country", "price", "sku", "clicked", "paid", "request", "slot",
    )  # fmt: skip


def test_criteo_convention_has_39_fields_four_of_them_on_the_ad_side():
    schema = formats.criteo.schema()
    assert len(schema.fields) == 39
    assert [field.name for field in schema.ad_fields] == ["C7", "C11", "C13", "C17"]
    assert schema.ad_key == ("C7", "C11", "C13", "C17")
    assert schema.labels == {"click": "label"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "words"}, r"'country': kind must be one of .*, got 'words'"),
        ({"kind": "dense"}, "'country': length must be the number of values .* got None"),
        ({"kind": "text", "length": 0}, "'country': length must be .* got 0"),
        ({"length": 3}, "'country': length is an option of .* the kind is 'categorical'"),
        ({"separator": ";"}, "'country': separator is an option of lists .* the kind is 'categori"),
        ({"side": "user"}, r"'country': side must be one of .*, got 'user'"),
        ({"min_count": 0}, r"'country': min_count must be a positive integer, got 0"),
        ({"num_oov_buckets": True}, r"num_oov_buckets must be a positive integer, got True"),
        ({"num_buckets": 2.5}, r"num_buckets must be a positive integer, got 2.5"),
    ],
)
def test_a_bad_field_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(COUNTRY, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": (COUNTRY, PRICE, COUNTRY)}, r"fields named more than once: \['country'\]"),
        ({"fields": (COUNTRY,)}, r"at least one field must be on the ad side"),
        ({"fields": (PRICE,)}, r"at least one field must be on the query side"),
        ({"ad_key": ()}, r"ad_key must name at least one column"),
        ({"click": "country"}, r"labels cannot be input fields: \['country'\]"),
        ({"engagement": ""}, r"engagement must be the name of a column, or null; got ''"),
        ({"ad_key": ("",)}, r"ad_key must be a list of column names, got '' in it"),
        ({"revenue": "price"}, r"labels cannot be input fields: \['price'\]"),
        ({"engagement": "clicked"}, r"click and engagement are both 'clicked'\. Set engagement to"),
    ],
)
def test_an_inconsistent_schema_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        shop(**changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.pop("click"), r"schema lacks \['click'\]"),
        (lambda v: v.update(clik=v.pop("click")), r"unknown key 'clik'\. Did you mean 'click'\?"),
        (lambda v: v.update(revenu="paid"), r"unknown key 'revenu'\. Did you mean 'revenue'\?"),
        (lambda v: v.update(ad_key="sku"), r'ad_key is a list of columns: write \["sku"\]'),
        (lambda v: v["fields"][0].pop("side"), r"field 'country' lacks \['side'\]"),
        (lambda v: v["fields"][0].update(knid=1), r"unknown key 'knid'\. Did you mean 'kind'\?"),
        (lambda v: v.update(fields=["country"]), r"schema field is a JSON object, got 'country'"),
    ],
)
def test_a_bad_schema_file_is_refused_naming_file_and_fault(edit, message, tmp_path):
    value = json.loads(json.dumps(shop().to_json()))
    edit(value)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf"bad\.json: .*{message}"):
        schema_lib.load_schema(path)


def test_an_invalid_or_missing_schema_file_is_refused(tmp_path):
    path = tmp_path / "bad.json"
    for text, message in (
        ("{", "is not JSON .*Expecting"),
        ('{"name": "shop", // the name\n}', "is not JSON .*neither comments nor a comma after"),
        ('{"name": "größe"}', "is not UTF-8 .*; save it as UTF-8"),
        ('{"click": "a", "click": "b"}', "has the key 'click' more than once; keep one"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=rf"bad\.json:? .*{message}"):
            schema_lib.load_schema(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"bad\.json: A schema is a JSON object, got list"):
        schema_lib.load_schema(path)
    with pytest.raises(FileNotFoundError, match=r"No schema file at .*missing\.json; check the pa"):
        schema_lib.load_schema(tmp_path / "missing.json")
    with pytest.raises(FileNotFoundError, match=r"No schema file at .*, which is a directory; ch"):
        schema_lib.load_schema(tmp_path)


def test_values_and_weights_are_read_back_and_not_part_of_the_fingerprint():
    plain = shop(engagement="bought")
    valued = shop(engagement="bought", values={"click": 0.05, "engagement": 2})
    weighted = shop(engagement="bought", weights={"click": 1.0, "engagement": -0.5})
    for schema in (valued, weighted):
        assert schema_lib.schema_from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert len({changed.fingerprint() for changed in (plain, valued, weighted)}) == 1
    assert "values" not in plain.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {"revenue": 1}}, "revenue is already an amount of money"),
        ({"values": {"engagement": 1}}, r"'engagement' is not a label .*\['click'\]"),
        ({"weights": {"clik": 1}}, "'clik' is not a label"),
        ({"values": {"click": -1}}, "click must be a number, 0 or more, got -1"),
        ({"weights": {"click": "1"}}, "click must be a finite number, got '1'"),
        ({"weights": {"click": float("nan")}}, "click must be a finite number, got nan"),
        ({"weights": {"click": True}}, "got True"),
        ({"values": {}}, "values must be an object"),
        ({"weights": [1]}, "weights must be an object"),
    ],
)
def test_values_and_weights_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shop(**changes)


def test_a_log_in_which_every_row_is_a_click_may_value_it():
    assert shop(click=None, values={"click": 0.1}).values == {"click": 0.1}


HISTORY = {"name": "recent", "kind": "history", "of": "ad", "event": "click"}


def test_a_history_is_a_query_field_without_a_column_and_round_trips():
    value = shop(user_key="u", time="t").to_json()
    value["fields"] += [HISTORY, {**HISTORY, "name": "seen", "event": ["click", "impression"]}]
    schema = schema_lib.schema_from_json(value)
    assert schema_lib.schema_from_json(json.loads(json.dumps(schema.to_json()))) == schema
    recent, seen = schema.histories
    assert (recent.side, recent.event, seen.event) == ("query", ("click",), ("impression", "click"))
    assert recent.inputs == {"recent": "categorical_list", "recent__age_seconds": "numeric_list"}
    assert list(seen.inputs) == ["seen", "seen__age_seconds", "seen__events"]
    assert (recent.width, seen.width) == (100, 150)
    assert "recent" not in schema.columns
    assert schema.to_json()["fields"][-2] == {
        **HISTORY, "side": "query", "event": ["click"], "max_length": 50, "max_age_days": None,
    }  # fmt: skip


def test_a_history_has_the_vocabulary_of_the_field_that_it_lists():
    sku = schema_lib.Field("sku_id", "categorical", "ad", column="sku", num_oov_buckets=3)
    brand = schema_lib.Field("brand", "categorical", "ad", min_count=2)
    by_brand = schema_lib.Field("brands", "history", "query", of="brand", event="click")
    by_ad = schema_lib.Field("ads", "history", "query", of="ad", event="click")
    fields = (COUNTRY, sku, brand, by_brand, by_ad)
    schema = shop(fields=fields, user_key="u", time="t")
    assert schema.values_of(schema.fields[3]) == brand
    assert schema.values_of(schema.fields[4]) == sku
    assert [f.min_count for f in schema.histories] == [2, 5]
    assert [f.num_oov_buckets for f in schema.histories] == [8, 3]
    assert shop(fields=(COUNTRY, PRICE, by_ad), user_key="u", time="t").values_of(by_ad) is None


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({}, HISTORY, "'recent' lists a user's events .* name the columns of user_key and time"),
        ({"user_key": "u", "time": "t"}, {**HISTORY, "of": "price"}, "of is 'price'; expected"),
        ({"user_key": "u", "time": "t"}, {**HISTORY, "event": "engagement"}, "no engagement col"),
        ({}, {**HISTORY, "min_count": 3}, "is a history, which has no option 'min_count'"),
        ({}, {**HISTORY, "name": "x", "kind": "text"}, "of is an option of histories and of rates"),
        (
            {"user_key": "u", "time": "t"},
            {"name": "country__events", "kind": "numeric", "side": "query"},
            None,
        ),
    ],
)
def test_a_history_that_the_log_does_not_allow_is_refused(changes, field, message):
    value = shop(**changes).to_json()
    if message is None:  # A field may not have the name of a history's input.
        message = "named more than once: .'country__events'"
        value["fields"][0] = {**HISTORY, "name": "country", "event": ["click", "impression"]}
        field = {**field, "side": "query"}
    side = {"side": "query"} if field["kind"] == "text" else {}
    value["fields"] += [{**field, **side}]
    with pytest.raises(ValueError, match=message):
        schema_lib.schema_from_json(value)


def test_a_format_of_times_has_offsets_instead_of_names_of_zones():
    # In a process whose zone is CEST, `strptime` would read CEST as UTC.
    with pytest.raises(ValueError, match=r"%Z reads names of zones without their offsets. Write"):
        shop(time="at", time_format="%Y-%m-%d %H:%M %Z")
    assert shop(time="at", time_format="%Y-%m-%d %H:%M UTC%%Z").time == "at"


@pytest.mark.parametrize("time_format", ["%H:%M:%S", "%d %H:%M", "%m-%d", "%Y %H:%M", "%Q"])
def test_a_format_of_times_has_a_date(time_format):
    with pytest.raises(ValueError, match="does not give a date; expected year, month and day"):
        shop(time="at", time_format=time_format)


@pytest.mark.parametrize(
    "time_format", ["%d.%m.%y %I:%M %p", "%Y-%m", "%Y%m%d%H", "%a, %d %b %Y %H:%M:%S %z", "%Y %j"]
)
def test_formats_of_times_with_a_date(time_format):
    assert shop(time="at", time_format=time_format).time_format == time_format
