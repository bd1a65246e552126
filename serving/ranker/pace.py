"""Predicts the latency of a ranker call from the number of scores and recent calls."""

# Weight of a call relative to the next one; the mean covers about twenty calls.
_DECAY = 0.95
# Fixed cost of a call, as a share of its latency, used while all calls have had the same size.
# Measured: 0.2 to 0.3 of a call with 500 candidates on a CPU.
_FIXED_SHARE = 0.25


class Pace:
    """A linear fit of latency against number of scores, with exponentially decaying weights.

    Calls that timed out count with their timeout, a lower bound of their latency.
    """

    def __init__(self) -> None:
        self._weight = self._scores = self._ms = self._squares = self._products = 0.0

    def observe(self, num_scores: int, milliseconds: float) -> None:
        """Adds a call to the fit.

        Args:
            num_scores: Number of scores requested.
            milliseconds: Latency of the call, or its timeout.
        """
        for name, value in (
            ("_weight", 1.0),
            ("_scores", num_scores),
            ("_ms", milliseconds),
            ("_squares", num_scores * num_scores),
            ("_products", num_scores * milliseconds),
        ):
            setattr(self, name, _DECAY * getattr(self, name) + value)

    def expected_ms(self, num_scores: int) -> float:
        """Returns the expected latency of a call for `num_scores` scores; 0 before the first."""
        if not self._weight:
            return 0.0
        scores, milliseconds = self._scores / self._weight, self._ms / self._weight
        variance = self._squares / self._weight - scores**2
        ms_per_score = milliseconds / scores
        if variance < (0.05 * scores) ** 2:
            slope = (1 - _FIXED_SHARE) * ms_per_score
        else:
            slope = (self._products / self._weight - scores * milliseconds) / variance
            # Latency must not fall with more scores, nor be negative without any.
            slope = min(max(slope, 0.0), ms_per_score)
        return milliseconds + slope * (num_scores - scores)
