"""Shares of a batch: which rows each replica has, and what it knows of the others."""

import pytest
import tensorflow as tf

from tfrec import layers


def batch(rows):
    ids = tf.range(rows)
    return {"query": ids[:, None], "ad": ids[:, None], "ad_row": ids, "user": ids + 100}


@pytest.mark.parametrize(
    ("rows", "replicas", "expected"),
    [
        (6, 2, [[0, 1, 2], [3, 4, 5]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        # With two rows for three replicas, the first has none.
        (2, 3, [[], [0], [1]]),
        (0, 2, [[], []]),
    ],
)
def test_shares_are_consecutive_rows_and_each_row_is_in_one(rows, replicas, expected):
    shares = [layers.share_of(batch(rows), replica, replicas) for replica in range(replicas)]
    assert [share["ad_row"].numpy().tolist() for share in shares] == expected
    assert [share["query"][:, 0].numpy().tolist() for share in shares] == expected


def test_a_share_has_the_whole_batch_except_ids():
    share = layers.share_of(batch(5), 1, 2)
    whole = layers.whole_batch(share)
    assert set(whole) == {"ad_row", "user"}
    assert whole["user"].numpy().tolist() == [100, 101, 102, 103, 104]


def test_a_batch_without_shares_is_the_whole_batch():
    whole = batch(5)
    assert layers.whole_batch(whole) is whole
    assert layers.part_of_whole(tf.constant(3.0), whole) == 3.0


def test_the_means_of_shares_count_by_their_rows():
    # Means 3 and 8 of two and three rows: (2 · 3 + 3 · 8) / 5 = 6.
    shares = [layers.share_of(batch(5), replica, 2) for replica in range(2)]
    parts = [
        layers.part_of_whole(tf.constant(mean), share)
        for mean, share in zip((3.0, 8.0), shares, strict=True)
    ]
    assert sum(float(part) for part in parts) == pytest.approx(6.0)
