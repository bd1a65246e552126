"""Checks a request against the manifest, so that what follows can rely on it."""

import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any

from serving import errors, manifest
from serving.requests import (
    filter_fields,
    messages,
    query_fields,
    rule_fields,
    rule_messages,
)

# Beyond it the utility of large revenues could leave the range of a float.
_MOST_WEIGHT = 1e9
MAX_REQUEST_ID_LENGTH = 128
# What a request may ask to be answered by.
RELEASES = ("stable", "canary")
MAX_DEADLINE_MS = 60_000


@dataclasses.dataclass(frozen=True)
class ValidRequest:
    """A checked request.

    Attributes:
        values: Query field -> bytes, float, list of bytes or None.
        k: Ads to return, where there are as many.
        weights: Of each present head.
        deadline_ms: None = the default.
        request_id: The request's, or a fresh one.
        filters: Hashable, equal if they ask for the same; None = every ad is eligible. What was
            seen too often is left out by them.
        rules: Those that hold.
        at_cap: What was seen too often: ad field -> values, None -> ad ids.
        explain: Whether the answer says why it is as it is.
        dry_run: Whether nobody is shown the answer.
    """

    values: dict[str, Any]
    k: int
    weights: dict[str, float]
    deadline_ms: float | None
    request_id: str
    filters: messages.Filters | None
    rules: rule_messages.Rules
    at_cap: Mapping[str | None, tuple[str, ...]]
    explain: bool
    dry_run: bool


class Validator:
    """Checks requests for one release.

    Args:
        release: The manifest.
        default_k: Ads returned to a request that names no k.
        max_k: The most ads one request may ask for.
        rules: Of requests that name none: `rule_messages.Rules`, or the JSON object of it.

    Raises:
        InvalidRequestError: The rules do not fit the release.
    """

    def __init__(
        self, release: manifest.Manifest, default_k: int, max_k: int, rules: Any = None
    ) -> None:
        self.fields = query_fields.QueryFields(release.query_fields, release.ad_kinds)
        self._filters = filter_fields.FilterFields(release.ad_kinds)
        self._rules = rule_fields.RuleFields(release.ad_kinds, rules)
        self._release = release
        self._num_ads = release.index["num_ads"]
        self._default_k = default_k
        self._max_k = max_k

    def check(self, request: messages.Request) -> ValidRequest:
        """Returns the checked request.

        Raises:
            InvalidRequestError: Names the field, what was expected and what came.
        """
        check_release(request.release)
        rules = self._rules.check(request.rules)
        at_cap = self._rules.at_cap(rules.frequency_caps or (), request.seen)
        return ValidRequest(
            values=self.fields.merge(request.user, request.context),
            k=self._check_k(request.k),
            weights=self._check_weights(request.weights),
            deadline_ms=_check_deadline(request.deadline_ms),
            request_id=_check_request_id(request.request_id),
            filters=rule_fields.merged(self._filters.check(request.filters), at_cap),
            rules=rules,
            at_cap=at_cap,
            explain=_check_flag("explain", request.explain),
            dry_run=_check_flag("dry_run", request.dry_run),
        )

    def _check_k(self, k: Any) -> int:
        if k is None:
            k = self._default_k
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise errors.InvalidRequestError(
                f"k: expected an integer of at least 1, got {query_fields.shortened(k)}."
            )
        # More than there are ads is no mistake: all of them are the answer.
        if min(k, self._num_ads) > self._max_k:
            raise errors.InvalidRequestError(
                f"k: expected at most {self._max_k}, got {query_fields.shortened(k)}."
            )
        return min(k, max(self._num_ads, self._max_k))

    def _check_weights(self, weights: Any) -> dict[str, float]:
        checked = dict.fromkeys(self._release.present_heads, 1.0)
        if weights is None:
            return checked
        if not isinstance(weights, Mapping):
            raise errors.InvalidRequestError(
                f"weights: expected an object of heads and numbers, got "
                f"{query_fields.shortened(weights)}."
            )
        for head, weight in weights.items():
            if head not in checked:
                raise errors.InvalidRequestError(self._unknown_head(head))
            number = query_fields.as_finite_float(weight)
            if number is None or abs(number) > _MOST_WEIGHT:
                raise errors.InvalidRequestError(
                    f"weights.{head}: expected a number between ±{_MOST_WEIGHT:g}, got "
                    f"{query_fields.shortened(weight)}."
                )
            checked[head] = number
        return checked

    def _unknown_head(self, head: Any) -> str:
        present = ", ".join(self._release.present_heads)
        if head in self._release.absent_heads:
            return (
                f"weights.{head}: this release has no {head} head, its training had no such "
                f"label. Heads: {present}."
            )
        hint = query_fields.suggestion(head, self._release.present_heads)
        return f"weights: unknown head {query_fields.shortened(head)}{hint}. Heads: {present}."


def check_release(release: Any) -> None:
    """Fails where a request names a release that there cannot be.

    Raises:
        InvalidRequestError: It is neither None, `stable` nor `canary`.
    """
    if release is not None and release not in RELEASES:
        raise errors.InvalidRequestError(
            f"release: expected {' or '.join(RELEASES)}, got {query_fields.shortened(release)}."
        )


def _check_deadline(deadline_ms: Any) -> float | None:
    if deadline_ms is None:
        return None
    number = query_fields.as_finite_float(deadline_ms)
    if number is None or not 0 < number <= MAX_DEADLINE_MS:
        raise errors.InvalidRequestError(
            f"deadline_ms: expected a number above 0 and up to {MAX_DEADLINE_MS}, got "
            f"{query_fields.shortened(deadline_ms)}."
        )
    return number


def _check_flag(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise errors.InvalidRequestError(
        f"{name}: expected true or false, got {query_fields.shortened(value)}."
    )


def _check_request_id(request_id: Any) -> str:
    if request_id is None:
        return uuid.uuid4().hex
    # Printable: it goes into logs and answers.
    if (
        not isinstance(request_id, str)
        or not 0 < len(request_id) <= MAX_REQUEST_ID_LENGTH
        or (not request_id.isprintable())
    ):
        raise errors.InvalidRequestError(
            f"request_id: expected 1 to {MAX_REQUEST_ID_LENGTH} printable characters, got "
            f"{query_fields.shortened(request_id)}."
        )
    return request_id
