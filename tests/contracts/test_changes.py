"""Promotion, rollback, canaries, lists and prunes, including killed ones."""

import errno
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import threading
import time

import killed
import pytest
import serving_fixtures
from killed import publish_copy

from serving import errors, manifest, releases
from serving.releases import bundle, changes, in_use, publishing
from serving.releases import pointer as release_pointer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A base directory with the releases 1, 2 and 3. Read only."""
    base = tmp_path_factory.mktemp("three") / "bundles"
    return serving_fixtures.publish_trainings(base, 3, num_ads=30)


@pytest.fixture
def base(three, tmp_path):
    return shutil.copytree(three, tmp_path / "bundles")


def document(**changes):
    """The text of a releases.json with the given values changed."""
    right = {"format_version": 1, "stable": 1, "canary": None, "previous": []}
    return json.dumps({**right, **changes})


def state(base):
    """Checks that every release is complete; returns the versions, the stable one, the canary."""
    for version in manifest.versions(base):
        bundle.verify(base, version)
    pointer = releases.current_pointer(base)
    return manifest.versions(base), pointer.stable, pointer.canary


def test_without_a_pointer_the_latest_is_stable_and_a_promotion_pins_it(base, three):
    assert releases.current_pointer(base) == release_pointer.Pointer(3, previous=(2, 1))
    change = releases.promote(base, 3)
    assert change.before == change.after
    assert publish_copy(base, three) == 4
    assert (bundle.stable(base), bundle.latest(base)) == (3, 4)
    assert bundle.load(base).version == 3
    assert bundle.load(base, 4).version == 4


def test_a_release_that_is_published_meanwhile_is_not_one_that_was_stable_before(base, monkeypatch):
    # Release 3 is published after the latest one was looked up.
    monkeypatch.setattr(bundle, "latest", lambda base: 2)
    assert releases.current_pointer(base) == release_pointer.Pointer(2, previous=(1,))


def test_a_promotion_that_cannot_be_written_says_so_and_changes_nothing(base, monkeypatch):
    releases.promote(base, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    message = r"releases.json cannot be written durably \(.*No space left on device"
    with pytest.raises(errors.PublishError, match=message):
        releases.promote(base, 2)
    assert bundle.stable(base) == 1


def test_rollbacks_skip_pruned_releases(base):
    releases.promote(base, 1)
    releases.promote(base, 3)
    assert releases.promote(base, 2).after.previous == (3, 1)
    assert releases.roll_back(base).after == release_pointer.Pointer(3, previous=(1,))
    releases.promote(base, 2)
    manifest.path_of(base, 3).unlink()
    assert releases.roll_back(base).after.stable == 1
    with pytest.raises(
        errors.BundleNotFoundError, match=r"was stable before 1.* releases: 1, 2\. Promote one"
    ):
        releases.roll_back(base)


def test_a_rollback_without_a_pointer_goes_to_the_release_before_the_latest(base):
    assert releases.roll_back(base).after == release_pointer.Pointer(2, previous=(1,))


def test_a_canary_is_promoted_ended_or_rolled_back(base):
    releases.promote(base, 2)
    assert releases.start_canary(base, 3, 0.2).after.share == 0.2
    pointer = release_pointer.read_pointer(base)
    assert (pointer.stable, pointer.canary, pointer.share) == (2, 3, 0.2)
    promoted = releases.promote(base, 3).after
    assert (promoted.stable, promoted.canary, promoted.share) == (3, None, 0.0)
    releases.start_canary(base, 2, 1.0)
    assert releases.end_canary(base).after.canary is None
    releases.start_canary(base, 1, 0.5)
    rolled_back = releases.roll_back(base).after
    assert (rolled_back.stable, rolled_back.canary) == (2, None)


def test_a_release_that_cannot_be_served_is_not_promoted(base):
    missing = r"no published bundle of version 9: .* is missing\. Published versions: 1, 2, 3\."
    with pytest.raises(errors.BundleNotFoundError, match=missing):
        releases.promote(base, 9)
    path = base / "ranker/2/saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1])
    for step in (releases.promote, lambda *args: releases.start_canary(*args, share=0.1)):
        with pytest.raises(errors.BundleError, match=r"ranker/2/saved_model\.pb has"):
            step(base, 2)
    assert not (base / release_pointer.POINTER_FILE).exists()
    with pytest.raises(errors.PublishError, match=r"Release 3 is already stable"):
        releases.start_canary(base, 3, 0.1)
    with pytest.raises(ValueError, match=r"share: expected a number from 0 to 1, got 1\.5"):
        releases.start_canary(base, 2, 1.5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "{}"),
        document(format_version=2),
        document(stable="1"),
        document(canary={"version": 1, "share": 0.1}),
        document(canary={"version": 2, "share": 7}),
        document(previous=["1"]),
    ],
)
def test_a_damaged_pointer_is_refused_and_a_promotion_repairs_it(base, text):
    (base / "releases.json").write_text(text)
    with pytest.raises(errors.ReleasesFileError, match=r"releases\.json is invalid .*promote"):
        bundle.load(base)
    change = releases.promote(base, 2)
    assert (change.before, change.after) == (None, release_pointer.Pointer(2))
    assert bundle.stable(base) == 2


def test_prune_keeps_the_newest_the_stable_the_canary_and_releases_in_use(base, three):
    for version in (4, 5, 6):
        assert publish_copy(base, three) == version
    releases.promote(base, 2)
    releases.start_canary(base, 3, 0.1)
    (base / "live/1").mkdir(parents=True)
    loaded = bundle.load(base, 4)
    assert releases.prune(base, keep=1) == changes.PrunedReleases((1, 5), (4,))
    assert manifest.versions(base) == [2, 3, 4, 6]
    assert not (base / "live/1").exists()
    for part in manifest.PARTS:
        names = {path.name for path in (base / part).iterdir()}
        assert names == {"2", "3", "4", "6"}
    loaded.close()
    assert releases.prune(base, keep=1).removed == (4,)
    with pytest.raises(ValueError, match="keep: expected at least 1 release, got 0"):
        releases.prune(base, keep=0)
    # Versions are not reused.
    assert publish_copy(base, three) == 7


def test_a_release_whose_parts_are_links_is_pruned_and_what_they_lead_to_stays(base, tmp_path):
    for part in manifest.PARTS:
        (base / part / "1").rename(tmp_path / part)
        (base / part / "1").symlink_to(tmp_path / part)
    assert releases.prune(base, keep=1).removed == (1,)
    for part in manifest.PARTS:
        assert {path.name for path in (base / part).iterdir()} == {"2", "3"}
        assert any((tmp_path / part).iterdir())


def test_a_leftover_that_cannot_be_removed_is_logged_and_does_not_stop_the_rest(
    base, three, monkeypatch, caplog
):
    manifest.path_of(base, 3).unlink()
    stuck, remove = base / "ranker" / "3", shutil.rmtree

    def busy(path, *arguments, **options):
        if path == stuck:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", busy)
    assert publish_copy(base, three) == 4
    assert releases.prune(base, keep=1).removed == (1,)
    assert stuck.exists()
    assert f"{stuck} is left over, and cannot be removed ([Errno 16]" in caplog.text


def test_a_named_release_whose_manifest_is_missing_is_not_a_leftover(base, three, tmp_path):
    releases.promote(base, 1)
    releases.start_canary(base, 2, 0.1)
    (base / "live/1").mkdir(parents=True)
    for version in (1, 2, 3):
        manifest.path_of(base, version).rename(tmp_path / str(version))
    assert publish_copy(base, three) == 4
    assert releases.prune(base, keep=1).removed == ()
    for part in manifest.PARTS:
        assert {path.name for path in (base / part).iterdir()} == {"1", "2", "4"}
    assert (base / "live/1").exists()
    for version in (1, 2):
        (tmp_path / str(version)).rename(manifest.path_of(base, version))
    assert state(base) == ([1, 2, 4], 1, 2)


def hold(base, pipe):
    _held = in_use.hold(base, 1)
    pipe.send("held")
    pipe.recv()


def test_a_rollback_does_not_make_the_canary_stable(base):
    # The latest of the three was stable before.
    releases.promote(base, 1)
    releases.start_canary(base, 3, 0.5)
    with pytest.raises(errors.PublishError, match=r"before 1 is 3, which is the canary.*end_can"):
        releases.roll_back(base)
    assert releases.end_canary(base).after.stable == 1
    assert releases.roll_back(base).after.stable == 3


def test_prune_keeps_the_release_that_a_rollback_goes_to(base, three):
    for version in (4, 5):
        assert publish_copy(base, three) == version
    releases.promote(base, 1)
    releases.promote(base, 5)
    # The one before 5 was 1; 4 was stable only as the latest.
    assert releases.prune(base, keep=1).removed == (2, 3, 4)
    assert releases.roll_back(base).after.stable == 1
    # If that release is gone, a rollback goes to the one before it.
    releases.promote(base, 5)
    assert publish_copy(base, three) == 6
    releases.promote(base, 6)
    manifest.path_of(base, 5).unlink()
    assert releases.prune(base, keep=1).removed == ()
    assert releases.roll_back(base).after.stable == 1


@pytest.mark.process
def test_a_release_is_in_use_until_its_process_ends_even_if_killed(base):
    ours, theirs = multiprocessing.Pipe()
    with killed.running(hold, base, theirs):
        assert ours.poll(60)
        assert in_use.is_in_use(base, 1)
        assert releases.prune(base, keep=2).in_use == (1,)
    assert not in_use.is_in_use(base, 1)
    assert releases.prune(base, keep=2).removed == (1,)
    with pytest.raises(errors.BundleNotFoundError, match=r"manifests/1\.json is missing"):
        in_use.hold(base, 1)


def test_the_list_describes_each_release(base):
    releases.promote(base, 2)
    releases.start_canary(base, 3, 0.2)
    manifest.path_of(base, 1).write_text("{}")
    newest, stable, damaged = releases.list_releases(base)
    assert (newest["version"], newest["role"], newest["share"]) == (3, "canary", 0.2)
    assert (stable["version"], stable["role"], stable["num_ads"]) == (2, "stable", 30)
    assert stable["bytes"] == sum(
        path.stat().st_size
        for part in manifest.PARTS
        for path in (base / part / "2").rglob("*")
        if path.is_file()
    )
    assert "manifests/1.json is corrupt" in damaged["problem"]
    assert json.loads(json.dumps(releases.list_releases(base)))[2]["version"] == 1


def test_the_list_names_releases_that_are_missing(base):
    text = document(stable=9, canary={"version": 8, "share": 0.5})
    (base / "releases.json").write_text(text)
    rows = releases.list_releases(base)
    assert [(row["version"], row["role"]) for row in rows] == [
        *((9, "stable"), (8, "canary")),
        *((3, None), (2, None), (1, None)),
    ]
    assert [row["problem"] for row in rows[:3]] == [
        *("manifests/9.json is missing", "manifests/8.json is missing", None)
    ]
    assert [row["in_use"] for row in rows] == [None, None, False, False, False]


def test_a_release_that_is_pruned_during_a_list_is_left_out(base, monkeypatch):
    releases.promote(base, 3)
    monkeypatch.setattr(manifest, "versions", lambda base: [1, 2, 3, 4])
    assert [row["version"] for row in releases.list_releases(base)] == [3, 2, 1]


def test_whether_a_release_is_in_use_is_unknown_if_its_manifest_was_lost(base):
    releases.promote(base, 2)
    held = in_use.hold(base, 2)
    manifest.path_of(base, 2).unlink()
    in_use_by_version = {row["version"]: row["in_use"] for row in releases.list_releases(base)}
    assert in_use_by_version == {3: False, 2: None, 1: False}
    held.close()


@pytest.mark.process
def test_a_promotion_killed_anywhere_is_complete_or_has_no_effect(base):
    releases.promote(base, 1)
    second = release_pointer.Pointer(2, previous=(1,))
    seen = []
    for number in range(20):
        status = killed.status_of(release_pointer.write_pointer, base, second, at=number)
        seen.append(state(base)[1])
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert releases.promote(base, 1).after.stable == 1
    assert status == 0
    # Killed before the file is replaced, and when the directory is synced.
    assert set(seen) == {1, 2}


@pytest.mark.process
def test_a_publish_killed_anywhere_is_complete_or_has_no_effect(base, three):
    published = manifest.versions(base)
    for number in range(0, 200, 7):
        status = killed.status_of(publish_copy, base, three, at=number)
        versions, stable, _ = state(base)
        assert versions[:3] == published
        assert stable == versions[-1]
        if status == 0:
            break
        assert status == -signal.SIGKILL
        before = set((base / "ranker").iterdir())
        # A version that a model server may have loaded is not reused.
        numbers = {int(path.name) for path in before if path.name.isdecimal()}
        assert publish_copy(base, three) > max(numbers)
        names = {path.name for path in (base / "ranker").iterdir()}
        assert names == {str(version) for version in manifest.versions(base)}
        assert not list((base / "manifests").glob(".*"))
    assert status == 0
    assert number > 20


def test_a_publish_that_fails_anywhere_leaves_no_half_release(base, three, monkeypatch):
    left = [0]

    def counted(operation):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return operation(*args, **kwargs)

        return call

    for module, name in killed.OPERATIONS:
        if module is os:
            monkeypatch.setattr(module, name, counted(getattr(module, name)))
    left[0] = 1000
    version = publish_copy(base, three)
    num_operations = 1000 - left[0]
    assert num_operations > 40
    # The last ones rename the parts and the manifest.
    for number in [*range(0, num_operations - 20, 7), *range(num_operations - 20, num_operations)]:
        left[0] = number
        with pytest.raises(errors.PublishError, match="No space left on device"):
            publish_copy(base, three)
        left[0] = 1000
        for published in manifest.versions(base):
            bundle.verify(base, published)
    # Versions that a model server may have seen are not used again, and leftovers are removed.
    assert publish_copy(base, three) > version + 1
    published = {str(version) for version in manifest.versions(base)}
    assert {path.name for path in (base / "ranker").iterdir()} == published


@pytest.mark.process
def test_a_prune_killed_anywhere_leaves_complete_releases(base):
    releases.promote(base, 3)
    for number in range(0, 100, 2):
        copy = base.with_name(f"copy-{number}")
        shutil.copytree(base, copy)
        status = killed.status_of(releases.prune, copy, 1, at=number)
        versions, stable, _ = state(copy)
        assert stable == 3
        assert versions in ([1, 2, 3], [2, 3])
        releases.prune(copy, keep=1)
        for part in manifest.PARTS:
            assert sorted(path.name for path in (copy / part).iterdir()) == ["2", "3"]
        shutil.rmtree(copy)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert status == 0
    assert number > 10


def test_a_second_publisher_waits_or_is_refused(base, three):
    entered, go_on = threading.Event(), threading.Event()

    def write(staged):
        entered.set()
        assert go_on.wait(60)
        return killed.copy_parts(three, staged)

    first = threading.Thread(target=publishing.publish, args=(base, write))
    first.start()
    assert entered.wait(60)
    with pytest.raises(errors.PublishError, match=r"Another publish into .* --wait_seconds"):
        publish_copy(base, three)
    with pytest.raises(errors.PublishError, match="Another publish"):
        releases.prune(base, keep=1)
    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    with publishing.exclusive(base, wait_seconds=60):
        assert manifest.versions(base) == [1, 2, 3, 4]
    first.join()


def publish_on_a_full_disk(base, source):
    # Files may not grow beyond this, as if the disk were full.
    limit = 4_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    match = r"File too large.*Earlier releases are unchanged.*--action=prune"
    with pytest.raises(errors.PublishError, match=match):
        publish_copy(base, source)


@pytest.mark.process
def test_a_full_disk_publishes_nothing_and_keeps_old_releases(base, three):
    before = sorted(path.relative_to(base) for path in base.rglob("*"))
    assert killed.status_of(publish_on_a_full_disk, base, three) == 0
    assert state(base) == ([1, 2, 3], 3, None)
    after = {path.relative_to(base) for path in base.rglob("*")} - set(before)
    assert after == {pathlib.Path(".publish.lock")} - set(before)
    assert publish_copy(base, three) == 4


def test_changes_do_not_depend_on_the_clock(base, three, monkeypatch):
    releases.promote(base, 1)
    for path in (base / "manifests/3.json", base / "releases.json"):
        os.utime(path, (4e9, 4e9))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert publish_copy(base, three) == 4
    assert releases.promote(base, 4).after.previous == (1, 3, 2)
    os.utime(base / "releases.json", (1, 1))
    assert releases.roll_back(base).after.stable == 1
    assert bundle.stable(base) == 1
