"""Chooses the ads of an answer under caps, diversity and exploration, slot by slot.

A slot takes the candidate of the greatest worth that no cap forbids. With diversity a worth is
the gain, utility or retrieval score, times (1 - penalty)^n, n being the ads above with the same
value; of a list, the mean of that over its values. That is the greedy algorithm for the gain of
α-nDCG (Clarke et al. 2008, "Novelty and diversity in information retrieval evaluation", SIGIR),
which is submodular, so greedy is within 1 - 1/e of the best (Nemhauser et al. 1978). It needs no
embeddings, of which compressed indices keep approximations only, and says itself what it does.

With exploration each slot is drawn with probability `share`: uniformly from the candidates, or
the best `among` of them, that are left and that no cap forbids. So the probability of an ad in
its slot, given the ads above it, is known exactly:

    (1 - share) [it is the best left] + share [it could be drawn] / number that could be drawn

Shapes: C candidates.
"""

import dataclasses
import math
import random
from collections.abc import Mapping

import numpy as np

from serving import requests
from serving.rules import field_values, interlocked_caps

FieldValues = field_values.FieldValues


@dataclasses.dataclass(frozen=True)
class Selection:
    """The ads of an answer, in their order.

    Attributes:
        places: Of the ads, among the candidates.
        propensities: Of each, in its slot, given those above it.
        factors: What diversity left of each one's gain.
        explored: Whether the slot of each was drawn.
        full: Cap's field -> [C] bool, the candidates with a value that has reached the cap.
    """

    places: np.ndarray
    propensities: np.ndarray
    factors: np.ndarray
    explored: np.ndarray
    full: Mapping[str, np.ndarray]


def select_best(places: np.ndarray) -> Selection:
    """Returns the selection of places that no rule touched."""
    ones = np.ones(len(places))
    return Selection(places, ones, ones, np.zeros(len(places), bool), {})


def select_with_rules(
    gains: np.ndarray,
    k: int,
    rules: requests.Rules,
    values: Mapping[str, FieldValues],
    rng: random.Random,
) -> Selection:
    """Chooses up to k candidates.

    Where caps interlock so that going by worth ends short of k, a set as large as one can be is
    looked for (`interlocked_caps`), and it comes. With two caps on fields of one value it is
    found. Draws may still make an answer short that would not have been without them.

    Args:
        gains: [C] float64, finite; with diversity at least 0. Of equal ones the first is better.
        k: Ads wanted.
        rules: Checked ones.
        values: Of each field that caps and diversity name.
        rng: Gives the draws.
    """
    available = np.ones(len(gains), bool)
    caps = [(values[cap.field], cap.most) for cap in rules.caps or ()]
    plain = dataclasses.replace(rules, exploration=None)
    if interlocked_caps.may_interlock(caps, len(gains), k):
        found = _Walk(gains, plain, values, available).run(k, rng)
        widest = interlocked_caps.widest(caps, found.places.tolist(), gains, k)
        if len(widest) == len(found.places) and rules.exploration is None:
            return found
        if len(widest) > len(found.places):
            available = np.zeros(len(gains), bool)
            available[widest] = True
    return _Walk(gains, rules, values, available).run(k, rng)


class _Walk:
    """Fills slot by slot."""

    def __init__(
        self,
        gains: np.ndarray,
        rules: requests.Rules,
        values: Mapping[str, FieldValues],
        available: np.ndarray,
    ) -> None:
        self._gains = gains
        self._available = available.copy()
        self._caps = [_Cap(cap, values[cap.field]) for cap in rules.caps or ()]
        self._diversity = [_Discount(rule, values[rule.field]) for rule in rules.diversity or ()]
        self._share = 0.0
        if rules.exploration is not None:
            self._share = rules.exploration.share
            among = rules.exploration.among or len(gains)
            self._drawable = np.zeros(len(gains), bool)
            self._drawable[np.argsort(-gains, kind="stable")[:among]] = True

    def run(self, k: int, rng: random.Random) -> Selection:
        slots: list[tuple[int, float, float, bool]] = []
        while len(slots) < min(k, len(self._gains)):
            worth = np.where(self._available, self._gains, -np.inf)
            for discount in self._diversity:
                # Taken ads are marked by -inf, which times a factor of 0 is no number.
                np.multiply(worth, discount.factors, out=worth, where=self._available)
            best = int(np.argmax(worth))
            if not self._available[best]:
                break
            place, propensity, explored = best, 1.0, False
            if self._share:
                place, propensity, explored = self._draw(best, rng)
            factor = math.prod(float(discount.factors[place]) for discount in self._diversity)
            slots.append((place, propensity, factor, explored))
            self._take(place)
        places, propensities, left, drawn = zip(*slots, strict=True) if slots else ((),) * 4
        return Selection(
            np.array(places, np.int64),
            np.array(propensities, np.float64),
            np.array(left, np.float64),
            np.array(drawn, bool),
            {cap.field: cap.full for cap in self._caps},
        )

    def _draw(self, best: int, rng: random.Random) -> tuple[int, float, bool]:
        pool = np.flatnonzero(self._available & self._drawable)
        if not len(pool):
            return best, 1.0, False
        explored = rng.random() < self._share
        place = int(pool[rng.randrange(len(pool))]) if explored else best
        propensity = self._share / len(pool) if self._drawable[place] else 0.0
        return place, propensity + (1 - self._share) * (place == best), explored

    def _take(self, place: int) -> None:
        self._available[place] = False
        for cap in self._caps:
            for items in cap.take(place):
                self._available[items] = False
        for discount in self._diversity:
            discount.take(place)


class _Cap:
    """Counts the values of one field."""

    def __init__(self, rule: requests.Cap, values: FieldValues) -> None:
        self.field = rule.field
        self.full = np.zeros(values.num_items, bool)
        self._left = [rule.most] * values.num_values
        self._values = values

    def take(self, place: int) -> list[np.ndarray]:
        """Returns the candidates of the values that are full now."""
        filled = []
        for code in self._values.values_of(place):
            self._left[code] -= 1
            if not self._left[code]:
                filled.append(self._values.items_with(code))
                self.full[filled[-1]] = True
        return filled


class _Discount:
    """What one field's values leave of the gains."""

    def __init__(self, rule: requests.Diversity, values: FieldValues) -> None:
        self.factors = np.ones(values.num_items)
        self._kept = 1 - rule.penalty
        self._values = values
        if not values.is_single:
            num_of = np.diff(values.starts)
            self._without = (num_of == 0).astype(np.float64)
            # What each pair gives to the mean over its candidate's values.
            self._of_pair = 1 / num_of[values.items]

    def take(self, place: int) -> None:
        values = self._values
        if values.is_single:
            for code in values.values_of(place):
                self.factors[values.items_with(code)] *= self._kept
            return
        for code in values.values_of(place):
            self._of_pair[values.codes == code] *= self._kept
        totals = np.bincount(values.items, self._of_pair, values.num_items)
        self.factors = totals + self._without
