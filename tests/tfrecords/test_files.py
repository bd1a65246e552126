"""Files are replaced whole or not at all, and locks keep other processes out."""

import errno
import multiprocessing
import os
import pathlib

import disks
import numpy as np
import pytest
import waiting

from tfrecords import files


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_nothing_else_stays(tmp_path, durable):
    path = tmp_path / "a.json"
    for value in ([1], [2, "é"]):
        files.write_json(path, value, durable)
    assert path.read_text(encoding="utf-8") == '[\n 2,\n "\\u00e9"\n]\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    files.write(path, "old")
    with pytest.raises(FileExistsError), files.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        temporary.touch(exist_ok=False)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_killed_process_are_overwritten(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "b").touch()
    files.write(tmp_path / "a", b"new")
    with files.replacing(tmp_path / "directory") as temporary:
        temporary.mkdir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "directory"]


def test_a_link_stays_and_leads_to_the_new_file(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    for content in ("old", "new"):
        files.write(link, content)
        assert (link.is_symlink(), (tmp_path / "file").read_text()) == (True, content)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, "x")
    assert (os.read(reader, 2), pipe.is_fifo()) == (b"x", True)
    os.close(reader)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
            files.write(path, "new", durable=True)
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/no/b'"):
        files.write(tmp_path / "no" / "b", "new")
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
        files.write(path, "new")


def test_an_array_in_a_file_has_its_space_on_the_disk_before_it_is_filled(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    array = files.create_array(path, np.float32, (1_000, 256))
    assert path.stat().st_blocks * 512 >= array.nbytes
    array[1] = 2.0
    array.flush()
    np.testing.assert_array_equal(files.read_array(path)[:2], [[0.0] * 256, [2.0] * 256])
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a.npy'"):
        files.create_array(path, np.float32, (1_000, 256))


@pytest.mark.parametrize("array", [np.arange(20_000.0), np.eye(150, dtype=np.float32)[:, 1:].T])
def test_an_array_on_a_full_disk_has_the_error_of_the_disk_and_its_file(tmp_path, array):
    path = tmp_path / "a.npy"
    with disks.full(50_000), pytest.raises(OSError, match=r"a\.npy") as raised:
        files.write_array(path, array)
    assert files.is_disk_full(raised.value)
    files.write_array(path, array)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(array))
    assert path.read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_lock_is_held_although_the_disk_is_full():
    # A device on which every write fails; another run of this test may have locked it.
    path = pathlib.Path("/dev/full")
    with (
        files.locked(path, None),
        path.open("ab", buffering=0) as other,
        pytest.raises(BlockingIOError),
    ):
        files.lock(other, 0.0)


def test_only_a_durable_file_is_flushed_and_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    files.write(tmp_path / "a", "x")
    assert calls == ["replace"]
    files.write(tmp_path / "a", "x", durable=True)
    # The file, then its name in the directory.
    assert calls[1:] == ["fsync", "replace", "fsync"]


def _hold(path, is_held, release):
    with files.locked(path):
        is_held.set()
        release.wait(waiting.GUARD_SECONDS)


@pytest.mark.process
def test_a_lock_is_refused_while_another_process_holds_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    is_held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", is_held, release))
    process.start()
    assert is_held.wait(waiting.GUARD_SECONDS)
    assert files.holder_of(tmp_path / "lock") == str(process.pid)
    with pytest.raises(BlockingIOError), files.locked(tmp_path / "lock", 0.01):
        pass
    release.set()
    with files.locked(tmp_path / "lock", None):
        pass
    process.join()


def test_shared_locks_coexist_and_exclude_an_exclusive_lock(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    # Each open file has its own lock, also in one process.
    with path.open() as first, path.open() as second, path.open() as third:
        files.lock(first, shared=True)
        files.lock(second, shared=True)
        with pytest.raises(BlockingIOError):
            files.lock(third)
