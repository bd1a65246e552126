"""One process at a time runs steps in a work directory."""

import os
import signal
import subprocess
import sys
import threading

import children
import pytest
from repository import ROOT

from serving import export
from serving.export import work_directory

HOLDS = """
import pathlib, sys
from serving.export import work_directory
with work_directory.locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


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


def test_a_step_is_refused_while_steps_run_elsewhere_and_the_holder_is_named(tmp_path):
    steps = export.Pipeline(tmp_path / "work", progress=False)
    with steps.locked():
        refused = refusal_of(lambda: steps.synthesize(100))
        assert refused == (
            f"Process {os.getpid()} is working in {tmp_path / 'work'}. Wait until it ends, or "
            "choose another work directory."
        )
        assert not (tmp_path / "work" / "synthetic").exists()
        # Its own steps run, and do not give up the lock.
        steps.synthesize(100)
        assert refusal_of(lambda: steps.synthesize(200)) == refused
    assert refusal_of(lambda: steps.synthesize(200)) is None


@pytest.mark.process
def test_a_killed_process_leaves_no_lock(tmp_path):
    with children.started(
        [sys.executable, "-c", HOLDS, str(tmp_path)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "locked\n"
        named = pytest.raises(BlockingIOError, match=f"^Process {process.pid} is working in ")
        with named, work_directory.locked(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with work_directory.locked(tmp_path):
            pass
