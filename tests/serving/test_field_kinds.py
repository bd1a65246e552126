"""The tables that have an entry for each kind of a raw field."""

import json
import re

from repository import ROOT

from serving.impressions import impression_rows
from serving.releases import models
from serving.requests import filter_fields
from tfrecords.schema import KINDS, Field

OPTIONS = {"dense": {"length": 2}, "history": {"of": "ad", "event": ("impression", "click")}}
FIELDS = [Field("field", kind, "query", **OPTIONS.get(kind, {})) for kind in KINDS]


def test_each_raw_kind_has_a_tensor_and_a_column_of_the_impression_log():
    kinds = {kind for field in FIELDS for kind in field.inputs.values()}
    assert set(models._INPUTS) == kinds
    assert set(impression_rows._TYPES) == kinds


def test_the_console_offers_the_conditions_that_fields_of_each_kind_take():
    script = (ROOT / "serving/service/console/static/request.js").read_text()
    (table,) = re.findall(r"const OPERATORS = \{(.*?)\n\};", script, re.DOTALL)
    offered = dict(re.findall(r"(\w+): (\[.*\]),", table))
    assert {kind: set(json.loads(parts)) for kind, parts in offered.items()} == {
        kind: set(parts) for kind, parts in filter_fields._PARTS.items()
    }
