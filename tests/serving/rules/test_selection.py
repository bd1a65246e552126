import collections
import random

import numpy as np
import pyarrow as pa
import pytest

from serving.requests import Cap, Diversity, Exploration, FrequencyCap, Rules
from serving.rules import field_values, selection


def rules(caps=(), diversity=(), exploration=None):
    return Rules(
        caps=[Cap(field=field, max=maximum) for field, maximum in caps],
        frequency_caps=(),
        diversity=[Diversity(field=field, penalty=penalty) for field, penalty in diversity],
        exploration=exploration,
    )


def select(gains, k, columns, asked, seed=0, **options):
    values = {
        name: field_values.FieldValues.of(column(strings)) for name, strings in columns.items()
    }
    gains = np.array(gains, np.float64)
    return selection.select_with_rules(gains, k, asked, values, random.Random(seed), **options)


def column(values):
    is_list = any(isinstance(value, list) for value in values)
    return pa.array(values, pa.list_(pa.string()) if is_list else pa.string())


def test_a_cap_passes_over_the_third_ad_of_an_advertiser():
    found = select([5, 4, 3, 2, 1], 4, {"a": ["x", "x", "x", "y", None]}, rules([("a", 2)]))
    assert found.indices.tolist() == [0, 1, 3, 4]
    assert found.full[Cap(field="a", max=2)].tolist() == [True, True, True, False, False]


def test_earlier_impressions_count_toward_a_frequency_cap():
    fields = {"a": ["x", "x", "y", "y", "z"]}
    day, week = (
        FrequencyCap(field="a", max=count, hours=hours) for count, hours in ((2, 24), (3, 168))
    )
    before = {day: {"x": 1}, week: {"x": 1, "y": 2, "gone": 9}}
    found = select([5, 4, 3, 2, 1], 5, fields, rules(), shown_before=before)
    # The caps leave one ad of x for the day, and one of y for the week.
    assert found.indices.tolist() == [0, 2, 4]
    assert found.full[day].tolist() == [True, True, False, False, False]
    assert found.full[week].tolist() == [False, False, True, True, False]


def test_ads_without_a_value_are_not_capped():
    found = select([3, 2, 1], 3, {"a": [None, None, None]}, rules([("a", 1)]))
    assert found.indices.tolist() == [0, 1, 2]


def test_an_ad_with_a_list_counts_for_each_of_its_values_once():
    tags = [["p", "p"], ["q", "p"], ["q"], [], None]
    found = select([5, 4, 3, 2, 1], 5, {"t": tags}, rules([("t", 2)]))
    # p is in the first two, q in the second and third.
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    found = select([5, 4, 3, 2, 1], 5, {"t": tags}, rules([("t", 1)]))
    # The first uses up p, so the second is not eligible, and the third uses up q.
    assert found.indices.tolist() == [0, 2, 3, 4]


def test_equal_utilities_stay_in_the_order_of_the_candidates():
    found = select([1, 1, 1, 1], 3, {"a": ["x", "x", "y", "z"]}, rules([("a", 1)]))
    assert found.indices.tolist() == [0, 2, 3]


def test_a_repeated_value_costs_its_penalty_each_time():
    gains, fields = [10, 9, 8, 4], {"c": ["x", "x", "x", "y"]}
    found = select(gains, 4, fields, rules(diversity=[("c", 0.5)]))
    # 10; then 9 / 2 = 4.5 beats 4 (8 / 2 is 4, and later); then 8 / 4 = 2 loses to 4.
    assert found.indices.tolist() == [0, 1, 3, 2]
    assert found.factors.tolist() == [1, 0.5, 1, 0.25]


def test_lists_are_discounted_by_the_mean_over_their_values():
    tags = [["p"], ["p", "q"], ["p"], None]
    found = select([10, 8, 7.9, 6], 4, {"t": tags}, rules(diversity=[("t", 0.5)]))
    # After p: 8 (1/2 + 1) / 2 = 6, as much as the last, and before it. Then 6, then 7.9 / 4.
    assert found.indices.tolist() == [0, 1, 3, 2]
    assert found.factors.tolist() == [1, 0.75, 1, 0.25]


def test_discounts_of_two_fields_multiply():
    fields = {"c": ["x", "x", "y"], "d": ["u", "u", "v"]}
    found = select([10, 9, 1], 3, fields, rules(diversity=[("c", 0.5), ("d", 0.9)]))
    # 9 · 0.5 · 0.1 = 0.45 is below 1.
    assert found.indices.tolist() == [0, 2, 1]
    assert found.factors.tolist() == pytest.approx([1, 1, 0.05])


def test_a_penalty_of_one_leaves_repeated_ads_last_in_their_order():
    found = select([3, 2, 1], 3, {"c": ["x", "x", "y"]}, rules(diversity=[("c", 1)]))
    assert found.indices.tolist() == [0, 2, 1]


def test_caps_of_two_fields_can_leave_the_greedy_choice_short():
    # The best uses up x and u, which the other two need.
    fields = {"a": ["x", "x", "y"], "b": ["u", "v", "u"]}
    found = select([3, 2, 1], 2, fields, rules([("a", 1), ("b", 1)]))
    assert found.indices.tolist() == [0]
    assert {cap.field: full.tolist() for cap, full in found.full.items()} == {
        "a": [True, True, False],
        "b": [True, False, True],
    }


@pytest.mark.parametrize("seed", range(20))
def test_each_ad_is_the_best_that_the_caps_allow_after_those_above_it(seed):
    rng = random.Random(seed)
    count, k = rng.randint(1, 9), rng.randint(1, 7)
    fields = {name: [rng.choice(["u", "v", "w", "x", None]) for _ in range(count)] for name in "ab"}
    caps = {name: rng.randint(1, 2) for name in "ab"}
    gains = np.array([rng.random() for _ in range(count)])
    found = select(gains, k, fields, rules(caps.items()))
    expected = []
    for index in np.argsort(-gains).tolist():
        allowed = all(
            fields[name][index] is None
            or sum(fields[name][index] == fields[name][other] for other in expected) < caps[name]
            for name in "ab"
        )
        if allowed and len(expected) < k:
            expected.append(index)
    assert found.indices.tolist() == expected


def every_answer(gains, k, columns, asked):
    """Returns all possible answers with their probabilities, by trying every draw."""

    class Scripted(random.Random):
        def __init__(self, script):
            super().__init__()
            self.script, self.probability, self.widths = list(script), 1.0, []

        def pick(self, width):
            choice = self.script[len(self.widths)] if len(self.widths) < len(self.script) else 0
            self.widths.append(width)
            return choice

        def random(self):
            drawn = self.pick(2) == 1
            share = asked.exploration.share
            self.probability *= share if drawn else 1 - share
            return 0.0 if drawn else 1.0

        def randrange(self, width):
            self.probability /= width
            return self.pick(width)

    values = {
        name: field_values.FieldValues.of(column(strings)) for name, strings in columns.items()
    }
    script, found = [], []
    while True:
        rng = Scripted(script)
        chosen = selection.select_with_rules(np.array(gains, np.float64), k, asked, values, rng)
        found.append((chosen, rng.probability))
        script = (script + [0] * len(rng.widths))[: len(rng.widths)]
        while script and script[-1] + 1 >= rng.widths[len(script) - 1]:
            script.pop()
        if not script:
            return found
        script[-1] += 1


@pytest.mark.parametrize("among", [None, 2])
def test_propensities_equal_those_from_enumerating_all_draws(among):
    exploration = Exploration(share=0.3, among=among)
    asked = rules([("a", 1)], [("c", 0.5)], exploration)
    columns = {"a": ["x", "x", "y", "z", None], "c": ["u", "v", "u", "v", "u"]}
    answers = every_answer([5, 4, 3, 2, 1], 3, columns, asked)
    assert sum(probability for _, probability in answers) == pytest.approx(1)
    # Probability that an answer starts with each prefix, if it has a further ad, and in any case.
    extended, reached = collections.Counter(), collections.Counter()
    for chosen, probability in answers:
        indices = tuple(chosen.indices.tolist())
        for position in range(len(indices)):
            extended[indices[:position]] += probability
            reached[indices[: position + 1]] += probability
    for chosen, _ in answers:
        indices = tuple(chosen.indices.tolist())
        for position, propensity in enumerate(chosen.propensities.tolist()):
            expected = reached[indices[: position + 1]] / extended[indices[:position]]
            assert propensity == pytest.approx(expected)


def test_propensities_of_the_first_position_by_hand():
    # Four candidates, share 0.2: the best has 0.8 + 0.2 / 4, the others have 0.2 / 4.
    exploration = Exploration(share=0.2)
    for chosen, _ in every_answer([4, 3, 2, 1], 1, {}, rules(exploration=exploration)):
        expected = 0.85 if chosen.indices[0] == 0 else 0.05
        assert chosen.propensities.tolist() == pytest.approx([expected])


def test_answers_are_drawn_as_often_as_their_propensities_say():
    exploration = Exploration(share=0.5)
    columns, asked = {"a": ["x", "x", "y", "z"]}, rules([("a", 1)], exploration=exploration)
    rng, counts, expected = random.Random(1), collections.Counter(), {}
    values = {"a": field_values.FieldValues.of(column(columns["a"]))}
    trials = 8_000
    for _ in range(trials):
        chosen = selection.select_with_rules(np.array([4.0, 3, 2, 1]), 2, asked, values, rng)
        indices = tuple(chosen.indices.tolist())
        counts[indices] += 1
        expected[indices] = float(np.prod(chosen.propensities))
    # First any of four, then any of the two or three that the cap leaves.
    assert len(expected) == 10
    assert sum(expected.values()) == pytest.approx(1)
    for indices, probability in expected.items():
        # Five standard deviations.
        allowed = 5 * np.sqrt(probability * (1 - probability) / trials)
        assert abs(counts[indices] / trials - probability) < allowed


def test_draws_respect_the_caps_and_the_best_candidates():
    exploration = Exploration(share=1.0, among=3)
    for seed in range(50):
        found = select([4, 3, 2, 1], 3, {"a": ["x", "x", "y", "z"]},
                       rules([("a", 1)], exploration=exploration), seed)  # fmt: skip
        advertisers = ["xxyz"[index] for index in found.indices]
        assert sorted(advertisers) == ["x", "y", "z"]
        # The fourth candidate is never drawn; it is chosen when no other is left.
        assert found.indices[2] == 3
        assert found.explored.tolist() == [True, True, False]
