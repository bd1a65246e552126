"""Finds more ads that meet several caps, where going by worth ends short.

With one cap each maximal set is as large as any. With two, an ad can take the last place of a
value in both, which two other ads would have needed. The remedy is that of matroid intersection
(Edmonds 1970; Lawler 1975, "Matroid intersection algorithms"): a chain of exchanges, one ad in,
one out, that ends with an ad that needs no exchange. With two caps on fields of one value the
shortest chain is found whenever there is a larger set. With more, or with lists, finding the
largest set is NP-hard (Karp 1972), and chains find what they find.

Shapes: C candidates. A slot is a pair of a cap and a value; at most `most` chosen ads have it.
"""

import collections
from collections.abc import Sequence

import numpy as np

from serving.rules import field_values

Caps = Sequence[tuple[field_values.FieldValues, int]]


def may_interlock(caps: Caps, num_items: int, k: int) -> bool:
    """Returns whether choosing one by one may end short of k where k could be had."""
    if len(caps) < 2 and all(values.is_single for values, _ in caps):
        return False
    # Fewer than k ads fill so many values of a cap at most; the most frequent ones hide the most.
    hidden = 0
    for values, most in caps:
        if not values.is_single:
            return True
        counts = np.sort(np.bincount(values.codes, minlength=values.num_values))[::-1]
        hidden += int(counts[: (k - 1) // most].sum())
    return num_items - (k - 1) - hidden < 1


def widest(caps: Caps, chosen: Sequence[int], gains: np.ndarray, k: int) -> list[int]:
    """Returns the chosen candidates, or up to k in place of them where more can be had.

    Args:
        caps: Values and the most ads of each.
        chosen: Meets the caps, and cannot be extended.
        gains: [C]; greater ones are tried first.
        k: Ads wanted.
    """
    most = min(k, _bound(caps, len(gains)))
    if len(chosen) >= most:
        return list(chosen)
    exchange = _Exchange(caps, chosen, np.argsort(-gains, kind="stable").tolist())
    while len(exchange.chosen) < most and exchange.extend():
        continue
    return sorted(exchange.chosen)


def _bound(caps: Caps, num_items: int) -> int:
    """Returns a number of ads that no set exceeds."""
    bounds = [num_items]
    for values, most in caps:
        if values.is_single:
            counts = np.bincount(values.codes, minlength=values.num_values)
            free = num_items - len(values.items)
            bounds.append(int(np.minimum(counts, most).sum()) + free)
    return min(bounds)


class _Exchange:
    """A set of candidates that grows by chains of exchanges.

    A step of a chain is an ad that would come in and the one slot that is full for it; an ad of
    that slot goes out, and what it frees lets others in, which have at most one full slot left.
    """

    def __init__(self, caps: Caps, chosen: Sequence[int], order: Sequence[int]) -> None:
        self.chosen = set(chosen)
        self._order = order
        self._slots_of: list[list[int]] = [[] for _ in order]
        self._room: list[int] = []
        for values, most in caps:
            start = len(self._room)
            self._room += [most] * values.num_values
            for item, code in zip(values.items.tolist(), values.codes.tolist(), strict=True):
                self._slots_of[item].append(start + code)
        for item in chosen:
            for slot in self._slots_of[item]:
                self._room[slot] -= 1
        self._with_slot: list[list[int]] = [[] for _ in self._room]
        for item in order:
            for slot in self._slots_of[item]:
                self._with_slot[slot].append(item)

    def extend(self) -> bool:
        """Makes the set one larger, by the shortest chain; returns whether one was found."""
        # Step -> the step before it and the ad that went out for that one.
        came_by: dict[_Step, tuple[_Step, int] | None] = {}
        for item in self._order:
            if item not in self.chosen:
                full = self._full(item)
                if not full:
                    return self._apply(item, None, came_by)
                if len(full) == 1:
                    came_by[item, full[0]] = None
        queue = collections.deque(came_by)
        # Ads that free the same slots let the same ads in.
        freed_before: set[tuple[int, ...]] = set()
        left: set[int] = set()
        while queue:
            step = queue.popleft()
            if step[1] in left:
                continue
            left.add(step[1])
            for leaving in self._with_slot[step[1]]:
                freed = self._freed(leaving, step[1])
                if leaving not in self.chosen or freed in freed_before:
                    continue
                freed_before.add(freed)
                for follower in self._let_in(freed, step[0]):
                    full = self._full(follower, without=leaving)
                    if not full and self._apply(follower, (step, leaving), came_by):
                        return True
                    if len(full) == 1 and (follower, full[0]) not in came_by:
                        came_by[follower, full[0]] = (step, leaving)
                        queue.append((follower, full[0]))
        return False

    def _full(self, item: int, without: int | None = None) -> list[int]:
        """Returns the slots that keep an ad out, were another one not there."""
        freed = () if without is None else self._slots_of[without]
        return [s for s in self._slots_of[item] if not self._room[s] + (s in freed)]

    def _freed(self, leaving: int, slot: int) -> tuple[int, ...]:
        """Returns the full slots that an ad frees, but the one that is taken in its place."""
        return tuple(s for s in self._slots_of[leaving] if s != slot and not self._room[s])

    def _let_in(self, freed: Sequence[int], taking: int) -> list[int]:
        """Returns ads that have one of the slots that were freed, but the one that came in."""
        return [
            item
            for slot in freed
            for item in self._with_slot[slot]
            if item not in self.chosen and item != taking
        ]

    def _apply(
        self,
        last: int,
        before: tuple["_Step", int] | None,
        came_by: dict["_Step", tuple["_Step", int] | None],
    ) -> bool:
        """Exchanges along a chain; returns whether the caps allow it."""
        incoming, outgoing = [last], []
        while before is not None:
            step, leaving = before
            incoming.append(step[0])
            outgoing.append(leaving)
            before = came_by[step]
        room = list(self._room)
        for items, change in ((outgoing, 1), (incoming, -1)):
            for item in items:
                for slot in self._slots_of[item]:
                    room[slot] += change
        # With two caps on fields of one value a shortest chain always fits (Lawler 1975).
        if min(room, default=0) < 0 or len(set(incoming)) < len(incoming):
            return False
        self._room = room
        self.chosen = self.chosen - set(outgoing) | set(incoming)
        return True


# An ad that would come in, and the slot that is full for it.
_Step = tuple[int, int]
