"""The rows of the impression log: one for each ad of an answer.

Names of the log's own columns begin with `_`, which field names never do. The fields of the request
and the ad are columns under their own names, as `tfrecords.formats.tabular` reads them. Vectors of
ads are left out: a table of ads has them.

    _answer_id        unique id of the answer; its rows belong to one request
    _request_id       request id of the answer, which feedback refers to
    _user_id          id of the user, if the request named one
    _user_data        `found`, `unknown`, `late` or `failed`: result of reading the user store; null
                      without a user or a store
    _time             time of the request, in seconds since 1970
    _position         position of the ad; the first is 0
    _ad_id            ad id
    _bundle_version   version of the release that gave the answer
    _order            `utility` or `retrieval`
    _degraded         why some or all ads were not ranked; null if all were
    _utility          and `_OUTPUT` of each head, such as _click_probability
    _retrieval_score
    _propensity       probability of the ad at its position, given the ads above it
    _weight_LABEL     weight of each head in the utility; null if the head is absent

Shapes: R rows.
"""

import dataclasses
import json
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serving import manifest, requests

METADATA = b"tfrec"
USER_ID = "_user_id"
USER_DATA = "_user_data"
_ANSWER_COLUMNS = {
    "_answer_id": pa.string(),
    "_request_id": pa.string(),
    USER_ID: pa.string(),
    USER_DATA: pa.string(),
    "_time": pa.float64(),
    "_bundle_version": pa.int64(),
    "_order": pa.string(),
    "_degraded": pa.string(),
}
_TYPES = {
    "categorical": pa.string(),
    "numeric": pa.float64(),
    "categorical_list": pa.list_(pa.string()),
    "dense": pa.list_(pa.float32()),
    "numeric_list": pa.list_(pa.float64()),
    "text": pa.string(),
}


@dataclasses.dataclass(frozen=True)
class RecordedAnswer:
    """An answer to be logged.

    Attributes:
        valid: Validated request.
        answer: Answer that was sent.
        time: Time of the request, in seconds since 1970.
    """

    valid: requests.ValidRequest
    answer: requests.Answer
    time: float


def schema(release: manifest.Manifest) -> pa.Schema:
    """Returns the columns of a release's log, with metadata for `logged_schema`."""
    fields = [*release.query_fields, *(f for f in release.ad_fields if f["kind"] != "dense")]
    columns = {**_ANSWER_COLUMNS, **_ad_columns(release)}
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


def _ad_columns(release: manifest.Manifest) -> dict[str, pa.DataType]:
    """Returns the columns of an ad: attributes of `RankedAd`, apart from the position."""
    scores = ["_utility", *(f"_{head.output}" for head in release.heads)]
    scores += ["_retrieval_score", "_propensity"]
    return {"_position": pa.int32(), "_ad_id": pa.string(), **dict.fromkeys(scores, pa.float64())}


def batch(release: manifest.Manifest, shown: Sequence[RecordedAnswer]) -> pa.RecordBatch:
    """Converts answers of a release to rows [R]."""
    columns, ad_columns = schema(release), _ad_columns(release)
    rows: dict[str, list[Any]] = {name: [] for name in columns.names}
    query_fields = [field["name"] for field in release.query_fields]
    ad_fields = [field["name"] for field in release.ad_fields if field["kind"] != "dense"]
    for record in shown:
        answer_values = _answer_values(release, record)
        answer_values.update({name: _plain(record.valid.values.get(name)) for name in query_fields})
        for ad in record.answer.ads:
            for name, value in answer_values.items():
                rows[name].append(value)
            for name in ad_columns:
                rows[name].append(ad.rank - 1 if name == "_position" else getattr(ad, name[1:]))
            for name in ad_fields:
                rows[name].append(ad.fields.get(name))
    arrays = [pa.array(rows[field.name], field.type) for field in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _answer_values(release: manifest.Manifest, record: RecordedAnswer) -> dict[str, Any]:
    return {
        "_answer_id": uuid.uuid4().hex,
        "_request_id": record.answer.request_id,
        USER_ID: record.valid.user_id,
        USER_DATA: record.answer.user_data,
        "_time": record.time,
        "_bundle_version": record.answer.bundle_version,
        "_order": record.answer.order,
        "_degraded": record.answer.degraded,
        **{f"_weight_{head.label}": record.valid.weights.get(head.label) for head in release.heads},
    }


def _plain(value: Any) -> Any:
    """Returns a validated value of a query field in the type of its column."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value
