"""Chooses the ads of an answer under caps, diversity and exploration, position by position.

Each position gets the candidate with the greatest gain that no cap forbids. With diversity the
gain, a utility or retrieval score, is multiplied by (1 - penalty)^n, n being the number of ads
above with the same value; for a list field, by the mean of that over the ad's values. This is the
greedy algorithm for the gain of α-nDCG (Clarke et al. 2008, "Novelty and diversity in information
retrieval evaluation", SIGIR), which is submodular, so greedy is within 1 - 1/e of the best
(Nemhauser et al. 1978). It needs no embeddings, which compressed indexes keep only approximately,
and it explains itself.

Caps on several fields can leave the greedy choice short of k although another choice has k ads.
The answer then says that the caps leave out the other candidates.

With exploration each position is drawn with probability `share`: uniformly from the candidates, or
the best `among` of them, that are left and that no cap forbids. The probability of an ad at its
position, given the ads above it, is then known exactly:

    (1 - share) [it is the best left] + share [it could be drawn] / number that could be drawn

Shapes: C candidates, S chosen ads.
"""

import dataclasses
import math
import random
from collections.abc import Mapping

import numpy as np

from serving import requests
from serving.rules.field_values import FieldValues


@dataclasses.dataclass(frozen=True)
class Selection:
    """The ads of an answer, in their order.

    Attributes:
        indices: [S] int64 indices among the candidates.
        propensities: [S] probability of each ad at its position, given the ads above it.
        factors: [S] diversity factor of each gain.
        explored: [S] bool, whether the ad was drawn.
        full: Cap to [C] bool, the candidates with a value that has reached the cap.
    """

    indices: np.ndarray
    propensities: np.ndarray
    factors: np.ndarray
    explored: np.ndarray
    full: Mapping[requests.Cap | requests.FrequencyCap, np.ndarray]


def select_best(indices: np.ndarray) -> Selection:
    """Returns the selection of candidates [S] without rules."""
    ones = np.ones(len(indices))
    return Selection(indices, ones, ones, np.zeros(len(indices), bool), {})


def select_with_rules(
    gains: np.ndarray,
    k: int,
    rules: requests.Rules,
    values: Mapping[str, FieldValues],
    rng: random.Random,
    shown_before: Mapping[requests.FrequencyCap, Mapping[str, int]] | None = None,
) -> Selection:
    """Chooses up to k candidates greedily.

    Args:
        gains: [C] float64, finite; non-negative with diversity. Ties go to the first.
        k: Number of ads to choose.
        rules: Checked rules.
        values: Values of each field that caps and diversity name.
        rng: Random numbers for exploration.
        shown_before: Frequency caps of fields, with the number of impressions of each value so far.
    """
    available = np.ones(len(gains), bool)
    caps = [
        *(_CapCounts(cap, values[cap.field], {}) for cap in rules.caps or ()),
        *(
            _CapCounts(cap, values[cap.field or ""], counts)
            for cap, counts in (shown_before or {}).items()
        ),
    ]
    discounts = [_Discount(rule, values[rule.field]) for rule in rules.diversity or ()]
    draws = None
    if rules.exploration is not None:
        draws = _Draws(rules.exploration, gains, rng)
    chosen: list[tuple[int, float, float, bool]] = []
    while len(chosen) < min(k, len(gains)):
        discounted = np.where(available, gains, -np.inf)
        for discount in discounts:
            # Chosen ads are marked by -inf, and -inf times a factor of 0 would be NaN.
            np.multiply(discounted, discount.factors, out=discounted, where=available)
        best = int(np.argmax(discounted))
        if not available[best]:
            break
        index, propensity, explored = (
            (best, 1.0, False) if draws is None else draws.draw(best, available)
        )
        factor = math.prod(float(discount.factors[index]) for discount in discounts)
        chosen.append((index, propensity, factor, explored))
        available[index] = False
        for cap in caps:
            for items in cap.take(index):
                available[items] = False
        for discount in discounts:
            discount.take(index)
    indices, propensities, factors, drawn = zip(*chosen, strict=True) if chosen else ((),) * 4
    return Selection(
        np.array(indices, np.int64),
        np.array(propensities, np.float64),
        np.array(factors, np.float64),
        np.array(drawn, bool),
        {cap.rule: cap.full for cap in caps},
    )


class _Draws:
    """Draws some positions at random."""

    def __init__(self, rule: requests.Exploration, gains: np.ndarray, rng: random.Random) -> None:
        self._share = rule.share
        self._drawable = np.zeros(len(gains), bool)
        self._drawable[np.argsort(-gains, kind="stable")[: rule.among or len(gains)]] = True
        self._rng = rng

    def draw(self, best: int, available: np.ndarray) -> tuple[int, float, bool]:
        """Returns the candidate of a position, its propensity, and whether it was drawn.

        Args:
            available: [C] bool, the candidates that can be chosen.
        """
        pool = np.flatnonzero(available & self._drawable)
        if not len(pool):
            return best, 1.0, False
        explored = self._rng.random() < self._share
        index = int(pool[self._rng.randrange(len(pool))]) if explored else best
        propensity = self._share / len(pool) if self._drawable[index] else 0.0
        return index, propensity + (1 - self._share) * (index == best), explored


class _CapCounts:
    """Counts the ads with each value of one field: those in `before`, then the chosen ones."""

    def __init__(
        self,
        rule: requests.Cap | requests.FrequencyCap,
        values: FieldValues,
        before: Mapping[str, int],
    ) -> None:
        self.rule = rule
        self.full = np.zeros(values.num_items, bool)
        self._left = [rule.max - before.get(value, 0) for value in values.values]
        self._values = values

    def take(self, index: int) -> list[np.ndarray]:
        """Counts a chosen candidate; returns the candidates with a value that reached the cap."""
        filled = []
        for code in self._values.values_of(index):
            self._left[code] -= 1
            if self._left[code] <= 0:
                filled.append(self._values.items_with(code))
                self.full[filled[-1]] = True
        return filled


class _Discount:
    """The diversity factor of each candidate for one field."""

    def __init__(self, rule: requests.Diversity, values: FieldValues) -> None:
        self.factors = np.ones(values.num_items)
        self._kept = 1 - rule.penalty
        self._values = values
        if not values.is_single:
            num_values = np.diff(values.starts)
            self._is_without_value = (num_values == 0).astype(np.float64)
            # Contribution of each pair to the mean over the values of its candidate.
            self._pair_shares = 1 / num_values[values.items]

    def take(self, index: int) -> None:
        """Discounts the candidates that share a value with a chosen one."""
        values = self._values
        if values.is_single:
            for code in values.values_of(index):
                self.factors[values.items_with(code)] *= self._kept
            return
        for code in values.values_of(index):
            self._pair_shares[values.codes == code] *= self._kept
        totals = np.bincount(values.items, self._pair_shares, values.num_items)
        self.factors = totals + self._is_without_value
