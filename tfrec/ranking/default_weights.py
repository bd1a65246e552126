"""Default weights of the heads in the utility that orders ads.

Scores have units: two probabilities and an amount of money. Their plain sum lets the head with the
largest numbers decide, which is often the weakest one. So the weights come from, in this order:

    schema         the schema's `weights`
    values         the schema's `values`: the utility is expected money per impression
    standardized   1 / the standard deviation of the head's served scores on validation rows, scaled
                   so that the first head in use has weight 1: all heads count equally

Weak heads have weight 0, except in the schema's `weights`. If all heads are weak, click alone
decides. `weights` that are 0 for all trained heads, and `values` that are 0 for all strong heads,
do not count: nothing would order the ads.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from tfrec.heads import CLICK, HEADS
from tfrec.ranking import head_strength
from tfrecords.schema import Schema


@dataclasses.dataclass(frozen=True)
class JudgedHeads:
    """The default weights of a trained ranker's heads, and the weak heads.

    Attributes:
        weights: Head -> default weight of its score in the utility.
        source: Source of the weights: `schema`, `values`, `standardized`, or `equal`.
        weak: Weak head -> the reason and a remedy.
    """

    weights: Mapping[str, float]
    source: str
    weak: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def equal(cls, heads: Sequence[str]) -> Self:
        """Returns equal weights of 1, without an assessment of the heads."""
        return cls(dict.fromkeys(heads, 1.0), "equal")


def judge_heads(schema: Schema, description: Mapping[str, Any]) -> JudgedHeads:
    """Determines the weights and weaknesses of a ranker's heads from `ranker.json`."""
    heads = list(description["heads"])
    weak = head_strength.weak_heads(head_strength.parse_figures(description["validation"]))
    given = {h: float((schema.weights or {}).get(h, 0.0)) for h in heads}
    if any(given.values()):
        return JudgedHeads(given, "schema", weak)
    strong = [head for head in heads if head not in weak] or [CLICK.label]
    if schema.money is not None:
        values = {head: float(schema.money.get(head, 0.0)) for head in strong}
        if any(values.values()):
            return JudgedHeads({h: values.get(h, 0.0) for h in heads}, "values", weak)
    deviations = {h: description["score_deviations"][h] for h in strong}
    first = next((value for value in deviations.values() if value > 0), 0.0)
    # Four digits are enough, and easy to read.
    weights = {
        h: float(f"{first / deviations[h]:.4g}") if deviations.get(h) else 0.0 for h in heads
    }
    if not first:
        weights[strong[0]] = 1.0
    return JudgedHeads(weights, "standardized", weak)


def score_deviations(served: Mapping[str, np.ndarray], heads: Sequence[str]) -> dict[str, float]:
    """Returns the standard deviation of the served scores [L] of each head."""
    return {h: float(np.std(served[HEADS[h].output], dtype=np.float64)) for h in heads}
