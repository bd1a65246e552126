"""One process at a time runs steps in a work directory."""

import multiprocessing
import os
import threading

import killed
import pytest

from serving import export
from serving.export import steps


def hold(directory, pipe):
    with steps.locked(directory):
        pipe.send("held")
        pipe.recv()


def refusal_of(work):
    """Returns the message with which a thread is refused, or None."""
    messages = []

    def run():
        try:
            work()
        except BlockingIOError as error:
            messages.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return messages[0] if messages else None


def test_a_step_is_refused_while_another_thread_runs_steps_and_the_holder_is_named(tmp_path):
    steps = export.Pipeline(tmp_path / "work", progress=False)
    with steps.locked():
        refused = refusal_of(lambda: steps.synthesize(100))
        assert refused == (
            f"Process {os.getpid()} is working in {tmp_path / 'work'}. Wait until it ends, or "
            "choose another work directory."
        )
        assert not (tmp_path / "work" / "synthetic").exists()
        # Steps in the thread with the lock run, and keep the lock.
        steps.synthesize(100)
        assert refusal_of(lambda: steps.synthesize(200)) == refused
    assert refusal_of(lambda: steps.synthesize(200)) is None


@pytest.mark.process
def test_a_killed_process_leaves_no_lock(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    with killed.running(hold, tmp_path, theirs) as process_id:
        assert ours.poll(60)
        named = pytest.raises(BlockingIOError, match=f"^Process {process_id} is working in ")
        with named, steps.locked(tmp_path):
            pass
    with steps.locked(tmp_path):
        pass
