"""The flag of commands that can train on several workers or devices."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from serving import export

flags.DEFINE_enum(
    "distribution",
    "none",
    ["none", "mirrored", "multi_worker"],
    "Devices that train: none: this process; mirrored: all devices of this machine; multi_worker: "
    "the workers in the environment variable TF_CONFIG; each runs this command on the same work "
    "directory.",
)


@contextlib.contextmanager
def pipeline(workdir: pathlib.Path, progress: bool) -> Iterator[export.Pipeline]:
    """Joins the workers, and yields the steps of a work directory.

    Args:
        workdir: Work directory of all steps.
        progress: Whether to show progress bars and lines; worker 0 alone does.

    Raises:
        OSError, ValueError: See `training.joined`.
    """
    from tfrec import training

    with training.joined(flags.FLAGS.distribution) as strategy:
        from serving import export

        yield export.Pipeline(workdir, progress and training.is_chief(strategy), strategy)
