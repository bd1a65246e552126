"""The requests and ads in the documents fit the world that `tfrec quickstart` draws."""

import json
import pathlib
import re

import pytest
from absl import flags
from repository import ROOT

from serving import requests
from serving.config import UserStoreConfig
from serving.requests import rule_fields
from tfrecords import synthetic

SHOWN = [
    *(ROOT / name for name in ("README.md", "docs/serving.md", "docs/training.md")),
    ROOT / "serving" / "cli" / "online" / "inference.py",
]
HEADS = {"click", "engagement", "revenue"}


@pytest.fixture(scope="module")
def shop():
    return synthetic.World(synthetic.WORLDS["shop"])


def json_lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "docs" / name).read_text().splitlines()]


def shown_objects(path: pathlib.Path) -> list[dict]:
    """Returns the JSON objects in single quotes, as in command lines of a document."""
    return [json.loads(text) for text in re.findall(r"'(\{[^']*\})'", path.read_text())]


def documented_requests() -> list[dict]:
    found = [*json_lines("request.json"), *json_lines("requests.jsonl")]
    for shown in (own for path in SHOWN for own in shown_objects(path)):
        # Events and profiles are not requests.
        if not {"ad_id", "events", "profile"} & shown.keys():
            # The value of --rules, or a request.
            found.append({"rules": shown} if "caps" in shown else shown)
    return found


def known_values(shop: synthetic.World, fields: dict) -> None:
    for name, value in fields.items():
        if name in shop.population.vocabularies:
            assert value in shop.population.vocabularies[name], (name, value)


def test_the_quickstart_draws_the_shop_by_default(script):
    script("serving.cli.offline.quickstart")
    assert flags.FLAGS["world"].default == "shop"


def test_documented_requests_name_fields_and_values_of_the_shop(shop):
    asked = documented_requests()
    assert len(asked) >= 9
    kinds = {field.name: field.kind for field in shop.schema.ad_fields}
    query = [{"name": field.name, "kind": field.kind} for field in shop.schema.query_fields]
    for body in asked:
        request = requests.parse(requests.Request, body)
        requests.QueryFields(query, kinds).merge(request.user or {}, request.context or {})
        requests.FilterFields(kinds).check(request.filters)
        rule_fields.RuleFields(kinds, limits=UserStoreConfig().limits).check(request.rules)
        known_values(shop, {**(request.user or {}), **(request.context or {})})
        assert set(request.weights or {}) <= HEADS
        for condition in body.get("filters", {}).get("conditions", ()):
            for value in condition.get("none_of", ()):
                known_values(shop, {condition["field"]: value})
        for ad in body.get("seen", {}).get("ads", {}):
            known_values(shop, {"ad": ad})


def test_documented_ads_are_new_and_have_fields_of_the_shop(shop):
    for ad in json_lines("new_ads.jsonl"):
        assert ad["ad_id"] not in shop.ads["ad"]
        assert set(ad["fields"]) <= {field.name for field in shop.schema.ad_fields}
        assert set(ad["show"]) <= set(shop.schema.show)
        known_values(shop, ad["fields"])
