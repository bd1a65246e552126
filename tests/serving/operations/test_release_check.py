"""Checks of a release without a server."""

import dataclasses
import pathlib
import shutil

import pytest

from serving import errors, live, operations


@pytest.fixture
def release(tiny_base, tiny_bundle, tmp_path):
    base = pathlib.Path(shutil.copytree(tiny_base, tmp_path / "bundles"))
    return dataclasses.replace(tiny_bundle, base=base)


def test_live_updates_are_counted_and_a_check_writes_nothing(release):
    assert operations.check_updates(release) == "none"
    assert not (release.base / "live").exists()
    live.LiveIndex(release).update([], ["ad-5", "ad-7"])
    assert operations.check_updates(release) == (
        "1 update is undamaged: 0 ads added or changed, 2 of the release removed or changed"
    )


def test_damage_that_a_running_service_does_not_see_is_found(release):
    running = live.LiveIndex(release)
    running.update([], ["ad-5"])
    running.update([], ["ad-7"])
    path = release.base / "live/1/journal"
    content = bytearray(path.read_bytes())
    # In the first update, which the service has read.
    content[8300:8302] = b"XX"
    path.write_bytes(content)
    running.refresh()
    assert running.problem is None
    with pytest.raises(errors.LiveIndexError, match="is damaged at byte"):
        operations.check_updates(release)
