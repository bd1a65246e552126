"""Few lessons of the towers: a tiny training spends most of its time on the usual ones."""

from tfrec.retrieval import distillation

FEW = {"_MAX_REPEATS": 1, "_FIRST_EPOCHS": 1, "_LAST_EPOCHS": 2, "_MAX_MEASURED": 25}
USUAL = {name: getattr(distillation, name) for name in FEW}


def give(numbers, set_attribute=setattr):
    """Sets how many lessons distillation gives, and how long: `FEW` or `USUAL`."""
    for name, number in numbers.items():
        set_attribute(distillation, name, number)
