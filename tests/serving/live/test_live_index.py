import asyncio
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import threading
from concurrent import futures

import disks
import httpx
import killed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scripts_in_forks
import serving_fixtures
import waiting

from serving import client, errors, manifest, releases, requests
from serving.live import journal, live_index, live_state
from serving.releases import bundle
from tfrecords import fields, files

NEW = {
    "ad_id": "new-1",
    "fields": {"advertiser": "advertiser-new", "category": "c9", "price": 7.5, "tags": ["x", "y"]},
}


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "bundles")


@pytest.fixture
def release(base, tiny_bundle):
    """The tiny release in a writable base directory."""
    return dataclasses.replace(tiny_bundle, base=base)


def checked(filters):
    return requests.FilterFields(serving_fixtures.AD_KINDS).check(requests.Filters(**filters))


def embedding_of(view, ad_id):
    """The embedding of an added ad, as a query that finds it first."""
    snapshot = view._added
    for position, (alive, embedding) in enumerate(
        zip(snapshot.alive, snapshot.embeddings, strict=True)
    ):
        if alive and snapshot.take(np.array([position]))["__ad_id__"][0].as_py() == ad_id:
            return embedding[None]
    raise AssertionError(f"{ad_id} was not added")


def found_ids(view, query, k=400, filters=None):
    eligible = None if filters is None else view.eligible(checked(filters))
    _, rows = view.search(query, k, eligible)
    return view.ad_ids(rows[0])


def fields_of(view, rows):
    return [ad.fields for ad in view.listed(rows)]


def query():
    return serving_fixtures.ad_embeddings()[5:6]


def test_without_updates_searches_equal_those_of_the_release(release):
    live = live_index.LiveIndex(release)
    for found, expected in zip(
        live.view().search(query(), 20), release.ad_index.search(query(), 20), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert not (release.base / "live").exists()
    assert live.status()["num_ads"] == 300


def test_requests_see_updates_while_another_process_holds_the_writers_lock(release):
    live = live_index.LiveIndex(release)
    live_index.LiveIndex(release).update([NEW])
    waits, writing = threading.Event(), live._journal.writing

    @contextlib.contextmanager
    def noted():
        waits.set()
        with writing():
            yield

    live._journal.writing = noted
    with futures.ThreadPoolExecutor() as threads:
        with files.locked(release.base / "live" / str(release.version) / "lock", None):
            updating = threads.submit(live.update, removed=["new-1"])
            assert waits.wait(waiting.GUARD_SECONDS)
            threads.submit(live.refresh).result(waiting.GUARD_SECONDS)
            assert live.view().num_added == 1
        assert updating.result().removed == 1


def test_an_added_ad_is_found_by_a_matching_query_with_its_fields_and_features(release):
    live = live_index.LiveIndex(release)
    assert live.update([NEW]) == live_index.Applied(added=1, changed=0, removed=0, unknown=0)
    view = live.view()
    scores, rows = view.search(embedding_of(view, "new-1"), 3)
    assert view.ad_ids(rows[0])[0] == "new-1"
    assert rows[0, 0] == 300  # the first row after the release's
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert fields_of(view, rows[0])[0] == NEW["fields"]
    # The other ads are those of the release.
    own = release.ad_index.search(embedding_of(view, "new-1"), 2)[1]
    np.testing.assert_array_equal(rows[0, 1:], own[0])
    np.testing.assert_array_equal(view.features(rows)[0, 1:], release.ad_index.features(own)[0])
    assert view.listed(rows[0])[1:] == release.ad_index.listed(own[0])


def test_an_ad_with_the_fields_of_a_released_one_gets_its_embedding_and_features(release):
    # The tower must reproduce the embedding and features of ad 5 in the catalog.
    (ad,) = release.ad_index.listed(np.array([5]))
    live = live_index.LiveIndex(release)
    live.update([{"ad_id": "twin", "fields": ad.fields}])
    scores, rows = live.view().search(query(), 2)
    assert sorted(rows[0].tolist()) == [5, 300]
    np.testing.assert_allclose(scores[0], [1.0, 1.0], atol=1e-5)
    features = live.view().features(rows)
    np.testing.assert_array_equal(features[0, 0], features[0, 1])


@pytest.mark.parametrize(("column", "key"), [("a", "a"), (None, "advertiser")])
def test_a_field_that_is_the_ad_key_has_the_ad_id_unless_it_is_given(release, column, key):
    # An export writes a null column if it is the same as the name.
    field = fields.Field("advertiser", "categorical", "ad", column=column)
    schema = {
        "name": "tiny",
        "ad_key": [key],
        "fields": [fields.field_json(dataclasses.asdict(field))],
    }
    keyed = dataclasses.replace(release.manifest, schema=schema)
    live = live_index.LiveIndex(dataclasses.replace(release, manifest=keyed))
    given = {"advertiser": "other"}
    live.update([{"ad_id": "new-1"}, {"ad_id": "new-2", "fields": given}])
    nothing = {"category": None, "price": None, "tags": None}
    assert fields_of(live.view(), np.array([300, 301])) == [
        {**nothing, "advertiser": "new-1"},
        {**nothing, "advertiser": "other"},
    ]
    several = dataclasses.replace(keyed, schema={**schema, "ad_key": [key, "b"]})
    assert (keyed.ad_id_field, several.ad_id_field) == ("advertiser", None)


def test_the_first_unknown_ids_of_a_removal_are_named(release):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    done = live.update(removed=["z", "ad-3", "y", "new-1", "x", "w"])
    assert (done.removed, done.unknown, done.unknown_ids) == (2, 4, ("w", "x", "y"))


def test_a_changed_ad_replaces_the_old_one(release):
    live = live_index.LiveIndex(release)
    changed = {"ad_id": "ad-5", "fields": {"advertiser": "somebody else"}}
    assert live.update([changed]).changed == 1
    view = live.view()
    ids = found_ids(view, query())
    assert sorted(ids) == sorted(f"ad-{row}" for row in range(300))
    assert ids[0] != "ad-5"
    _, rows = view.search(embedding_of(view, "ad-5"), 1)
    assert view.ad_ids(rows[0]) == ["ad-5"]
    assert fields_of(view, rows[0]) == [
        {"advertiser": "somebody else", "category": None, "price": None, "tags": None}
    ]
    # After another change, the old position is not found.
    assert live.update([{**changed, "fields": {"advertiser": "advertiser-5"}}]).changed == 1
    assert sorted(found_ids(live.view(), query())) == sorted(f"ad-{row}" for row in range(300))


def test_a_removed_ad_is_not_found_until_it_is_added_again(release):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    applied = live.update([], ["ad-5", "new-1", "ad-77777"])
    assert (applied.removed, applied.unknown) == (2, 1)
    ids = found_ids(live.view(), query())
    assert len(ids) == 299
    assert not {"ad-5", "new-1"} & set(ids)
    assert found_ids(live.view(), query(), filters={"allowed_ads": ["ad-5", "new-1"]}) == []
    assert live.update([], ["ad-5"]).unknown == 1
    assert live.update([NEW]).added == 1
    assert found_ids(live.view(), query(), filters={"allowed_ads": ["ad-5", "new-1"]}) == ["new-1"]


def test_filters_see_added_and_changed_ads(release):
    live = live_index.LiveIndex(release)
    live.update(
        [
            NEW,
            {"ad_id": "new-2", "fields": {"advertiser": "advertiser-3", "price": 1}},
            # Ad 3 had advertiser 3.
            {"ad_id": "ad-3", "fields": {"advertiser": "advertiser-new", "tags": ["y"]}},
        ]
    )
    view = live.view()

    def eligible(field, **parts):
        return set(found_ids(view, query(), filters={"conditions": [{"field": field, **parts}]}))

    assert eligible("advertiser", any_of=["advertiser-new"]) == {"new-1", "ad-3"}
    threes = {f"ad-{row}" for row in range(12, 300, 9)} | {"new-2"}
    assert eligible("advertiser", any_of=["advertiser-3"]) == threes
    assert eligible("tags", all_of=["x", "y"]) == {"new-1"}
    assert "ad-3" in eligible("price", none_of=[1.5])
    # Prices are r / 2, missing for every seventh ad; ad 3 has lost its price.
    assert eligible("price", at_most=1) == {"ad-1", "ad-2", "new-2"}
    everything = {f"ad-{row}" for row in range(300)} | {"new-1", "new-2"}
    assert eligible("advertiser", none_of=["nobody"]) == everything


def test_values_are_found_for_more_ads_than_a_filter_may_name(release):
    live = live_index.LiveIndex(release)
    live.update([NEW, {"ad_id": "ad-3", "fields": {"advertiser": "advertiser-new"}}], ["ad-5"])
    # As in the events of many users.
    many = [f"gone-{n}" for n in range(60_000)]
    found = live.view().values([*many, "new-1", "ad-3", "ad-4", "ad-5"], ["advertiser"])
    assert found["advertiser"] == {
        "new-1": ["advertiser-new"],
        "ad-3": ["advertiser-new"],
        "ad-4": ["advertiser-4"],
        "ad-5": ["advertiser-5"],
    }


def test_k_ads_are_found_among_released_and_added_ads(release):
    live = live_index.LiveIndex(release)
    live.update([{"ad_id": f"new-{n}", "fields": {"price": n}} for n in range(20)])
    live.update([], [f"ad-{row}" for row in range(290)])
    scores, rows = live.view().search(query(), 50)
    # Ten released and twenty added ads are left.
    assert rows.shape == (1, 30)
    assert len(set(rows[0].tolist())) == 30
    assert (np.diff(scores) <= 0).all()
    assert live.view().search(query(), 7)[1].shape == (1, 7)
    assert live.status()["num_ads"] == 30


@pytest.mark.parametrize(
    ("ads", "message"),
    [
        ([{"fields": {}}], r"ads\[0\]: expected an object with ad_id, fields and show"),
        (["ad"], r"ads\[0\]: expected an object with ad_id, fields and show, got 'ad' \(str\)"),
        ([NEW, {**NEW, "more": 1}], r"ads\[1\]: expected an object with ad_id, fields and show"),
        ([{"ad_id": None}], r"ads\[0\]\.ad_id: expected a string of 1 to 1024 bytes, got None"),
        ([{"ad_id": ""}], r"ads\[0\]\.ad_id: expected a string of 1 to 1024 bytes, got ''"),
        ([{"ad_id": "x" * 1025}], r"ads\[0\]\.ad_id: expected a string of 1 to 1024 bytes"),
        ([{"ad_id": "a", "fields": [1]}], r"ads\[0\]\.fields: expected an object of field names"),
        (
            [NEW, {"ad_id": "a", "fields": {"pric": 1}}],
            r"ads\[1\]\.fields: unknown field 'pric' \(str\)\. Did you mean 'price'\? Ad fields",
        ),
        (
            [{"ad_id": "a", "fields": {"price": "cheap"}}],
            r"ads\[0\]\.fields\.price: expected a finite number or null, got 'cheap' \(str\)",
        ),
        (
            [{"ad_id": "a", "fields": {"tags": "x"}}],
            r"ads\[0\]\.fields\.tags: expected a list of strings or null, got 'x'",
        ),
        ([{"ad_id": "a", "fields": {"advertiser": 1.5}}], r"fields\.advertiser: expected a string"),
        (
            [{"ad_id": "a", "show": {"titel": "x"}}],
            r"ads\[0\]\.show: unknown name 'titel' \(str\)\. Did you mean 'title'\? ",
        ),
        ([{"ad_id": "a", "show": "x"}], r"ads\[0\]\.show: expected an object of names and values"),
        (
            [{"ad_id": "a", "show": {"title": "half a pair: \ud83d"}}],
            r"ads\[0\]\.show: expected text without unpaired surrogates, got",
        ),
        ([NEW, NEW], r"ads: expected each ad once, got 'new-1' twice"),
        (
            [{**NEW, "ad_id": "ad-4"}],
            r"removed: expected no ad that is also in ads, got 'ad-4' in both",
        ),
    ],
)
def test_a_bad_ad_is_refused_and_nothing_is_applied(release, ads, message):
    live = live_index.LiveIndex(release)
    with pytest.raises(errors.InvalidRequestError, match=message):
        live.update(ads, ["ad-4"])
    assert live.view().num_added == live.view().num_removed == 0
    assert not (release.base / "live").exists()
    with pytest.raises(
        errors.InvalidRequestError, match=r"removed\[1\]: expected a string of 1 to"
    ):
        live.update([NEW], ["ad-4", None])
    assert live.view().num_ads == 300


def test_updates_survive_reopening_and_reach_other_processes(release):
    first, second = live_index.LiveIndex(release), live_index.LiveIndex(release)
    first.update([NEW], ["ad-5"])
    assert second.view().num_added == 0
    second.refresh()
    second.update([{"ad_id": "new-2"}])
    first.refresh()
    third = live_index.LiveIndex(release)
    for live in (first, second, third):
        ids = found_ids(live.view(), query(), k=400)
        assert len(ids) == 301
        assert {"new-1", "new-2"} <= set(ids)
        assert "ad-5" not in ids
    one, other = (live.view().search(query(), 400) for live in (first, third))
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_array_equal(one[0], other[0])


def test_a_writer_sees_what_others_wrote_before_it_writes(release):
    first, second = live_index.LiveIndex(release), live_index.LiveIndex(release)
    first.update([NEW])
    # Without a refresh, it still counts as a change, not as an addition.
    assert second.update([NEW]) == live_index.Applied(0, 1, 0, 0)
    assert live_index.LiveIndex(release).view().num_added == 1


def journal_path(release):
    return release.base / "live" / "1" / "journal"


@pytest.mark.parametrize("kept_bytes", [1, 3, 8, 12, 16, 17, 500])
def test_an_interrupted_write_is_cut_off_and_earlier_ones_are_kept(release, kept_bytes):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    path = journal_path(release)
    before = path.read_bytes()
    live.update([], ["ad-5"])
    path.write_bytes(path.read_bytes()[: len(before) + kept_bytes])
    reopened, follower = live_index.LiveIndex(release), live_index.LiveIndex(release)
    assert (reopened.view().num_added, reopened.view().num_removed) == (1, 0)
    reopened.update([], ["ad-6"])
    follower.refresh()
    for index in (reopened, follower, live_index.LiveIndex(release)):
        assert (index.view().num_removed, index.problem) == (1, None)
        assert "ad-6" not in found_ids(index.view(), query())
        assert "ad-5" in found_ids(index.view(), query())


@pytest.mark.parametrize("num_updates", [1, 3])
def test_every_flipped_bit_is_refused_and_nothing_is_cut(release, num_updates):
    live = live_index.LiveIndex(release)
    for number in range(num_updates):
        live.update([{**NEW, "ad_id": f"new-{number}"}])
    content = journal_path(release).read_bytes()
    rng = np.random.default_rng(1)
    # Also each bit of the first lengths.
    for position in [*range(24), *rng.integers(0, len(content), 100)]:
        bad = bytearray(content)
        bad[position] ^= 1 << int(rng.integers(8))
        journal_path(release).write_bytes(bad)
        with pytest.raises(errors.LiveIndexError, match="is damaged at byte"):
            live_index.LiveIndex(release)
        live.refresh()
        assert (live.view().num_added, live.problem is None) == (num_updates, False)
        with pytest.raises(errors.LiveIndexError, match="Restore it from a copy"):
            live.update([], ["ad-5"])
        assert journal_path(release).read_bytes() == bad


def test_a_release_on_a_volume_that_disappears_keeps_its_ads(release):
    live = live_index.LiveIndex(release)
    live.update(removed=["ad-4"])
    away = release.base.with_name("away")
    release.base.rename(away)
    for _ in range(2):
        live.refresh()
        assert live.view().num_removed == 1
        assert "and the manifest of its release are missing. The service keeps" in live.problem
    away.rename(release.base)
    live.refresh()
    assert (live.view().num_removed, live.problem) == (1, None)
    # If only the journal is removed, its updates are no longer wanted.
    journal_path(release).unlink()
    live.refresh()
    assert (live.view().num_removed, live.problem) == (0, None)


@pytest.mark.process
def test_acknowledged_updates_survive_a_kill(release):
    ours, theirs = multiprocessing.Pipe()
    acknowledged = -1
    with killed.running(_kill_target, release.base, theirs):
        for _ in range(30):
            acknowledged = ours.recv()
    while ours.poll():
        acknowledged = ours.recv()
    written = journal.Journal(release.base, 1, "training-0").read_new()
    assert [payload[:8] for payload in written.payloads[: acknowledged + 1]] == [
        number.to_bytes(8, "little") for number in range(acknowledged + 1)
    ]


def _kill_target(base, pipe):
    target = journal.Journal(base, 1, "training-0")
    with target.writing():
        for number in range(1_000_000):
            target.read_new()
            target.append(number.to_bytes(8, "little") + os.urandom(20_000))
            pipe.send(number)


def test_the_updates_of_another_release_are_refused(release, tmp_path):
    live_index.LiveIndex(release).update([NEW])
    foreign = tmp_path / "foreign"
    serving_fixtures.publish(foreign, serving_fixtures.Recipe(seed=7))
    shutil.copytree(release.base / "live", foreign / "live")
    with pytest.raises(
        errors.LiveIndexError,
        match=r"belongs to release 1 of training training-0 .* expected release 1 of training "
        r"training-7",
    ):
        live_index.LiveIndex(bundle.load(foreign))


def test_an_ad_tower_that_does_not_reproduce_the_catalog_is_refused(base):
    release = bundle.verify(base, 1)
    ads = {"rows": [0], "embeddings": np.roll(release.probes["ads"]["embeddings"], 1).tolist()}
    changed = dataclasses.replace(release, probes={**release.probes, "ads": ads})
    with manifest.writing(base, 1, manifest.encode(changed)):
        pass
    live = live_index.LiveIndex(bundle.load(base))
    with pytest.raises(errors.BundleError, match=r"ad_tower/1 does not reproduce .* differ"):
        live.update([NEW])
    assert live.view().num_added == 0
    assert not (base / "live" / "1" / "journal").exists()


@pytest.mark.process
def test_the_script_applies_files_of_ads_and_of_ids(release, tmp_path):
    (tmp_path / "ads.jsonl").write_text(json.dumps(NEW) + "\n\n" + json.dumps({"ad_id": "ad-3"}))
    (tmp_path / "ids.txt").write_text("ad-5\nad-6\nnobody\n")
    done = scripts_in_forks.run(
        "update_index.py",
        f"--bundle={release.base}",
        f"--add={tmp_path / 'ads.jsonl'}",
        f"--remove={tmp_path / 'ids.txt'}",
        "--measure_recall",
    )
    assert done.stdout.splitlines() == [
        "release 1: 1 ad added, 1 changed, 2 removed, 1 not found ('nobody')",
        "recall at 500 of the live index: 1.0000",
        "live: 299 ads; 2 of them added or changed, 3 of the release removed or changed",
    ]
    columns = {"ad_id": ["c-1", "c-2"], "tags": [["a", "b"], None], "price": [2.5, None]}
    pq.write_table(pa.table({**columns, "other": [1, 2]}), tmp_path / "ads.parquet")
    scripts_in_forks.run(
        "update_index.py", f"--bundle={release.base}", f"--add={tmp_path / 'ads.parquet'}"
    )
    view = live_index.LiveIndex(release).view()
    rows = np.array([302, 303])
    assert view.ad_ids(rows) == ["c-1", "c-2"]
    nothing = {"advertiser": None, "category": None, "price": None, "tags": None}
    assert fields_of(view, rows) == [{**nothing, "price": 2.5, "tags": ["a", "b"]}, nothing]


@pytest.mark.process
def test_files_written_by_other_programs_are_read(release, tmp_path):
    # A byte order mark, Windows line ends, and U+2028 and U+0085, which are valid in JSON.
    title = "a\u2028b\u0085c"
    ads = [{"ad_id": f"j-{number}", "fields": {"category": title}} for number in range(2)]
    lines = [json.dumps(ad, ensure_ascii=False) for ad in ads]
    (tmp_path / "ads.jsonl").write_bytes("\r\n".join(["", *lines]).encode("utf-8-sig"))
    (tmp_path / "ids.txt").write_bytes("ad-5\r\n".encode("utf-8-sig"))
    flags = [f"--add={tmp_path / 'ads.jsonl'}", f"--remove={tmp_path / 'ids.txt'}"]
    done = scripts_in_forks.run("update_index.py", f"--bundle={release.base}", *flags)
    assert done.returncode == 0, done.stderr
    view = live_index.LiveIndex(release).view()
    assert (view.num_added, view.num_removed) == (2, 1)
    assert view.listed(np.array([300]))[0].fields["category"] == title


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ads.jsonl", '{"ad_id": "a"}\n{', "ad 2: expected JSON, got invalid JSON"),
        ("ads.jsonl", '{"ad_id": "a"}\n{"ad_id": 1.5}', "ads[1].ad_id: expected a string of 1 to"),
        ("ads.csv", "ad_id,price\n1,2\n", "--add: expected a file .jsonl or .parquet"),
    ],
)
def test_an_unreadable_file_changes_nothing(release, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "ids.txt").write_text("ad-5\n")
    done = scripts_in_forks.run(
        "update_index.py",
        f"--bundle={release.base}",
        f"--add={tmp_path / name}",
        f"--remove={tmp_path / 'ids.txt'}",
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (release.base / "live" / "1" / "journal").exists()


def test_removing_the_journal_restores_the_release_and_is_logged(release, caplog):
    live = live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])
    live.update([], ["ad-7"])
    journal_path(release).unlink()
    live.refresh()
    assert (live.view().num_added, live.view().num_removed) == (0, 0)
    (message,) = caplog.messages
    assert message.startswith(
        f"{journal_path(release)} was removed or replaced: 2 of 2 live updates are no longer served"
    )
    live.refresh()
    assert len(caplog.messages) == 1
    live.update([], ["ad-6"])
    assert live_index.LiveIndex(release).view().num_removed == 1


@pytest.mark.parametrize("others_write", [False, True])
def test_a_restored_copy_of_the_journal_is_read_and_appended_to(release, others_write):
    live, other = live_index.LiveIndex(release), live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])
    copy = journal_path(release).read_bytes()
    for number in range(6, 20):
        live.update([], [f"ad-{number}"])
    assert live.view().num_removed == 15
    read = journal_path(release).stat().st_size
    # Overwritten in place, as cp does: the same inode and generation.
    journal_path(release).write_bytes(copy)
    expected = 1
    if others_write:
        # Enough updates that the copy becomes longer than what was read.
        other.update([{**NEW, "ad_id": f"new-{number}"} for number in range(1, 301)])
        assert journal_path(release).stat().st_size > read
        expected = 300
    live.refresh()
    assert live.status()["problem"] is None
    assert (live.view().num_added, live.view().num_removed) == (expected, 1)
    live.update([], ["ad-290"])
    assert live_index.LiveIndex(release).view().num_removed == 2


def test_an_update_that_cannot_be_written_is_not_applied(release, monkeypatch):
    live, follower = live_index.LiveIndex(release), live_index.LiveIndex(release)
    live.update([NEW])
    whole = journal_path(release).read_bytes()

    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(errors.LiveIndexError, match="cannot be written"):
            live.update([], ["ad-5"])
    assert journal_path(release).read_bytes() == whole
    for index in (live, follower, live_index.LiveIndex(release)):
        index.refresh()
        assert (index.view().num_added, index.view().num_removed) == (1, 0)
    live.update([], ["ad-6"])
    assert live_index.LiveIndex(release).view().num_removed == 1


def test_a_full_disk_does_not_change_the_journal(release):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    whole = journal_path(release).read_bytes()
    with (
        disks.full(len(whole) + 700),
        pytest.raises(errors.LiveIndexError, match="cannot be written"),
    ):
        live.update([{**NEW, "ad_id": f"new-{number}"} for number in range(50)])
    assert journal_path(release).read_bytes() == whole
    assert live.view().num_added == 1


def test_a_directory_that_cannot_be_created_is_an_error(release):
    live = live_index.LiveIndex(release)
    (release.base / "live").write_text("a file in its place")
    with pytest.raises(errors.LiveIndexError, match="cannot be written"):
        live.update([], ["ad-5"])


def test_searches_do_not_wait_while_an_ad_is_embedded(release, monkeypatch):
    live, other = live_index.LiveIndex(release), live_index.LiveIndex(release)
    embedding, go_on = threading.Event(), threading.Event()
    embed = releases.AdTower.embed_table

    def slowly(tower, ads):
        embedding.set()
        assert go_on.wait(60)
        return embed(tower, ads)

    monkeypatch.setattr(releases.AdTower, "embed_table", slowly)
    # The check of the ad tower also calls it.
    updating = threading.Thread(target=live.update, args=([NEW],))
    updating.start()
    assert embedding.wait(60)
    # Another process writes, and this one applies the update at its next refresh.
    writing = threading.Thread(target=other.update, args=([], ["ad-5"]))
    writing.start()
    writing.join(30)
    refreshing = threading.Thread(target=live.refresh)
    refreshing.start()
    refreshing.join(30)
    waiting = writing.is_alive(), refreshing.is_alive()
    seen = live.view().num_removed
    go_on.set()
    for thread in (updating, writing, refreshing):
        thread.join(60)
    assert waiting == (False, False)
    assert seen == 1
    assert (live.view().num_added, live.view().num_removed) == (1, 1)


def test_an_unreadable_directory_does_not_change_the_ads(release):
    live = live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])
    directory = journal_path(release).parent
    away = directory.rename(directory.with_name("away"))
    directory.write_text("a file in its place")
    live.refresh()
    assert "cannot be read" in live.status()["problem"]
    assert (live.view().num_added, live.view().num_removed) == (1, 1)
    directory.unlink()
    away.rename(directory)
    live.update([], ["ad-6"])
    assert live.status()["problem"] is None
    assert live.view().num_removed == 2


def test_an_update_that_cannot_be_applied_is_retried(release, monkeypatch):
    live, follower = live_index.LiveIndex(release), live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])

    def fail(*_):
        raise MemoryError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(live_state.LiveState, "apply", fail)
        follower.refresh()
    assert "could not be applied (injected)" in follower.status()["problem"]
    assert follower.view().num_added == 0
    follower.refresh()
    assert follower.status()["problem"] is None
    assert (follower.view().num_added, follower.view().num_removed) == (1, 1)
    # Updates that were applied before the failure are not applied twice.
    follower.update([], ["ad-6"])
    assert live_index.LiveIndex(release).view().num_removed == 2


def test_requests_do_not_wait_while_an_update_is_written_to_disk(release, monkeypatch):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    syncing, go_on, sync = threading.Event(), threading.Event(), os.fdatasync

    def slow(descriptor):
        syncing.set()
        assert go_on.wait(waiting.GUARD_SECONDS)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    with futures.ThreadPoolExecutor() as threads:
        try:
            updating = threads.submit(live.update, removed=["new-1"])
            assert syncing.wait(waiting.GUARD_SECONDS)
            threads.submit(live.refresh).result(30)
        finally:
            go_on.set()
        assert updating.result().removed == 1
    live.refresh()
    assert live.view().num_added == 0


def test_an_update_succeeds_even_if_the_journal_cannot_be_rewritten(release, monkeypatch):
    monkeypatch.setattr(live_index, "_MAX_DEAD", 0)
    live = live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        for price in (1, 2, 3):
            live.update([{**NEW, "fields": {"price": price}}])
    assert sorted(path.name for path in journal_path(release).parent.iterdir()) == [
        "journal",
        "lock",
    ]
    assert live.view().num_added == 1
    view = live_index.LiveIndex(release).view()
    _, rows = view.search(query(), 400)
    assert {ad.ad_id: ad.fields for ad in view.listed(rows[0])}["new-1"]["price"] == 3


def test_a_journal_with_many_dead_ads_is_rewritten(release, monkeypatch):
    monkeypatch.setattr(live_index, "_MAX_DEAD", 5)
    live, follower = live_index.LiveIndex(release), live_index.LiveIndex(release)
    live.update([{**NEW, "ad_id": "stays"}], ["ad-5"])
    sizes = []
    for number in range(20):
        live.update([{**NEW, "fields": {"price": number}}])
        follower.refresh()
        sizes.append(journal_path(release).stat().st_size)
        for view in (live.view(), follower.view()):
            assert sorted(view.ad_ids(np.arange(300, 300)) + found_ids(view, query(), 400)) == (
                sorted({f"ad-{row}" for row in range(300)} - {"ad-5"} | {"stays", "new-1"})
            )
    # It grows with each update, and is rewritten three times.
    assert sum(after < before for before, after in itertools.pairwise(sizes)) == 3
    reopened = live_index.LiveIndex(release).view()
    _, rows = reopened.search(embedding_of(reopened, "new-1"), 1)
    assert fields_of(reopened, rows[0])[0]["price"] == 19


def test_a_journal_of_removals_is_rewritten_when_it_is_large(release, monkeypatch):
    monkeypatch.setattr(live_index, "_MIN_REWRITTEN_BYTES", 30_000)
    live, follower = live_index.LiveIndex(release), live_index.LiveIndex(release)
    # About 5 kB each.
    gone = [f"gone-{number:03}" for number in range(400)]
    sizes = []
    for number in range(20):
        live.update(removed=[f"ad-{number}", *gone])
        follower.refresh()
        sizes.append(journal_path(release).stat().st_size)
    assert max(sizes) < 30_000
    assert sum(after < before for before, after in itertools.pairwise(sizes)) >= 3
    for index in (live, follower, live_index.LiveIndex(release)):
        assert (index.view().num_removed, index.num_updates) == (20, 20)


def test_a_journal_of_ads_that_stay_is_rewritten_each_time_its_size_has_doubled(
    release, monkeypatch
):
    monkeypatch.setattr(live_index, "_MIN_REWRITTEN_BYTES", 30_000)
    rewritten, tower = [], None
    for number in range(40):
        # Each process reads the size after the last rewrite.
        live = live_index.LiveIndex(release)
        live._tower = tower  # Loading it takes most of the time.
        before = journal_path(release).stat().st_ino if number else None
        live.update([{**NEW, "ad_id": f"new-{number}-{count}"} for count in range(100)])
        tower = live._tower
        if number and journal_path(release).stat().st_ino != before:
            rewritten.append(number)
    assert live.view().num_added == 4000
    # Intervals at least double.
    assert 2 <= len(rewritten) < 8
    for early, late in itertools.pairwise(rewritten):
        assert late + 1 >= 1.8 * (early + 1)


@pytest.mark.process
def test_searches_during_updates_return_valid_results(release):
    live = live_index.LiveIndex(release)
    done = threading.Event()
    problems: list[str] = []
    queries = serving_fixtures.ad_embeddings()
    only_new = checked({"conditions": [{"field": "category", "any_of": ["new"]}]})

    def search(seed):
        rng = np.random.default_rng(seed)
        while not done.is_set():
            view = live.view()
            _, rows = view.search(queries[rng.integers(0, 300, 1)], 400)
            ids = view.ad_ids(rows[0])
            shown = fields_of(view, rows[0])
            if len(ids) != view.num_ads or len(set(ids)) != len(ids):
                problems.append("an ad is missing or found twice")
            if view.features(rows).shape != (1, len(ids), 5):
                problems.append("features")
            if any(ad_id in removed_first for ad_id in ids):
                problems.append("a removed ad was found")
            if any(
                (fields["category"] == "new") != ad_id.startswith("new")
                for ad_id, fields in zip(ids, shown, strict=True)
            ):
                problems.append("fields of another ad")
            _, rows = view.search(queries[:1], 400, view.eligible(only_new))
            if not all(ad_id.startswith("new") for ad_id in view.ad_ids(rows[0])):
                problems.append("an ineligible ad was found")

    removed_first = {f"ad-{row}" for row in range(100)}
    live.update([], sorted(removed_first))
    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        ad_id = f"new-{number % 20}"
        if number % 3 == 2:
            live.update([], [ad_id])
        else:
            live.update([{"ad_id": ad_id, "fields": {"category": "new", "price": number}}])
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    reopened = live_index.LiveIndex(release).view()
    assert sorted(found_ids(reopened, query(), 400)) == sorted(found_ids(live.view(), query(), 400))


def test_a_rebuild_is_suggested_with_the_reason(release, monkeypatch):
    monkeypatch.setattr(live_index, "_MAX_ADDED", 40)
    live = live_index.LiveIndex(release)
    assert live.rebuild_suggested() is None
    live.update([{"ad_id": f"new-{n}"} for n in range(31)])
    assert live.rebuild_suggested().startswith("31 ads were added or changed, 10% of the release")
    live.update([{"ad_id": f"new-{n}"} for n in range(41)])
    assert live.rebuild_suggested().startswith("Each search compares all 41 added ads")
    live.update([], [f"new-{n}" for n in range(41)])
    assert live.rebuild_suggested() is None
    live.update([], [f"ad-{row}" for row in range(61)])
    assert live.rebuild_suggested().startswith("61 ads were removed or changed, 20% of the")


def test_recall_is_measured_over_the_live_ads(release):
    live = live_index.LiveIndex(release)
    live.update([NEW], ["ad-5"])
    # A Flat index is exact.
    assert live.measure_recall() == 1.0
    assert live.status()["recall_at_500"] == 1.0
    assert live.rebuild_suggested() is None


def test_recall_is_measured_if_all_released_ads_were_removed(release):
    live = live_index.LiveIndex(release)
    live.update([NEW], [f"ad-{row}" for row in range(300)])
    assert live.measure_recall() == 1.0
    live.update([], ["new-1"])
    # Recall of an empty result is 1.
    assert live.measure_recall() == 1.0
    assert live.status()["num_ads"] == 0


def test_an_orchestrator_applies_updates_at_the_next_request(release, ranker_address):
    everything = requests.Request(user={"country": "CH"}, k=400)
    only_new = serving_fixtures.changed(everything, filters={"allowed_ads": ["new-1"]})

    async def scenario():
        service = serving_fixtures.make_orchestrator(release, ranker_address)
        try:
            before = await service.recommend(everything)
            live_index.LiveIndex(release).update([NEW], ["ad-5"])
            return before, await service.recommend(everything), await service.recommend(only_new)
        finally:
            await service.close()

    before, after, new = asyncio.run(scenario())
    assert len(before.ads) == 300
    ads = {ad.ad_id: ad for ad in after.ads}
    assert len(ads) == 300
    assert "ad-5" not in ads
    assert ads["new-1"].fields == NEW["fields"]
    assert after.degraded is None
    assert ads["new-1"].utility == pytest.approx(new.ads[0].utility, abs=1e-5)
    assert 0 < ads["new-1"].click_probability < 1


def test_the_state_of_the_updates_is_part_of_the_bundle_route(release, ranker_address):
    live_index.LiveIndex(release).update([NEW], ["ad-5", "ad-6"])
    service = serving_fixtures.make_orchestrator(release, ranker_address)
    with serving_fixtures.serve_app(service) as url, client.Client(url) as connected:
        live = connected.bundle()["live"]
    assert (live["num_ads"], live["added"], live["removed_or_changed"]) == (299, 1, 2)
    assert live["rebuild_suggested"] is live["problem"] is None
    assert live["journal_bytes"] == journal_path(release).stat().st_size
    assert json.dumps(live)


def test_metrics_report_a_damaged_journal(release, ranker_address):
    live = live_index.LiveIndex(release)
    live.update([NEW])
    path = journal_path(release)
    service = serving_fixtures.make_orchestrator(release, ranker_address)

    def observed():
        """Returns the metrics after another request."""
        httpx.post(f"{url}/v1/recommend", json={"k": 2}, timeout=60).raise_for_status()
        page = httpx.get(f"{url}/metrics", timeout=60).text
        values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
        return float(values.get('tfrec_problem{part="live updates"}', 0))

    with serving_fixtures.serve_app(service) as url:
        assert observed() == 0
        live.update([], ["ad-5"])
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.write_bytes(content)
        assert observed() == 1


def test_a_service_without_requests_reports_the_updates_of_others(release, ranker_address):
    service = serving_fixtures.make_orchestrator(release, ranker_address)
    other = live_index.LiveIndex(release)
    with serving_fixtures.serve_app(service) as url:
        other.update([NEW])
        assert 'tfrec_live_updates{version="1"} 1.0' in httpx.get(f"{url}/metrics", timeout=60).text
        other.update([], ["ad-5"])
        live = httpx.get(f"{url}/v1/bundle", timeout=60).json()["live"]
        assert (live["num_updates"], live["added"], live["removed_or_changed"]) == (2, 1, 1)


def test_a_column_of_released_and_added_ads_is_in_row_order(release):
    live = live_index.LiveIndex(release)
    live.update([NEW, {"ad_id": "new-2", "fields": {}}])
    view, rows = live.view(), np.array([301, 5, 300, 2])
    shown = fields_of(view, rows)
    for name in ("advertiser", "tags"):
        column = view.column(rows, name).to_pylist()
        assert [value or None for value in column] == [fields[name] or None for fields in shown]
    assert view.column(rows, "advertiser").to_pylist() == [
        *(None, "advertiser-5", "advertiser-new", "advertiser-2")
    ]


def test_values_to_show_are_kept_for_released_and_added_ads(release):
    live = live_index.LiveIndex(release)
    shown = {"title": "Größe 42", "stock": [1, 2.5]}
    live.update([{**NEW, "show": shown}, {"ad_id": "plain"}])
    # Another process reads the journal. Rows 300 and 301 are the added ads.
    for view in (live.view(), live_index.LiveIndex(release).view()):
        assert [ad.show for ad in view.listed(np.array([11, 300, 10, 301]))] == [
            {"title": "Ad 11", "stock": 11},
            shown,
            {"title": None, "stock": 10},
            {"title": None, "stock": None},
        ]
    # Values to show are not fields, so filters cannot use them.
    assert "__show__" not in release.ad_index._eligibility.kinds
