"""Generates rows in Criteo's layout with the Kaggle log's cardinalities, for speed benchmarks.

Labels are independent of the fields, so nothing can be learned. The properties that determine the
speed are as in the real log: the number of distinct values of each column and their frequencies,
the share of missing values, and the length of a line (about 240 bytes).

Shapes: B rows of a block, A ads.

References:
    Criteo Labs, Display Advertising Challenge, 2014. Cardinalities are those reported for
    recommenders trained on it (Naumov et al., DLRM, 2019); shares of missing values are rounded.
"""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from tfrecords import files, formats

CARDINALITIES = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194,
    27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
CLICK_RATE = 0.256
NUM_ADS = 40_000
_MISSING = {
    "I1": 0.45, "I3": 0.21, "I4": 0.22, "I5": 0.03, "I6": 0.22, "I7": 0.04, "I9": 0.04,
    "I10": 0.45, "I11": 0.04, "I12": 0.77, "I13": 0.22, "C3": 0.03, "C4": 0.03, "C6": 0.12,
    "C12": 0.03, "C16": 0.03, "C19": 0.44, "C20": 0.44, "C21": 0.03, "C22": 0.76, "C24": 0.03,
    "C25": 0.44, "C26": 0.44,
}  # fmt: skip
# Medians of I1–I13; I2 starts at -2.
_MEDIANS = (1, 4, 6, 4, 3_000, 30, 3, 7, 40, 0.6, 1, 0.4, 4)
_SPREAD = 1.7
_ROWS_PER_BLOCK = 100_000


def draw_ads(seed: int) -> dict[str, np.ndarray]:
    """Returns the frequency ranks [A] of the values of each key column; many ads share values."""
    rng = np.random.default_rng((seed, 0))
    columns = zip(formats.criteo.CATEGORICAL_COLUMNS, CARDINALITIES, strict=True)
    return {n: _ranks(rng, c, NUM_ADS) for n, c in columns if n in formats.criteo.AD_KEY}


def write(path: pathlib.Path, num_rows: int, seed: int = 1) -> pathlib.Path:
    """Writes a log block by block and returns its path; an existing file is kept.

    Equal seeds give equal bytes. The file's name should contain `num_rows` and `seed`.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    ads = draw_ads(seed)
    with files.replacing(path) as partial, partial.open("wb") as file:
        for index, first in enumerate(range(0, num_rows, _ROWS_PER_BLOCK)):
            rng = np.random.default_rng((seed, 1, index))
            rows = block(rng, ads, min(_ROWS_PER_BLOCK, num_rows - first))
            pa_csv.write_csv(rows, file, options)
    return path


def block(rng: np.random.Generator, ads: dict[str, np.ndarray], num_rows: int) -> pa.Table:
    """Returns rows [B] as a table of the log's columns; missing values are null."""
    ad = _ranks(rng, NUM_ADS, num_rows)
    columns: dict[str, pa.Array] = {
        formats.criteo.LABEL: pa.array((rng.random(num_rows) < CLICK_RATE).astype(np.int8))
    }
    for name, median in zip(formats.criteo.NUMERIC_COLUMNS, _MEDIANS, strict=True):
        numbers = np.exp(rng.normal(np.log(median), _SPREAD, num_rows)).astype(np.int64)
        numbers -= 2 * (name == "I2")
        columns[name] = pa.array(numbers, mask=_missing(rng, name, num_rows))
    for name, cardinality in zip(formats.criteo.CATEGORICAL_COLUMNS, CARDINALITIES, strict=True):
        ad_ranks = ads.get(name)
        ranks = _ranks(rng, cardinality, num_rows) if ad_ranks is None else ad_ranks[ad]
        columns[name] = _hashes(name, ranks, _missing(rng, name, num_rows))
    return pa.table(columns)


def _ranks(rng: np.random.Generator, cardinality: int, count: int) -> np.ndarray:
    """Draws ranks 0..cardinality - 1, each with a probability of about 1 / (1 + rank)."""
    return np.exp(rng.random(count) * np.log1p(cardinality)).astype(np.uint32) - 1


def _missing(rng: np.random.Generator, name: str, count: int) -> np.ndarray | None:
    share = _MISSING.get(name)
    return None if share is None else rng.random(count) < share


def _hashes(name: str, ranks: np.ndarray, missing: np.ndarray | None) -> pa.Array:
    """Returns ranks [B] as eight hex digits that look random and differ by column."""
    salt = 0x9E3779B9 * (1 + formats.criteo.CATEGORICAL_COLUMNS.index(name))
    # A product with an odd number is one to one modulo 2^32.
    mixed = ranks.astype(np.uint32) * np.uint32(2_654_435_761) ^ np.uint32(salt % 2**32)
    text = mixed.astype(">u4").tobytes().hex().encode()
    offsets = np.arange(len(ranks) + 1, dtype=np.int32) * 8
    present = None if missing is None else pa.array(~missing).buffers()[1]
    buffers = [present, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(ranks), buffers)
