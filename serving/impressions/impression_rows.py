"""The rows of the impression log: one for each ad of an answer.

Columns of the log itself begin with `_`, which no field's name does; the fields of request and ad
stand beside them under their names, as `tfrecords.formats.tabular` reads them.

    _answer_id        a fresh id for each answer; its rows are one request
    _request_id       of the answer, which feedback names
    _time             seconds since 1970 when the answer was given
    _position         slot of the ad, 0 is the first
    _ad_id
    _bundle_version   release that gave every number
    _order            `utility` or `retrieval`
    _degraded         null, or why there are no scores, or fewer
    _utility          and `_OUTPUT` of each head, such as _click_probability
    _retrieval_score
    _propensity       probability of the ad in its slot, given the ads above it
    _weight_LABEL     weight of each head in the utility; null for an absent head

Shapes: R rows.
"""

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from serving import manifest, requests

METADATA = b"tfrec"
_OF_ANSWER = {
    "_answer_id": pa.string(),
    "_request_id": pa.string(),
    "_time": pa.float64(),
    "_bundle_version": pa.int64(),
    "_order": pa.string(),
    "_degraded": pa.string(),
}
_TYPES = {
    "categorical": pa.string(),
    "numeric": pa.float64(),
    "categorical_list": pa.list_(pa.string()),
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """An answer as it was given.

    Attributes:
        values: Query field -> checked value, of `ValidRequest`.
        weights: Of the utility.
        answer: The answer.
        time: Seconds since 1970.
    """

    values: Mapping[str, Any]
    weights: Mapping[str, float]
    answer: requests.Answer
    time: float


def schema(release: manifest.Manifest) -> pa.Schema:
    """Returns the columns of a release's log, with what `feedback` needs to know of it."""
    fields = [*release.query_fields, *release.ad_fields]
    columns = {**_OF_ANSWER, **_of_ad(release)}
    columns.update({f"_weight_{head.label}": pa.float64() for head in release.heads})
    columns.update({field["name"]: _TYPES[field["kind"]] for field in fields})
    known = {
        "version": release.version,
        "schema": release.schema,
        "query_fields": release.query_fields,
        "ad_fields": release.ad_fields,
        "labels": {head.label: head.kind for head in release.heads},
    }
    return pa.schema(list(columns.items()), {METADATA: json.dumps(known).encode()})


def _of_ad(release: manifest.Manifest) -> dict[str, pa.DataType]:
    """Returns the columns of an ad: attributes of `RankedAd`, apart from the position."""
    scores = ["_utility", *(f"_{head.output}" for head in release.heads)]
    scores += ["_retrieval_score", "_propensity"]
    return {"_position": pa.int32(), "_ad_id": pa.string(), **dict.fromkeys(scores, pa.float64())}


def batch(release: manifest.Manifest, shown: Sequence[Shown]) -> pa.RecordBatch:
    """Lays answers out as rows [R].

    Args:
        release: That gave the answers.
        shown: The answers.
    """
    columns, of_ad = schema(release), _of_ad(release)
    rows: dict[str, list[Any]] = {name: [] for name in columns.names}
    query_fields = [field["name"] for field in release.query_fields]
    ad_fields = [field["name"] for field in release.ad_fields]
    for one in shown:
        of_answer = _of_answer(release, one)
        of_answer.update({name: _plain(one.values.get(name)) for name in query_fields})
        for ad in one.answer.ads:
            for name, value in of_answer.items():
                rows[name].append(value)
            for name in of_ad:
                rows[name].append(ad.rank - 1 if name == "_position" else getattr(ad, name[1:]))
            for name in ad_fields:
                rows[name].append(ad.fields.get(name))
    arrays = [pa.array(rows[field.name], field.type) for field in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _of_answer(release: manifest.Manifest, one: Shown) -> dict[str, Any]:
    return {
        "_answer_id": uuid.uuid4().hex,
        "_request_id": one.answer.request_id,
        "_time": one.time,
        "_bundle_version": one.answer.bundle_version,
        "_order": one.answer.order,
        "_degraded": one.answer.degraded,
        **{f"_weight_{head.label}": one.weights.get(head.label) for head in release.heads},
    }


def _plain(value: Any) -> Any:
    """Returns a checked value of a query field as the log holds it."""
    if isinstance(value, bytes):
        return value.decode()
    return [item.decode() for item in value] if isinstance(value, list) else value
