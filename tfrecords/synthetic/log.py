"""A synthetic log in Criteo's layout, with its ground truth.

    config = synthetic.WorldConfig(seed=7)
    log = synthetic.write_log("work/synthetic", 100_000, config)

Files, all in the same row order:

    log.tsv            label, I1..I13, C1..C26; tab-separated, no header, "" is missing; rows
                       in time order, the rows of a request adjacent in the order of positions
    log.extra.tsv      header; request_id, position, engagement (0 or 1), revenue
    ads.tsv            header; ad-side columns of all ads, including those that are never shown,
                       and a title to show, which no model reads
    schema.json        the schema of the log
    truth/truth.arrow  Arrow IPC; click_probability, engagement_probability and
                       expected_revenue of each impression, with the position effect
    truth/world.json   the config, from which `load_world` rebuilds the world

A longer log of the same config starts with the rows of a shorter one.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tfrecords import terminal
from tfrecords.schema import LABELS, Field, Schema, save_schema
from tfrecords.synthetic import population, synthetic_world

World = synthetic_world.World
WorldConfig = population.WorldConfig

NUMERIC = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
AD_COLUMNS = (*population.AD_NUMERIC, *population.AD_CATEGORICAL)
EXTRA_COLUMNS = ("request_id", "position", "engagement", "revenue")
TRUTH_COLUMNS = ("click_probability", "engagement_probability", "expected_revenue")

_REQUESTS_PER_CHUNK = 4_096
_STYLES = (
    "Trail", "City", "Alpine", "Coast", "Studio", "Summer", "Winter", "Classic", "Urban", "Nordic",
    "Desert", "Harbor", "Vintage", "Royal", "Pocket", "Family", "Night", "Travel", "Sport", "Eco",
)  # fmt: skip
_THINGS = (
    "Shoe", "Jacket", "Backpack", "Watch", "Tent", "Lamp", "Chair", "Kettle", "Camera", "Guitar",
    "Bicycle", "Helmet", "Scarf", "Novel", "Puzzle", "Blanket", "Speaker", "Keyboard", "Coffee",
    "Teapot", "Perfume", "Umbrella", "Wallet", "Sofa", "Mirror", "Skateboard", "Telescope",
    "Cookbook", "Drone", "Mattress",
)  # fmt: skip
_MIN_COUNT = {"C3": 10, "C21": 10}  # The embeddings of rare ids overfit.


class SyntheticLog:
    """The paths of the files of a synthetic log."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.log = directory / "log.tsv"
        self.extra = directory / "log.extra.tsv"
        self.ads = directory / "ads.tsv"
        self.schema = directory / "schema.json"
        self.truth = directory / "truth" / "truth.arrow"
        self.world = directory / "truth" / "world.json"


def schema() -> Schema:
    """Returns the schema of a synthetic log: Criteo's columns, request, position and labels."""
    fields = []
    for name in (*NUMERIC, *CATEGORICAL):
        kind = "numeric" if name in NUMERIC else "categorical"
        side = "ad" if name in AD_COLUMNS else "query"
        fields.append(Field(name, kind, side, min_count=_MIN_COUNT.get(name, 5)))
    return Schema(
        name="synthetic",
        fields=tuple(fields),
        ad_key=("C7",),
        click="label",
        engagement="engagement",
        revenue="revenue",
        request_key="request_id",
        position="position",
        show=("title",),
        # The reports on its ground truth add up the three heads as they are.
        weights=dict.fromkeys(LABELS, 1.0),
    )


def write_log(
    directory: str | os.PathLike[str], n_samples: int, config: WorldConfig | None = None
) -> SyntheticLog:
    """Writes a log of exactly `n_samples` impressions; the last request may be incomplete.

    All files are written under temporary names and renamed, log.tsv last.

    Args:
        directory: Output directory, created if needed. Files of an older log are replaced.
        n_samples: Number of impressions, that is, rows.
        config: Configuration of the world; None: the default.

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
            _write_rows(staging, _impressions(world, n_samples), bar.update)
        _write_catalog(staging, world)
        save_schema(schema(), staging.schema)
        staging.world.write_text(json.dumps(dataclasses.asdict(world.config), indent=2) + "\n")
        log.truth.parent.mkdir(exist_ok=True)
        for name in ("world", "truth", "schema", "ads", "extra", "log"):
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
        return World(WorldConfig(**json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"World file {path}: {error}. Write the log again.") from error


def _impressions(world: World, n_samples: int) -> Iterator[synthetic_world.Columns]:
    """Yields chunks of impressions, n_samples rows in total."""
    chunk = 0
    while n_samples > 0:
        # A generator per chunk: the start of a log does not depend on its length.
        rng = np.random.default_rng([world.config.seed, 4, chunk])
        rows = world.impressions(rng, _REQUESTS_PER_CHUNK, chunk * _REQUESTS_PER_CHUNK)
        yield {name: values[:n_samples] for name, values in rows.items()}
        n_samples -= len(rows["label"])
        chunk += 1


def _write_rows(
    paths: SyntheticLog, chunks: Iterator[synthetic_world.Columns], written: Callable[[int], object]
) -> None:
    """Writes log.tsv, log.extra.tsv and truth.arrow; calls `written` with the rows of a chunk."""
    truth_schema = pa.schema([(name, pa.float64()) for name in TRUTH_COLUMNS])
    with (
        paths.log.open("wb") as log,
        paths.extra.open("wb") as extra,
        pa.ipc.new_file(str(paths.truth), truth_schema) as truth,
    ):
        extra.write("\t".join(EXTRA_COLUMNS).encode() + b"\n")
        for rows in chunks:
            _append(log, {name: rows[name] for name in ("label", *NUMERIC, *CATEGORICAL)})
            _append(extra, {name: rows[name] for name in EXTRA_COLUMNS})
            truth.write_batch(
                pa.record_batch([rows[name] for name in TRUTH_COLUMNS], schema=truth_schema)
            )
            written(len(rows["label"]))


def _write_catalog(paths: SyntheticLog, world: World) -> None:
    with paths.ads.open("wb") as ads:
        ads.write("\t".join((*AD_COLUMNS, "title")).encode() + b"\n")
        titles = [_title(*own) for own in zip(world.ads["C7"], world.ads["C17"], strict=True)]
        _append(ads, {**{n: world.ads[n] for n in AD_COLUMNS}, "title": np.array(titles)})


def _title(ad: str, category: str) -> str:
    """Returns a name that says the ad and its category, such as `Trail Shoe 0d15`."""
    thing = _THINGS[int(category, 16) % len(_THINGS)] if category else "Offer"
    return f"{_STYLES[int(ad, 16) % len(_STYLES)]} {thing} {ad[:4]}"


def _append(sink: BinaryIO, columns: synthetic_world.Columns) -> None:
    table = pa.table({name: _printable(name, values) for name, values in columns.items()})
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    csv.write_csv(table, sink, options)


def _printable(name: str, values: np.ndarray) -> pa.Array:
    """Converts a column of whole numbers to integers, with null for NaN."""
    if name == "revenue" or values.dtype.kind == "U":
        return pa.array(values)
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
