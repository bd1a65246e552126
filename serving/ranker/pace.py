"""How long the ranker takes for so many scores, as learnt from its latest calls."""

_DECAY = 0.95
# What a call without scores would take, as a share of a usual one, while all calls were alike:
# 0.2 to 0.3 of one with 500 candidates on a CPU.
_FIXED_SHARE = 0.25


class Pace:
    """A line through (scores asked for, milliseconds) of calls, the latest counting most.

    The mean of the last twenty calls or so; a call that was given up counts with the time that
    it had, which is the least that it would have taken.
    """

    def __init__(self) -> None:
        self._weight = self._scores = self._ms = self._squares = self._products = 0.0

    def observe(self, num_scores: int, milliseconds: float) -> None:
        """Takes a call into account."""
        for name, value in (
            ("_weight", 1.0),
            ("_scores", num_scores),
            ("_ms", milliseconds),
            ("_squares", num_scores * num_scores),
            ("_products", num_scores * milliseconds),
        ):
            setattr(self, name, _DECAY * getattr(self, name) + value)

    def expected_ms(self, num_scores: int) -> float:
        """Returns the milliseconds of a call for `num_scores` scores; 0 if none was made yet."""
        if not self._weight:
            return 0.0
        scores, milliseconds = self._scores / self._weight, self._ms / self._weight
        variance = self._squares / self._weight - scores**2
        usual = milliseconds / scores
        if variance < (0.05 * scores) ** 2:
            slope = (1 - _FIXED_SHARE) * usual
        else:
            slope = (self._products / self._weight - scores * milliseconds) / variance
            # More scores take no less time, and no call takes less than nothing.
            slope = min(max(slope, 0.0), usual)
        return milliseconds + slope * (num_scores - scores)
