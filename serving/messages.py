"""Requests and answers, as the in-process API, REST and the client share them.

Plain dataclasses without TensorFlow. `to_json` and `from_json` give and take the JSON
objects of `POST /v1/recommend`; absent and null mean the same everywhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Condition:
    """What one display field of an eligible ad must hold; every part that is given must.

    A missing value is equal to nothing: it fails `any_of`, `all_of`, `at_least` and `at_most`,
    and passes `none_of`.

    Attributes:
        field: Name of an ad field.
        any_of: At least one of these: values of a categorical field or a list field, numbers of
            a numeric one.
        none_of: None of these.
        all_of: List fields: each of these.
        at_least: Numeric fields: the least number.
        at_most: Numeric fields: the greatest number.
    """

    field: str
    any_of: Sequence[Any] | None = None
    none_of: Sequence[Any] | None = None
    all_of: Sequence[Any] | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which ads may answer a request: those that meet every condition and both lists.

    Attributes:
        conditions: All of them must hold.
        allowed_ads: Ad ids; no other ad may come. Ids that are in no catalogue are not there.
        excluded_ads: Ad ids that may not come.
    """

    conditions: Sequence[Condition] = ()
    allowed_ads: Sequence[str] | None = None
    excluded_ads: Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without what is not set."""
        document = _set_values(self)
        if self.conditions:
            document["conditions"] = [_set_values(condition) for condition in self.conditions]
        return document


@dataclasses.dataclass(frozen=True)
class Request:
    """One request for ads.

    Attributes:
        user: Raw query fields that describe the user: strings, numbers and lists of strings;
            None or absent = missing.
        context: Raw query fields that describe the situation; merged with `user`.
        k: Number of ads wanted; None = the service's default.
        weights: Utility weight of each head (`click`, `engagement`, `revenue`); a present
            head that is not named weighs 1.
        deadline_ms: Time for the whole request; None = the service's default.
        request_id: Comes back in the answer; None = a fresh one is made.
        filters: Which ads are eligible, or the JSON object of it; None = all.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    k: int | None = None
    weights: Mapping[str, float] | None = None
    deadline_ms: float | None = None
    request_id: str | None = None
    filters: Filters | Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without what is not set."""
        document = _set_values(self)
        if isinstance(self.filters, Filters):
            document["filters"] = self.filters.to_json()
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}


@dataclasses.dataclass(frozen=True)
class RankedAd:
    """One ad of an answer.

    Attributes:
        rank: 1 is the best.
        ad_id: The ad's key in the catalogue.
        utility: Weighted sum of the present heads' scores; None in retrieval order.
        click_probability: In [0, 1]; None where the head is absent, and in retrieval order.
        engagement_probability: Likewise, of an engagement after this impression.
        expected_revenue: Likewise, in the log's currency.
        retrieval_score: Inner product of the query's and the ad's embedding.
        fields: Raw ad fields, for display: strings, numbers, lists of strings and None.
    """

    rank: int
    ad_id: str
    utility: float | None
    click_probability: float | None
    engagement_probability: float | None
    expected_revenue: float | None
    retrieval_score: float
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """The ads for one request, best first.

    Attributes:
        request_id: The request's, or a fresh one.
        bundle_version: Release that gave every number in this answer.
        degraded: None, or why fewer candidates were ranked than were found, or none.
        order: `utility`, or `retrieval` where none was ranked: such ads have no scores.
        ads: At most k ads; fewer where fewer are eligible, none where none is.
        absent_heads: Heads that this release was not trained for.
        stage_ms: Milliseconds of `query_tower`, `index`, `features`, `ranker`, and `total`. In a
            batch the stages are those of the whole group that was computed together.
    """

    request_id: str
    bundle_version: int
    degraded: str | None
    order: str
    ads: list[RankedAd]
    absent_heads: list[str]
    stage_ms: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object of the answer."""
        # Not dataclasses.asdict: its deep copy of every field costs more than the rest of REST.
        return {**vars(self), "ads": [vars(ad) for ad in self.ads]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds an answer from its JSON object.

        Keys that this version does not know are ignored, so that a newer service can be read.

        Raises:
            ValueError: A key is missing, or the document has another form.
        """
        try:
            ads = [RankedAd(**_known(RankedAd, ad)) for ad in document["ads"]]
            return cls(**{**_known(cls, document), "ads": ads})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Expected the JSON object of an answer, got {error!r}.") from error


def _set_values(message: Any) -> dict[str, Any]:
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    return {name: value for name, value in values.items() if value is not None and value != ()}


def _known(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in (field.name for field in dataclasses.fields(cls))}
