"""Requests and splits: whole, disjoint, and split as configured."""

import numpy as np
import pytest

from tfrecords.conversion import splitting
from tfrecords.splits import SplitOptions

TRAIN, VALIDATION, TEST = 0, 1, 2


def assign(kind="auto", validation=0.2, test=0.2, seed=1, **keys):
    num_rows = len(next(iter(keys.values())))
    arrays = {name: np.asarray(values) for name, values in keys.items()}
    options = SplitOptions(kind, validation, test, seed)
    return splitting.assign(splitting.RowKeys(num_rows, **arrays), options)


def test_by_order_the_last_rows_are_test_and_those_before_validation():
    requests = splitting.assign(splitting.RowKeys(10), SplitOptions("order", 0.2, 0.2))
    assert requests.splits.tolist() == [0] * 6 + [1] * 2 + [2] * 2
    assert requests.row_splits().tolist() == requests.splits.tolist()
    assert requests.kind == "order"


def test_by_time_the_latest_rows_are_test_in_any_order_of_the_log():
    requests = assign(time=[5.0, 1.0, 9.0, 3.0, 7.0])
    assert requests.kind == "time"
    # In order of time rows 1, 3, 0 train, row 4 validates, row 2 tests.
    assert requests.splits.tolist() == [0, 0, 2, 0, 1]


def test_rows_of_equal_time_keep_the_order_of_the_log():
    assert assign(time=[1.0] * 5).splits.tolist() == [0, 0, 0, 1, 2]


def test_neighbors_of_one_key_are_one_request_and_keep_the_order():
    requests = assign(request=[7, 7, 3, 9, 9, 9])
    assert requests.order is None
    assert requests.lengths(0, 3).tolist() == [2, 1, 3]
    assert requests.rows(1, 3).tolist() == [2, 3, 4, 5]
    assert requests.first_rows().tolist() == [0, 2, 3]


def test_scattered_rows_of_one_key_are_one_request_in_one_split():
    requests = assign("order", request=[7, 3, 7, 9, 3, 7, 5])
    assert requests.lengths(0, 4).tolist() == [3, 2, 1, 1]
    assert requests.rows(0, 4).tolist() == [0, 2, 5, 1, 4, 3, 6]
    assert requests.first_rows().tolist() == [0, 1, 3, 6]
    # Requests begin on rows 0, 3, 5 and 6 of 7; int(7 × 0.6) = 4 and int(7 × 0.8) = 5.
    assert requests.splits.tolist() == [0, 0, 2, 2]
    assert requests.row_splits().tolist() == [0, 0, 0, 2, 0, 0, 2]


def test_a_random_share_has_its_size_and_follows_the_seed():
    rows = np.zeros(1_000, np.int64)
    splits = assign("fraction", user=rows).splits
    assert np.bincount(splits).tolist() == [600, 200, 200]
    np.testing.assert_array_equal(splits, assign("fraction", user=rows).splits)
    assert (splits != assign("fraction", user=rows, seed=2).splits).any()
    assert (np.sort(splits) != splits).any()


def test_the_split_column_and_the_files_are_followed():
    given = np.array([2, 0, 1, 0, 2], np.uint8)
    assert assign(split=given).splits.tolist() == given.tolist()
    assert assign(split=given).kind == "column"
    assert assign(file=given, split=given[::-1]).splits.tolist() == given.tolist()


def test_a_missing_held_out_split_is_taken_from_the_end_of_training():
    # Test is given; of the 10 training rows the last 20 % validate.
    splits = assign(split=np.array([0] * 10 + [2] * 3, np.uint8)).splits
    assert splits.tolist() == [0] * 8 + [1] * 2 + [2] * 3
    # By time, if there is one: rows 0 and 1 are the latest.
    time = [99.0, 98.0, *range(8), 0, 0, 0]
    splits = assign("column", split=np.array([0] * 10 + [2] * 3, np.uint8), time=time).splits
    assert splits.tolist() == [1, 1] + [0] * 8 + [2] * 3


@pytest.mark.parametrize(
    ("key", "where"), [("split", "the split column"), ("file", "the files of the splits")]
)
def test_a_request_in_two_splits_is_refused(key, where):
    wrong = f"1 row is in a different split from the first row of .* Correct {where} or the request"
    with pytest.raises(ValueError, match=wrong):
        assign(request=[1, 1, 2], **{key: np.array([0, 2, 1], np.uint8)})


def test_the_last_of_each_user_is_test_and_the_one_before_validation():
    user = [1, 2, 1, 1, 2, 3, 1, 4, 4, 4]
    assert assign("leave_last_out", user=user).splits.tolist() == [0, 0, 0, 1, 2, 0, 2, 0, 1, 2]
    # By time: the latest row of user 1 is row 0, then row 2.
    time = [9.0, 1.0, 8.0, 1.0, 0.0, 0.0, 2.0, 3.0, 2.0, 1.0]
    splits = assign("leave_last_out", user=user, time=time).splits
    assert splits.tolist() == [2, 2, 1, 0, 0, 0, 0, 2, 1, 0]


@pytest.mark.parametrize("kind", ["leave_fraction_out", "leave_random_fraction_out"])
def test_a_share_of_each_user_is_held_out(kind):
    user = np.repeat([5, 6, 7], [10, 5, 1])
    splits = assign(kind, user=user).splits
    for u, expected in ((5, [6, 2, 2]), (6, [3, 1, 1]), (7, [1, 0, 0])):
        assert np.bincount(splits[user == u], minlength=3).tolist() == expected
    latest = splits[:10].tolist() == [0] * 6 + [1] * 2 + [2] * 2
    assert latest == (kind == "leave_fraction_out")
    # However large the shares are, a request of each user is in training.
    splits = assign(kind, validation=0.4, test=0.55, user=[7, 8, 8]).splits
    assert [splits[0], *np.sort(splits[1:])] == [0, 0, 2]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nope", "^split: expected one of auto, order, .*, got 'nope'"),
        ("time", "cannot be split by time: the schema names no time column"),
        ("column", "cannot be split by column: the schema names no split column"),
        ("file", "cannot be split by file: no validation or test file"),
        ("leave_last_out", "leave_last_out is by user, but the schema names no user_key"),
    ],
)
def test_a_split_that_the_log_does_not_allow_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        assign(kind, request=[1, 2, 3])


def count_repeated(times, ads=(1, 1, 1, 2, 1), clicks=(0, 0, 0, 0, 1), units=1.0, **keys):
    user = np.array([7, 7, 8, 7, 7])
    row_keys = splitting.RowKeys(5, time=np.array(times, float), **{"user": user, **keys})
    others = [np.array(ads, np.int64), np.array(clicks, np.uint8)]
    return splitting.count_repeated(row_keys, others, units)


def test_rows_repeat_if_keys_time_ad_and_labels_are_equal():
    # Row 2 is of another user, row 3 of another ad, and row 4 is clicked.
    assert count_repeated([90] * 5) == 1
    assert count_repeated([90, 91, 90, 90, 90]) == 0
    assert count_repeated([90] * 5, clicks=[0] * 5) == 2
    assert count_repeated([90] * 5, request=np.arange(5)) == 0
    assert count_repeated([90] * 5, user=None) == 0


def test_equal_rows_of_the_same_hour_may_be_several_impressions():
    assert count_repeated([7200] * 5) == 0
    assert count_repeated([7200] * 5, units=1000.0) == 1


def test_the_repeated_rows_of_a_long_log_are_estimated():
    ids = np.random.default_rng(1).integers(0, 2**62, 500_000)
    keys = splitting.RowKeys(1_000_000, request=np.tile(ids, 2), time=np.tile(np.arange(5e5), 2))
    # A fourth of half of the rows is compared: 125,000 with a deviation of about 300.
    assert abs(splitting.count_repeated(keys, [], 1.0) / 500_000 - 1) < 0.02
