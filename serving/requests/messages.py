"""Requests and answers, as the in-process API, REST and the client share them.

Plain dataclasses without TensorFlow. `to_json` and `from_json` give and take the JSON
objects of `POST /v1/recommend`; absent and null mean the same everywhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from serving.requests import explanations, rule_messages


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
        # No condition says nothing; no allowed ad, or no value, says that none may come.
        if not document.pop("conditions"):
            return document
        return {**document, "conditions": [_set_values(condition) for condition in self.conditions]}


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
        rules: What the answer must keep to, or the JSON object of it; None = the service's
            default, as is each part of it that is None.
        seen: How often the user has seen ads, for frequency caps, or the JSON object of it.
        explain: Whether the answer says why it is as it is.
        release: `stable` or `canary`, to be answered by that release (where no canary is tried,
            by the stable one); None = as the canary's share decides.
        dry_run: Whether nobody is shown the answer: it stays out of the impression log and of the
            metrics of answers.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    k: int | None = None
    weights: Mapping[str, float] | None = None
    deadline_ms: float | None = None
    request_id: str | None = None
    filters: Filters | Mapping[str, Any] | None = None
    rules: rule_messages.Rules | Mapping[str, Any] | None = None
    seen: rule_messages.Seen | Mapping[str, Any] | None = None
    explain: bool = False
    release: str | None = None
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without what is not set."""
        document = _set_values(self)
        for name in ("filters", "rules", "seen"):
            value = document.get(name)
            if isinstance(value, Filters | rule_messages.Rules | rule_messages.Seen):
                document[name] = value.to_json()
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
        propensity: Probability with which this ad came into this slot, given the ads above it: 1
            where nothing was drawn. The product down to a slot is that of all ads so far.
        explanation: Why it is in its slot; None where the request did not ask.
    """

    rank: int
    ad_id: str
    utility: float | None
    click_probability: float | None
    engagement_probability: float | None
    expected_revenue: float | None
    retrieval_score: float
    fields: dict[str, Any]
    propensity: float = 1.0
    explanation: explanations.AdExplanation | None = None


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
        shortage: None, or why there are fewer than k ads.
        explanation: What the rules did; None where the request did not ask.
    """

    request_id: str
    bundle_version: int
    degraded: str | None
    order: str
    ads: list[RankedAd]
    absent_heads: list[str]
    stage_ms: dict[str, float]
    shortage: str | None = None
    explanation: explanations.Explanation | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object of the answer, explanations only where there are any."""
        # Not dataclasses.asdict: its deep copy of every field costs more than the rest of REST.
        return _explained({**vars(self), "ads": [_explained(dict(vars(ad))) for ad in self.ads]})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds an answer from its JSON object.

        Keys that this version does not know are ignored, so that a newer service can be read.

        Raises:
            ValueError: A key is missing, or the document has another form.
        """
        try:
            ads = [_ranked_ad(ad) for ad in document["ads"]]
            known = {**_known(cls, document), "ads": ads}
            if known["explanation"] is not None:
                known["explanation"] = explanations.Explanation.from_json(known["explanation"])
            return cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Expected the JSON object of an answer, got {error!r}.") from error


def _set_values(message: Any) -> dict[str, Any]:
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    return {
        name: value for name, value in values.items() if value is not None and value is not False
    }


def _explained(document: dict[str, Any]) -> dict[str, Any]:
    value = document.pop("explanation")
    return document if value is None else {**document, "explanation": dataclasses.asdict(value)}


def _ranked_ad(document: Mapping[str, Any]) -> RankedAd:
    known = _known(RankedAd, document)
    if known["explanation"] is not None:
        known["explanation"] = explanations.AdExplanation.from_json(known["explanation"])
    return RankedAd(**known)


def _known(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a message; those with a default may be absent."""
    return {
        field.name: document[field.name]
        if field.default is dataclasses.MISSING
        else document.get(field.name, field.default)
        for field in dataclasses.fields(cls)
    }
