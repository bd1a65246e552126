"""The faults that scripts/benchmarks/chaos.py injects into a running service.

Each is a function of the running system. It injects the fault, lets it last, and removes it; if
the system accepts something that it must refuse in the meantime, it raises `Violation`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import signal
import time
from collections.abc import Callable, Iterator

import httpx
from workload import live_writer, poisson_load, running_service

from serving import errors, live, manifest, releases

_FOLLOW_SECONDS = 90.0
_RESTART_SECONDS = 60.0
# Requests per second, several times what the service can answer.
_OVERLOAD_RATE = 600.0
_NAMES = {"worker": "a worker", "model_server": "the model server"}


class Violation(AssertionError):
    """The system accepted something that it had to refuse, or broke a guarantee."""


@dataclasses.dataclass(frozen=True)
class System:
    """A service under test.

    Attributes:
        url: URL of the service.
        process_id: Process id of the service.
        base: Base directory of the bundles; releases 1 and 2 are published.
        writers: Release version -> writer of its live updates.
        random: Source of all random choices.
        pause_seconds: Duration of faults that last.
        deadline_seconds: Deadline of a request.
    """

    url: str
    process_id: int
    base: pathlib.Path
    writers: dict[int, live_writer.LiveWriter]
    random: random.Random
    pause_seconds: float
    deadline_seconds: float

    def stable(self) -> int:
        """Returns the version that is stable on disk."""
        return releases.current_pointer(self.base).stable

    def process(self, kind: str) -> int:
        """Returns the process id of a `worker` or of the `model_server`, once there is one."""
        end = time.monotonic() + _RESTART_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):  # A process that ends is no longer there.
                family = running_service.family(self.process_id)
                found = [family[name] for name in sorted(family) if name.startswith(kind)]
                if found:
                    return self.random.choice(found)
            time.sleep(0.2)
        raise Violation(f"No {kind} runs after {_RESTART_SECONDS:g} s.")

    def journal(self) -> pathlib.Path:
        """Returns the journal of the stable release."""
        return self.base / "live" / str(self.stable()) / "journal"


def _kill(kind: str, system: System) -> str:
    """kill -9 of a worker process or of the embedded model server."""
    os.kill(system.process(kind), signal.SIGKILL)
    time.sleep(system.pause_seconds)
    return _NAMES[kind]


def _stop(kind: str, system: System) -> str:
    """A worker or a model server that hangs."""
    process_id = system.process(kind)
    os.kill(process_id, signal.SIGSTOP)
    try:
        time.sleep(system.pause_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGCONT)
    return _NAMES[kind]


def kill_writer(system: System) -> str:
    """kill -9 of the process that writes live updates, in the middle of one."""
    seconds = system.random.uniform(0, 0.2)
    system.writers[system.stable()].kill_during_write(seconds)
    return f"{seconds * 1000:.0f} ms into an update"


def full_disk(system: System) -> str:
    """A live update for which there is no space."""
    writer = system.writers[system.stable()]
    journal = system.journal()
    size = journal.stat().st_size if journal.exists() else 0
    room = system.random.randrange(300)
    with writer.file_size_limit(size + room):
        if writer.write() is None:
            raise Violation(f"An update of more than {room} bytes was confirmed on a full disk.")
    return f"room for {room} bytes"


def bit_rot_in_journal(system: System) -> str:
    """A flipped bit in acknowledged updates: nothing may be cut, and nothing appended."""
    journal = system.journal()
    writer = system.writers[system.stable()]
    if not journal.exists():
        writer.write()
    _wait_for_updates(system)
    size = journal.stat().st_size
    offset = system.random.randrange(size)
    with _flipped_bit(journal, offset, system.random):
        # A writer that starts reads all of the journal; the service keeps the view that it has.
        writer.kill()
        writer.write()
        writer.kill()
        time.sleep(system.pause_seconds)
        if journal.stat().st_size < size:
            raise Violation(f"The journal was cut from {size} to {journal.stat().st_size} bytes.")
    return f"byte {offset:,} of {size:,}"


def bit_rot_in_release(system: System) -> str:
    """A flipped bit in a release: it may not become stable."""
    version = 3 - system.stable()
    listed = manifest.read(system.base, version).files
    name = system.random.choice(sorted(name for name, file in listed.items() if file["bytes"]))
    path = system.base / name
    with _flipped_bit(path, system.random.randrange(path.stat().st_size), system.random):
        try:
            releases.promote(system.base, version)
        except errors.BundleError:
            return name
    raise Violation(f"Release {version} was promoted with a damaged {name}.")


def promote(system: System) -> str:
    """Another release becomes stable."""
    version = 3 - system.stable()
    releases.promote(system.base, version)
    _wait_for_stable(system, version)
    return f"release {version}"


def canary(system: System) -> str:
    """Half of the requests go to another release for a while."""
    releases.start_canary(system.base, 3 - system.stable(), 0.5)
    time.sleep(2 * system.pause_seconds)
    releases.end_canary(system.base)
    return "half of the requests"


def roll_back(system: System) -> str:
    """The previous release becomes stable again."""
    releases.promote(system.base, 3 - system.stable())
    change = releases.roll_back(system.base)
    _wait_for_stable(system, change.after.stable)
    return f"to release {change.after.stable}"


def overload(system: System) -> str:
    """More requests than the service can answer."""
    body = json.dumps({"k": 10}).encode()
    deadline = ("x-deadline-ms", f"{system.deadline_seconds * 1000:.0f}")
    target = poisson_load.Target(system.url, [body], (deadline,))
    seed = system.random.randrange(2**31)
    found = poisson_load.poisson(target, _OVERLOAD_RATE, 2 * system.pause_seconds, seed)
    late = sum(ms > system.deadline_seconds * 1000 for ms in found["milliseconds"])
    return (
        f"{found['sent']} requests: {len(found['milliseconds'])} answered, {late} of them late, "
        f"{found['refused']} refused, {found['failed']} failed"
    )


FAULTS: dict[str, Callable[[System], str]] = {
    "kill_worker": functools.partial(_kill, "worker"),
    "kill_model_server": functools.partial(_kill, "model_server"),
    "stop_worker": functools.partial(_stop, "worker"),
    "stop_model_server": functools.partial(_stop, "model_server"),
    "kill_writer": kill_writer,
    "full_disk": full_disk,
    "bit_rot_in_journal": bit_rot_in_journal,
    "bit_rot_in_release": bit_rot_in_release,
    "promote": promote,
    "canary": canary,
    "roll_back": roll_back,
    "overload": overload,
}


@contextlib.contextmanager
def _flipped_bit(path: pathlib.Path, offset: int, chance: random.Random) -> Iterator[None]:
    """Flips a bit of a file, and flips it back unless the file was replaced."""
    mask = 1 << chance.randrange(8)

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ mask]))

    flip()
    inode = path.stat().st_ino
    try:
        yield
    finally:
        if path.stat().st_ino == inode:
            flip()


def _wait_for_updates(system: System) -> None:
    """Waits until all processes have read the journal: damage to what they have not is a loss."""
    version = system.stable()
    expected = live.LiveIndex(releases.load(system.base, version)).num_updates
    name = f'tfrec_live_updates{{version="{version}"}} '
    end = time.monotonic() + _FOLLOW_SECONDS
    while time.monotonic() < end:
        # A new connection, which any of the processes may answer.
        for line in httpx.get(f"{system.url}/metrics", timeout=10).text.splitlines():
            if line.startswith(name) and float(line.removeprefix(name)) >= expected:
                return
        time.sleep(0.05)
    raise Violation(f"Some process has not read {expected} updates in {_FOLLOW_SECONDS:g} s.")


def _wait_for_stable(system: System, version: int) -> None:
    """Waits until the service has switched to a release."""
    end = time.monotonic() + _FOLLOW_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            bundle = httpx.get(f"{system.url}/v1/bundle", timeout=10).json()
            if bundle["version"] == version:
                return
        time.sleep(0.2)
    raise Violation(f"Release {version} was not served {_FOLLOW_SECONDS:g} s after its promotion.")
