"""The steps of a work directory: which are finished, with which inputs, and what they print."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from serving.index import IndexConfig
from tfrec.config import EvaluationConfig
from tfrecords import files

# The file that each step writes last; without it the step is not finished.
PRODUCTS = {
    "synthetic": "log.tsv",
    "data": "dataset.json",
    "ranker": "ranker.json",
    "retrieval": "retrieval.json",
    "evaluation": "metrics.json",
    "bundle": "manifests/*.json",
}
_NUMBERS = {step: f"[{number}/{len(PRODUCTS)}]" for number, step in enumerate(PRODUCTS, 1)}
_INDENT = " " * 6
# The directories that this thread has locked, and may lock again.
_held = threading.local()
_Config = TypeVar("_Config", EvaluationConfig, IndexConfig)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The record of the steps of a work directory, in WORKDIR/steps/NAME.json.

    Attributes:
        workdir: The work directory.
        progress: Whether to print lines.
    """

    workdir: pathlib.Path
    progress: bool

    def path(self, step: str) -> pathlib.Path:
        """Returns the output directory of a step."""
        return self.workdir / step

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Locks the work directory for several steps; see `locked`."""
        return locked(self.workdir)

    def once(
        self,
        step: str,
        title: str,
        inputs: dict[str, Any],
        work: Callable[[], dict[str, Any] | None],
        keep: bool = False,
    ) -> bool:
        """Runs a step unless it is finished with the same inputs; returns whether it ran."""
        inputs, is_unchanged = _as_json(inputs), self.has_inputs(step, inputs)
        note = self.note(step)
        product = PRODUCTS[step].replace("*", str(note.get("version")))
        if is_unchanged and note.get("finished") and (self.path(step) / product).is_file():
            self.print_step(step, f"{title}: finished before, unchanged")
            return False
        with self.locked():
            self.print_step(step, title)
            if not is_unchanged and not keep:
                shutil.rmtree(self.path(step), ignore_errors=True)
            self.write_note(step, {"inputs": inputs, "finished": False})
            started = time.perf_counter()
            result = work() or {}
            seconds = time.perf_counter() - started
            self.write_note(
                step, {"inputs": inputs, "finished": True, "seconds": seconds, **result}
            )
        self.print(f"{_INDENT}{seconds:.1f} s")
        return True

    def note(self, step: str) -> dict[str, Any]:
        """Returns what is recorded of the last run of a step; empty before the first."""
        path = self._note_path(step)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(
                f"{path} cannot be read ({error}). Delete it, and run again."
            ) from error

    def write_note(self, step: str, note: dict[str, Any]) -> None:
        """Records the last run of a step."""
        path = self._note_path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, note, default=str)

    def forget(self, step: str) -> None:
        """Deletes the record of a step; its output stays."""
        self._note_path(step).unlink(missing_ok=True)

    def inputs(self, step: str) -> dict[str, Any]:
        """Returns the inputs of the last run of a step; empty before the first."""
        return self.note(step).get("inputs", {})

    def has_inputs(self, step: str, inputs: dict[str, Any]) -> bool:
        """Returns whether the last run of a step had these inputs."""
        return self.note(step).get("inputs") == _as_json(inputs)

    def config(self, step: str, name: str, kind: type[_Config]) -> _Config:
        """Returns a configuration of the last run of a step; defaults before the first."""
        path = self._note_path(step)
        try:
            return kind(**(self.inputs(step).get(name) or {}))
        except TypeError as error:
            raise ValueError(
                f"{path}: expected the options of {kind.__name__} in this version of tfrec "
                f"({error}). Delete it, and run again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def training_checksum(self, step: str) -> str | None:
        """Returns a checksum of the file that a training writes last, or None before that."""
        path = self.path(step) / PRODUCTS[step]
        return files.sha256(path)[:16] if path.is_file() else None

    def print(self, line: str) -> None:
        """Prints a line as it is."""
        if self.progress:
            print(line, flush=True)

    def print_step(self, step: str, text: str) -> None:
        """Prints the number of a step and a text."""
        self.print(f"{_NUMBERS[step]} {text}")

    def print_wrapped(self, text: str) -> None:
        """Prints a text, wrapped and indented below the line of its step."""
        self.print(textwrap.fill(text, 100, initial_indent=_INDENT, subsequent_indent=_INDENT))

    def _note_path(self, step: str) -> pathlib.Path:
        return self.workdir / "steps" / f"{step}.json"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a work directory for the steps in the block.

    The operating system releases the lock when the process ends, even if it is killed.
    """
    held: set[pathlib.Path] = _held.__dict__.setdefault("directories", set())
    directory = workdir.resolve()
    if directory in held:
        yield
        return
    path = workdir / "steps" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)

    def refusal() -> BlockingIOError:
        return BlockingIOError(
            f"Process {files.holder_of(path)} is working in {workdir}. Wait until it ends, or "
            "choose another work directory."
        )

    with files.locked(path, refusal=refusal):
        held.add(directory)
        try:
            yield
        finally:
            held.discard(directory)


def _as_json(inputs: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(inputs, default=str))
