"""Logs sampled from a world, with their ground truth.

    config = dataclasses.replace(synthetic.WORLDS["shop"], seed=7)
    log = synthetic.write_log("work/shop", 100_000, config)

Files, the first two tab-separated with a header, "" is missing:

    log.tsv            rows in time order, the rows of a request adjacent in the order of positions
    ads.tsv            ad-side columns of all ads, including those that are never shown, and a title
                       to show, which no model reads
    schema.json        the schema of the log
    truth/truth.arrow  Arrow IPC, in the order of the log; click_probability,
                       engagement_probability and expected_revenue of each impression, with the
                       position effect; in the sequence world also click_ages, the ages of the
                       user's clicks
    truth/world.json   the config, from which `load_world` rebuilds the world

The log of the bilinear world has the fields of ads; logs of other worlds name an ad by its id, and
ads.tsv has its fields. A longer log of the same config starts with the rows of a shorter one.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tfrecords import terminal
from tfrecords.schema import save_schema
from tfrecords.synthetic.world import AnyConfig, SequenceConfig, ShopConfig, World, WorldConfig
from tfrecords.synthetic.world_parts import Columns

TRUTH_COLUMNS = ("click_probability", "engagement_probability", "expected_revenue")

_REQUESTS_PER_CHUNK = 4_096
_TEXT = csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
# By the kind in a world's file. The bilinear world's file has none.
_KINDS: dict[str, type[AnyConfig]] = {
    "bilinear": WorldConfig,
    "shop": ShopConfig,
    "sequence": SequenceConfig,
}


class SyntheticLog:
    """The paths of the files of a synthetic log.

    Attributes:
        format: Name of its format, see `tfrecords.formats`.
    """

    format = "tabular"

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.log = directory / "log.tsv"
        self.ads = directory / "ads.tsv"
        self.schema = directory / "schema.json"
        self.truth = directory / "truth" / "truth.arrow"
        self.world = directory / "truth" / "world.json"


def write_log(
    directory: str | os.PathLike[str], n_samples: int, config: AnyConfig | None = None
) -> SyntheticLog:
    """Writes a log of exactly `n_samples` impressions; the last request may be incomplete.

    All files are written under temporary names and renamed, log.tsv last.

    Args:
        directory: Output directory, created if needed. Files of an older log are replaced.
        n_samples: Number of impressions, that is, rows.
        config: Configuration of the world; None: the default bilinear world.

    Raises:
        ValueError: n_samples is not positive.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}.")
    log = SyntheticLog(pathlib.Path(directory))
    log.directory.mkdir(parents=True, exist_ok=True)
    staging = SyntheticLog(pathlib.Path(tempfile.mkdtemp(prefix=".synthetic-", dir=log.directory)))
    try:
        staging.truth.parent.mkdir()
        world = World(config)
        with terminal.progress_bar("writing impressions", "rows", n_samples) as bar:
            _write_rows(staging, world, n_samples, bar.update)
        _write_catalog(staging, world)
        save_schema(world.schema, staging.schema)
        (kind,) = (name for name, config in _KINDS.items() if config is type(world.config))
        described = {} if kind == "bilinear" else {"world": kind}
        described |= dataclasses.asdict(world.config)
        staging.world.write_text(json.dumps(described, indent=2) + "\n")
        log.truth.parent.mkdir(exist_ok=True)
        for name in ("world", "truth", "schema", "ads", "log"):
            os.replace(getattr(staging, name), getattr(log, name))
    finally:
        shutil.rmtree(staging.directory)
    return log


def load_world(directory: str | os.PathLike[str]) -> World:
    """Rebuilds the world of a log that `write_log` wrote.

    Raises:
        FileNotFoundError: The directory has no truth/world.json.
        ValueError: The file is not the config of a world.
    """
    path = SyntheticLog(pathlib.Path(directory)).world
    if not path.is_file():
        raise FileNotFoundError(f"No world at {path}; expected the directory of a synthetic log.")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        return World(_KINDS[described.pop("world", "bilinear")](**described))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"World file {path}: {error}. Write the log again.") from error


def _impressions(world: World, n_samples: int) -> Iterator[Columns]:
    """Yields chunks of impressions, n_samples rows in total."""
    chunk, memory = 0, world.population.memory()
    while n_samples > 0:
        # A generator per chunk: the start of a log does not depend on its length.
        rng = np.random.default_rng([world.config.seed, 4, chunk])
        rows = world.impressions(rng, _REQUESTS_PER_CHUNK, chunk * _REQUESTS_PER_CHUNK, memory)
        yield {name: values[:n_samples] for name, values in rows.items()}
        n_samples -= len(rows[TRUTH_COLUMNS[0]])
        chunk += 1


def _write_rows(
    paths: SyntheticLog, world: World, n_samples: int, written: Callable[[int], object]
) -> None:
    """Writes the log and truth.arrow; calls `written` with the rows of a chunk."""
    population = world.population
    truth_columns = (*TRUTH_COLUMNS, *population.state_columns)
    with contextlib.ExitStack() as stack:
        log: csv.CSVWriter | None = None
        truth: pa.RecordBatchWriter | None = None
        for rows in _impressions(world, n_samples):
            printed = _printable({n: rows[n] for n in population.log_columns}, population.decimals)
            batch = pa.record_batch({name: _truth_array(rows[name]) for name in truth_columns})
            if log is None or truth is None:
                log = stack.enter_context(
                    csv.CSVWriter(paths.log, printed.schema, write_options=_TEXT)
                )
                truth = stack.enter_context(pa.ipc.new_file(str(paths.truth), batch.schema))
            log.write_table(printed)
            truth.write_batch(batch)
            written(len(rows[TRUTH_COLUMNS[0]]))


def _truth_array(values: np.ndarray) -> pa.Array:
    """Returns [n] as numbers and [n, m] as lists of float32, exact for half a year of seconds."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(values.ravel().astype(np.float32), values.shape[1])


def _write_catalog(paths: SyntheticLog, world: World) -> None:
    columns = {
        **{name: world.ads[name] for name in world.population.ad_columns},
        "title": np.array(world.population.titles(world.ads)),
    }
    csv.write_csv(_printable(columns, world.population.decimals), paths.ads, _TEXT)


def _printable(columns: Columns, decimals: Collection[str]) -> pa.Table:
    """Converts columns to strings or numbers, with null for NaN; whole numbers to integers."""
    table = {}
    for name, values in columns.items():
        if values.dtype.kind == "U":
            table[name] = pa.array(values)
            continue
        missing = np.isnan(values)
        if name not in decimals:
            values = np.where(missing, 0, values).astype(np.int64)
        table[name] = pa.array(values, mask=missing)
    return pa.table(table)
