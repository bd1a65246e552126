"""Cuts a streamed log into whole requests and gives each request its split.

Shapes: R requests of a block.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tqdm

from tfrecords.formats import lines

SPLITS = ("train", "validation", "test")


class Splitter:
    """Streams blocks of whole requests, split by the line on which a request begins.

    Args:
        blocks: Opens the log anew, from its first line.
        request_key: Column whose equal neighbours form one request; None: a row is a request.
        num_lines: Lines of the log.
        validation_fraction: Share before the test part.
        test_fraction: Share at the end.
        progress: Whether to show progress bars.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterator[lines.Block]],
        request_key: str | None,
        num_lines: int,
        validation_fraction: float,
        test_fraction: float,
        progress: bool,
    ) -> None:
        self._blocks = blocks
        self._request_key = request_key
        self.num_lines = num_lines
        self._progress = progress
        shares = (1 - validation_fraction - test_fraction, 1 - test_fraction)
        self._boundaries = np.array([int(num_lines * share) for share in shares])

    @property
    def num_train_lines(self) -> int:
        """Lines before the validation part."""
        return int(self._boundaries[0])

    def read(self, task: str) -> Iterator[tuple[lines.Block, np.ndarray, np.ndarray]]:
        """Streams the log.

        Args:
            task: Title of the progress bar.

        Yields:
            A block of whole requests, its list lengths [R], and the index in `SPLITS` of each
            request [R].
        """
        with tqdm.tqdm(
            total=self.num_lines, desc=task, unit=" lines", unit_scale=True,
            disable=not self._progress, mininterval=0.5, leave=False,
        ) as bar:  # fmt: skip
            for block in whole_requests(self._blocks(), self._request_key):
                starts = request_starts(block.table, self._request_key)
                lengths = np.diff(np.append(starts, block.table.num_rows))
                first_lines = block.table[lines.LINE_NUMBER].to_numpy()[starts]
                splits = np.searchsorted(self._boundaries, first_lines - 1, side="right")
                yield block, lengths, splits
                bar.update(block.table.num_rows + len(block.rejected))


def request_starts(table: pa.Table, request_key: str | None) -> np.ndarray:
    """Returns the rows that open a request: neighbours with an equal key are one request."""
    if request_key is None or table.num_rows == 0:
        return np.arange(table.num_rows)
    keys = table[request_key].combine_chunks()
    changed = pc.fill_null(pc.not_equal(keys[1:], keys[:-1]), True).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.append(True, changed))


def whole_requests(blocks: Iterator[lines.Block], request_key: str | None) -> Iterator[lines.Block]:
    """Regroups blocks so that none ends inside a request."""
    rest: pa.Table | None = None
    for block in blocks:
        table = block.table if rest is None else pa.concat_tables([rest, block.table])
        starts = request_starts(table, request_key)
        end = int(starts[-1]) if request_key is not None and len(starts) else table.num_rows
        rest = table.slice(end)
        yield lines.Block(table.slice(0, end), block.rejected)
    if rest is not None and rest.num_rows:
        yield lines.Block(rest, ())
