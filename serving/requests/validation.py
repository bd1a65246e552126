"""Checks a request against the release, so that every stage can rely on it."""

import dataclasses
import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from serving import errors, manifest
from serving.requests import filter_fields, parsing, query_fields, rule_fields
from serving.requests.request import (
    Filters,
    FrequencyCap,
    Request,
    Rules,
    Seen,
    ServiceRules,
)
from tfrecords import terminal


@dataclasses.dataclass(frozen=True)
class ValidRequest:
    """A request that was checked against a release.

    Attributes:
        values: Query field to bytes, float, list of bytes or None.
        k: Maximum number of ads to return.
        weights: Weight of each present head; the release's default if the request has none.
        deadline_ms: Deadline in milliseconds; None: the default.
        request_id: Id of the request; generated if the request has none.
        filters: Hashable, and equal if they mean the same; None: every ad is eligible. They
            exclude ads and values that have reached a frequency cap.
        rules: Rules in force.
        at_cap: Values that have reached a frequency cap, by ad field; ad ids under None.
        explain: Whether the answer contains explanations.
        candidates: Whether the answer lists all ranked candidates.
        dry_run: Whether no user sees the answer.
        user_id: Id of the user; None: unknown.
        seen: Counts of the request.
        shown_before: Frequency cap of a field's impressions to the impressions of each value so
            far; ads of the answer also count.
        user_data: Outcome of the user store's read, as `Answer.user_data`.
        user_ms: Time to read it in milliseconds.
    """

    values: dict[str, Any]
    k: int
    weights: dict[str, float]
    deadline_ms: float | None
    request_id: str
    filters: Filters | None
    rules: Rules
    at_cap: Mapping[str | None, tuple[str, ...]]
    explain: bool
    candidates: bool
    dry_run: bool
    user_id: str | None = None
    seen: Seen | None = None
    shown_before: Mapping[FrequencyCap, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    user_data: str | None = None
    user_ms: float = 0.0

    @property
    def uncounted_caps(self) -> tuple[FrequencyCap, ...]:
        """Frequency caps that the request has no counts for."""
        caps = self.rules.frequency_caps or ()
        return tuple(cap for cap in caps if rule_fields.counts_of(self.seen, cap) is None)


class Validator:
    """Checks requests for one release.

    Args:
        release: Manifest of the release.
        default_k: Number of ads for a request without k.
        max_k: Maximum value of `k` in a request.
        rules: Rules of requests that name none, with filters of all requests if they are
            `ServiceRules`; or their JSON object.
        limits: Limits of the user store, which counts events for frequency caps. None: there is no
            store.

    Raises:
        InvalidRequestError: The rules do not fit the release or the service.
    """

    def __init__(
        self,
        release: manifest.Manifest,
        default_k: int,
        max_k: int,
        rules: Rules | Mapping[str, Any] | None = None,
        limits: rule_fields.StoreLimits | None = None,
    ) -> None:
        self.fields = query_fields.QueryFields(release.query_fields, release.ad_kinds)
        self._filters = filter_fields.FilterFields(release.ad_kinds)
        if rules is not None and not isinstance(rules, Rules):
            rules = parsing.parse(ServiceRules, rules, "rules")
        self._rules = rule_fields.RuleFields(release.ad_kinds, rules, limits)
        service_filters = rules.filters if isinstance(rules, ServiceRules) else None
        self._service_filters = self._filters.check(service_filters, "rules.filters")
        self._release = release
        self._num_ads = release.index["num_ads"]
        self._default_k = default_k
        self._max_k = max_k

    def check(self, request: Request) -> ValidRequest:
        """Returns the checked request.

        Raises:
            InvalidRequestError: Names the first invalid field, the expected and the actual value.
        """
        values = self.fields.merge(request.user or {}, request.context or {})
        k = self._check_k(request.k or self._default_k)
        weights = self._check_weights(request.weights or {})
        filters = self._filters.check(request.filters)
        rules = self._rules.check(request.rules, request.seen)
        self._rules.check_seen(request.seen)
        caps = rules.frequency_caps or ()
        counts = functools.partial(rule_fields.counts_of, request.seen)
        at_cap = rule_fields.at_cap(caps, counts)
        user_field = self._release.user_field
        if user_field is not None and values.get(user_field) is None:
            values.update(self.fields.valid({user_field: request.user_id}))
        return ValidRequest(
            values=values,
            k=k,
            weights=weights,
            deadline_ms=request.deadline_ms,
            request_id=request.request_id or uuid.uuid4().hex,
            filters=rule_fields.merged(filter_fields.both(self._service_filters, filters), at_cap),
            rules=rules,
            at_cap=at_cap,
            explain=bool(request.explain),
            candidates=bool(request.candidates),
            dry_run=bool(request.dry_run),
            user_id=request.user_id,
            seen=request.seen,
            shown_before=rule_fields.shown_before(caps, counts),
        )

    def with_user(
        self,
        valid: ValidRequest,
        stored: Mapping[str, Any],
        counts: Callable[[FrequencyCap], Mapping[str, int]],
    ) -> ValidRequest:
        """Returns a request completed with stored data of its user; its own values come first.

        Args:
            valid: Checked request.
            stored: Raw query fields. Unknown or invalid ones count as missing: data that was
                stored with another release must not fail a request.
            counts: Returns the number of events of each value, or ad, for a frequency cap.
        """
        request_values = {name: value for name, value in valid.values.items() if value is not None}
        at_cap = rule_fields.at_cap(valid.uncounted_caps, counts)
        reached = {
            field: tuple(sorted({*valid.at_cap.get(field, ()), *at_cap.get(field, ())}))
            for field in (*valid.at_cap, *at_cap)
        }
        return dataclasses.replace(
            valid,
            values={**self.fields.valid(stored, request_values), **request_values},
            filters=rule_fields.merged(valid.filters, at_cap),
            at_cap=reached,
            shown_before={
                **valid.shown_before,
                **rule_fields.shown_before(valid.uncounted_caps, counts),
            },
        )

    def _check_k(self, k: int) -> int:
        # A k above the number of ads is allowed: the answer has all of them.
        if min(k, self._num_ads) > self._max_k:
            raise errors.InvalidRequestError(
                f"k: expected at most {self._max_k}, got {parsing.shortened(k)}."
            )
        return min(k, max(self._num_ads, self._max_k))

    def _check_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        for head in weights:
            if head not in self._release.utility_weights:
                raise errors.InvalidRequestError(self._unknown_head(head))
        return {**self._release.utility_weights, **weights}

    def _unknown_head(self, head: str) -> str:
        present = ", ".join(self._release.present_heads)
        if not self._release.has_ranker:
            return (
                f"weights.{head}: this release has no ranker, so there are no scores to weight and "
                "ads are in retrieval order. Omit the weights."
            )
        if head in self._release.absent_heads:
            return (
                f"weights.{head}: this release has no {head} head, because the data had no such "
                f"label, or no positive one. Heads: {present}."
            )
        hint = terminal.suggestion_for(head, self._release.present_heads)
        return f"weights: unknown head {parsing.shortened(head)}.{hint} Heads: {present}."
