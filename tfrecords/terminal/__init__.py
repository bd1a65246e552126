"""Terminal output: progress bars, text tables, spelling suggestions, a quiet start."""

from tfrecords.terminal.progress import (
    in_threads,
    map_with_progress,
    print_above_bars,
    progress_bar,
    progress_steps,
    with_progress,
)
from tfrecords.terminal.quiet_start import quiet_tensorflow
from tfrecords.terminal.text import cut_text, format_count, format_list, suggestion_for, text_table

__all__ = [
    "cut_text",
    "format_count",
    "format_list",
    "in_threads",
    "map_with_progress",
    "print_above_bars",
    "progress_bar",
    "progress_steps",
    "quiet_tensorflow",
    "suggestion_for",
    "text_table",
    "with_progress",
]
