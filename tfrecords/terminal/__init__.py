"""What a person sees while a job runs: progress bars, spelling suggestions, a quiet start."""

from tfrecords.terminal.progress import (
    print_above_bars,
    progress_bar,
    progress_steps,
    with_progress,
)
from tfrecords.terminal.quiet_start import quiet_tensorflow
from tfrecords.terminal.suggest import suggestion_for

__all__ = [
    "print_above_bars",
    "progress_bar",
    "progress_steps",
    "quiet_tensorflow",
    "suggestion_for",
    "with_progress",
]
