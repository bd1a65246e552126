"""Records and batches: what was written comes back, shuffled or not, in whole lists."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import reader
from tfrecords.conversion import dataset_json
from tfrecords.records import description, writer
from tfrecords.records import spec as records
from tfrecords.schema import MISSING_LABEL

pytestmark = pytest.mark.slow

NUM_SHARDS, REQUESTS_OF_SHARD = 8, 150
NUM_REQUESTS = NUM_SHARDS * REQUESTS_OF_SHARD
SPEC = records.Spec(
    query_widths=("uint16", "uint8", "int32"),
    ad_widths=("uint8", "uint8"),
    labels=("click", "engagement", "revenue"),
    has_position=True,
)


@dataclasses.dataclass(frozen=True)
class Made:
    """Requests before they are packed."""

    list_lengths: np.ndarray
    query: np.ndarray
    ad: np.ndarray
    per_ad: dict[str, np.ndarray]

    def pack(self, spec=SPEC):
        return {
            "list_lengths": self.list_lengths,
            records.ORDER: np.arange(len(self.list_lengths)),
            **records.pack("query", spec.query_widths, self.query),
            **records.pack("ad", spec.ad_widths, self.ad),
            **self.per_ad,
        }


def parse(spec, serialized):
    return records.unpack(spec, records.decode(spec, serialized))


def concatenate(parts):
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("list_lengths", "query", "ad")
    }
    per_ad = {k: np.concatenate([part.per_ad[k] for part in parts]) for k in parts[0].per_ad}
    return Made(**arrays, per_ad=per_ad)


def data_set_of(directory, shards):
    """A data set of one split, without encoder and catalog."""
    data_set = reader.DataSet.__new__(reader.DataSet)
    data_set.directory, data_set.spec = directory, SPEC
    data_set._opened, data_set._verified, data_set._pipelines = None, set(), {}
    shards = [description.ShardDescription(**{"sampled": 0, **shard}) for shard in shards]
    data_set.description = description.DataSetDescription.model_construct(
        splits={"train": dataset_json.describe_split(shards)}
    )
    return data_set


def requests(num_requests, seed=0, first=0):
    """Requests whose query column 2 is unique and whose ad columns repeat it by bytes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, num_requests).astype(np.int32)
    rows = int(lengths.sum())
    number = first + np.arange(num_requests)
    owner = np.repeat(number, lengths)
    query = np.stack([rng.integers(0, 60_000, num_requests), number % 250, number], axis=1)
    ad = np.stack([owner % 256, rng.integers(0, 256, rows)], axis=1)
    per_ad = {
        "ad_row": (owner * 10 + np.concatenate([np.arange(n) for n in lengths])).astype(np.int32),
        "click": (rng.random(rows) < 0.3).astype(np.uint8),
        "engagement": (rng.random(rows) < 0.1).astype(np.uint8),
        "revenue": np.float32(rng.exponential(size=rows)),
        "position": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
    }
    return Made(lengths, query.astype(np.int32), ad.astype(np.int32), per_ad)


def lists_of(batch):
    """A padded batch as one tuple of everything per request."""
    arrays = {name: values.numpy() for name, values in batch.items()}
    query, mask = arrays.pop("query"), arrays.pop("mask")
    return [
        repr((query[b].tolist(), [arrays[name][b][mask[b]].tolist() for name in sorted(arrays)]))
        for b in range(len(query))
    ]


@pytest.mark.parametrize(
    ("cardinality", "width"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32")],
)
def test_ids_are_stored_in_the_narrowest_type_that_holds_them(cardinality, width):
    assert records.narrowest(cardinality) == width


def test_records_round_trip_one_and_many(tmp_path):
    parts = [requests(7), requests(1, 1, first=7), requests(20, 2, first=8)]
    serialized = tf.constant([records.serialize(part.pack()) for part in parts])
    parsed = parse(SPEC, serialized)
    joined = concatenate(parts)
    np.testing.assert_array_equal(parsed["list_lengths"], joined.list_lengths)
    np.testing.assert_array_equal(parsed["query"], joined.query)
    np.testing.assert_array_equal(parsed["ad"], joined.ad)
    assert parsed["query"].dtype == parsed["ad"].dtype == tf.int32
    for name, values in joined.per_ad.items():
        np.testing.assert_array_equal(parsed[name], values)
    assert {name: parsed[name].dtype for name in SPEC.labels} == dict.fromkeys(
        SPEC.labels, tf.float32
    )


def test_a_description_round_trips_as_json(data_set):
    path = data_set.directory / "dataset.json"
    on_disk = json.loads(path.read_text())
    assert data_set.description.to_json() == on_disk
    assert data_set.description.spec == data_set.spec
    assert data_set.description.split.kind == on_disk["split"]["kind"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has format_version 2; expected 6. Convert the log again."),
        ({"num_ads": "many"}, "num_ads"),
    ],
)
def test_a_description_of_another_format_is_refused(data_set, tmp_path, change, message):
    document = {**data_set.description.to_json(), **change}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        reader.DataSet(tmp_path)


def parts():
    """The requests of each shard."""
    return [
        requests(REQUESTS_OF_SHARD, shard, REQUESTS_OF_SHARD * shard) for shard in range(NUM_SHARDS)
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set of 1,200 requests in records of about 64 rows and eight shards."""
    directory = tmp_path_factory.mktemp("records")
    shards = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROWS_PER_RECORD", 64)
        for index, part in enumerate(parts()):
            path = directory / f"train-{index:05d}.tfrecord"
            shards.append(writer.write_shard(path, part.pack()).model_dump())
    return data_set_of(directory, shards)


@pytest.fixture(scope="module")
def in_order(written):
    """How often each list of the data set occurs, and all in the order of the log."""
    lists = [x for batch in written.batches("train", 500) for x in lists_of(batch)]
    return collections.Counter(lists), lists


def test_the_writer_counts_what_it_wrote_over_many_shards(written):
    whole = concatenate(parts())
    assert written.num_requests("train") == NUM_REQUESTS
    assert written.num_rows("train") == len(whole.ad)
    assert written.label_sum("train", "click") == whole.per_ad["click"].sum()
    assert written.label_sum("train", "revenue") == pytest.approx(whole.per_ad["revenue"].sum())
    assert written.label_count("train", "click") == len(whole.ad)


def test_unshuffled_windows_keep_the_order_of_the_log(written):
    numbers = np.concatenate([w["query"][:, 2] for w in written.windows("train")])
    np.testing.assert_array_equal(numbers, np.arange(NUM_REQUESTS))


def test_windows_of_wide_rows_have_fewer_records_in_the_order_of_the_log(written, monkeypatch):
    monkeypatch.setattr(written, "_pipelines", {})
    monkeypatch.setattr(reader, "_VALUES_PER_WINDOW", 1)
    numbers = [window["query"].numpy()[:, 2] for window in written.windows("train")]
    assert max(map(len, numbers)) <= 64  # one record
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(NUM_REQUESTS))


def test_no_stream_waits_for_a_tuner_when_its_iterator_is_deleted(written):
    streams = [
        written.windows("train"),
        written.windows("train", 1),
        written.batches("train", 10, 1),
        written.batches_of_like_lists("train", 10, 1),
        written.clicked("train", 10, 1),
    ]
    assert [stream.options().autotune.enabled for stream in streams] == [False] * 5


@pytest.mark.parametrize("size", [7, 100, 10_000])
def test_shuffling_loses_and_duplicates_nothing_and_keeps_lists_whole(written, in_order, size):
    counted, lists = in_order
    shuffled = [x for batch in written.batches("train", size, seed=3) for x in lists_of(batch)]
    assert len(lists) == NUM_REQUESTS
    assert collections.Counter(shuffled) == counted
    assert shuffled != lists


def test_the_rows_of_a_request_stay_together_and_in_order_when_shuffled(written):
    for batch in written.batches("train", 200, seed=1):
        mask = batch["mask"].numpy()
        slots = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        np.testing.assert_array_equal(batch["position"].numpy()[mask], slots[mask])
        owner = batch["ad_row"].numpy() // 10
        expected = np.broadcast_to(batch["query"].numpy()[:, 2:], owner.shape)
        np.testing.assert_array_equal(owner[mask], expected[mask])


def test_a_shuffled_pass_mixes_distant_parts_of_the_log(written):
    first = next(iter(written.batches("train", 200, seed=1)))["query"].numpy()[:, 2]
    assert first.max() - first.min() > NUM_REQUESTS / 3


def test_a_window_holds_records_of_many_shards(written, monkeypatch):
    # Without the buffer of records, which holds all of these.
    monkeypatch.setattr(reader, "_SHUFFLED_RECORDS", 1)
    monkeypatch.setattr(reader, "RECORDS_PER_WINDOW", NUM_SHARDS)
    first = next(iter(written.windows("train", seed=1)))["query"].numpy()[:, 2]
    assert set(first // REQUESTS_OF_SHARD) == set(range(NUM_SHARDS))


def test_two_seeds_give_two_orders(written):
    def order(seed):
        return np.concatenate([w["query"][:, 2] for w in written.windows("train", seed)])

    assert (order(1) != order(2)).any()


def test_padding_is_masked_and_zero(written):
    batch = next(iter(written.batches("train", 50)))
    mask = batch["mask"].numpy()
    assert mask.shape[1] == mask.sum(axis=1).max() == 5
    assert not mask.all()
    for name in ("ad", "ad_row", "click", "engagement", "revenue", "position"):
        assert batch[name].shape[:2] == mask.shape
        assert not batch[name].numpy()[~mask].any()


def test_batches_are_near_even_and_at_most_of_the_size_asked_for(written):
    sizes = [len(batch["query"]) for batch in written.batches("train", 100)]
    assert sum(sizes) == NUM_REQUESTS
    assert 50 < min(sizes) <= max(sizes) <= 100


@pytest.mark.parametrize("size", [2, 60, 100_000])
def test_batches_of_like_lists_hold_every_request_once_and_little_padding(written, in_order, size):
    batches = list(written.batches_of_like_lists("train", size, seed=3))
    found = [x for batch in batches for x in lists_of(batch)]
    assert collections.Counter(found) == in_order[0]
    rows = [int(batch["mask"].numpy().sum()) for batch in batches]
    # A list has at most five ads, which a batch may be over or under.
    assert min(rows) > 0
    assert max(rows) <= size + 5
    if size == 60:
        # At most four pairs of five lengths meet in a batch of a window.
        windows = len(list(written.windows("train")))
        assert sum(not batch["mask"].numpy().all() for batch in batches) <= 4 * windows
        longest = [batch["mask"].shape[1] for batch in batches[: len(batches) // windows]]
        assert longest != sorted(longest)


@pytest.mark.parametrize("seed", [None, 4])
def test_clicked_pairs_are_exactly_the_clicks_with_their_queries(written, seed):
    whole = concatenate(parts())
    owner = np.repeat(np.arange(NUM_REQUESTS), whole.list_lengths)
    clicked = whole.per_ad["click"] > 0
    expected = collections.Counter(
        zip(owner[clicked], whole.per_ad["ad_row"][clicked], whole.ad[clicked, 1], strict=True)
    )
    found = collections.Counter()
    for batch in written.clicked("train", 64, seed):
        assert 0 < len(batch["query"]) <= 64
        # The third field of a query is the number of its request.
        number, request = batch["query"].numpy()[:, 2], batch["request"].numpy()
        np.testing.assert_array_equal(number[:, None] == number, request[:, None] == request)
        found.update(
            zip(
                batch["query"].numpy()[:, 2],
                batch["ad_row"].numpy(),
                batch["ad"].numpy()[:, 1],
                strict=True,
            )
        )
    assert found == expected


def test_a_request_longer_than_a_record_is_kept_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "ROWS_PER_RECORD", 4)
    lengths = np.array([1, 9, 2], np.int32)
    spec = records.Spec(("uint8",), ("uint8",), ("click",), False)
    made = Made(
        lengths,
        np.zeros((3, 1), np.int32),
        np.arange(12, dtype=np.int32)[:, None],
        {"ad_row": np.arange(12, dtype=np.int32), "click": np.zeros(12, np.uint8)},
    )
    writer.write_shard(tmp_path / "test-00000.tfrecord", made.pack(spec))
    serialized = list(tf.data.TFRecordDataset(str(tmp_path / "test-00000.tfrecord")))
    parsed = [parse(spec, tf.reshape(record, [1])) for record in serialized]
    assert [p["list_lengths"].numpy().tolist() for p in parsed] == [[1, 9], [2]]
    assert np.concatenate([p["ad_row"] for p in parsed]).tolist() == list(range(12))


def test_a_split_that_does_not_exist_is_named(written):
    with pytest.raises(ValueError, match=r"split: expected one of \['train'.*\], got 'tset'"):
        written.batches("tset", 4)


def test_an_empty_split_gives_no_batches(tmp_path):
    data_set = data_set_of(tmp_path, [])
    assert data_set.num_rows("train") == data_set.num_requests("train") == 0
    assert list(data_set.batches("train", 8)) == []
    assert list(data_set.batches("train", 8, seed=1)) == []


def test_a_missing_label_comes_back_as_nan():
    made = requests(4)
    click = np.where(np.arange(len(made.ad)) % 2, MISSING_LABEL, made.per_ad["click"])
    made.per_ad["click"] = click.astype(np.uint8)
    made.per_ad["revenue"][0] = np.nan
    parsed = parse(SPEC, tf.constant([records.serialize(made.pack())]))
    np.testing.assert_array_equal(np.isnan(parsed["click"]), np.arange(len(made.ad)) % 2 == 1)
    assert np.isnan(parsed["revenue"].numpy()).tolist() == [True] + [False] * (len(made.ad) - 1)


@pytest.mark.parametrize("change", ["missing", "shorter", "one byte"])
def test_a_shard_that_is_not_what_was_written_is_named(tmp_path, change):
    path = tmp_path / "train-00000.tfrecord"
    shards = [writer.write_shard(path, requests(50).pack()).model_dump()]
    content = bytearray(path.read_bytes())
    if change == "missing":
        path.unlink()
    elif change == "shorter":
        path.write_bytes(content[:-1])
    else:
        content[100] ^= 1
        path.write_bytes(content)
    error = FileNotFoundError if change == "missing" else ValueError
    with pytest.raises(error, match=r"train-00000\.tfrecord is (missing|damaged)"):
        data_set_of(tmp_path, shards).windows("train")


def test_clicked_pairs_carry_the_user_of_their_request(tmp_path):
    made = requests(300)
    users = 2**62 + np.arange(300) // 3  # more than int32 and float64 hold exactly
    path = tmp_path / "train-00000.tfrecord"
    shard = writer.write_shard(path, {**made.pack(), "user": users})
    data_set = data_set_of(tmp_path, [shard.model_dump()])
    data_set.spec = dataclasses.replace(SPEC, has_user=True)
    owner = np.repeat(np.arange(300), made.list_lengths)[made.per_ad["click"] == 1]
    for seed in (None, 3):
        batches = list(data_set.clicked("train", 64, seed))
        number = np.concatenate([batch["query"][:, 2] for batch in batches])
        assert sorted(number.tolist()) == owner.tolist()
        assert {batch["user"].dtype for batch in batches} == {tf.int64}
        user = np.concatenate([batch["user"] for batch in batches])
        np.testing.assert_array_equal(user, users[number])
    assert all("user" not in batch for batch in data_set.batches("train", 64))
    assert all("user" not in window for window in data_set.windows("train", 1))


def test_without_users_clicked_pairs_have_none(written):
    assert set(next(iter(written.clicked("train", 8)))) == {
        "query",
        "ad",
        "ad_row",
        "request",
        "order",
    }
