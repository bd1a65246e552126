import logging

from serving.health import Health


def test_a_problem_is_logged_and_observed_once_and_so_is_its_end(caplog):
    caplog.set_level(logging.WARNING)
    observed = []
    health = Health(lambda *change: observed.append(change))
    health.set("ranker", None, release=1)
    health.set("ranker", TimeoutError("late by 2 ms"), release=1)
    health.set("ranker", TimeoutError("late by 3 ms"), release=1)
    health.set("user store", "The disk is full.")
    assert health.problems == {"ranker": "late by 3 ms", "user store": "The disk is full."}
    assert (health.problem("ranker", 1), health.problem("ranker", 2)) == ("late by 3 ms", None)
    health.set("ranker", None, release=1)
    assert health.problems == {"user store": "The disk is full."}
    assert observed == [("ranker", True), ("user store", True), ("ranker", False)]
    assert [record.getMessage() for record in caplog.records] == [
        "ranker: late by 2 ms",
        "user store: The disk is full.",
        "ranker: works again.",
    ]


def test_a_part_has_a_problem_while_it_has_one_in_any_release():
    observed = []
    health = Health(lambda *change: observed.append(change))
    health.set("ranker", "gone", release=1)
    health.set("ranker", "late", release=2)
    health.set("ranker", None, release=1)
    assert health.problems == {"ranker": "late"}
    assert observed[-1] == ("ranker", True)
