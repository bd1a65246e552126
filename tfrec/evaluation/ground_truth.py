"""The synthetic world's truth, lined up with a converted data set.

Shapes: L impressions of the test split, N ads of the catalogue, Q requests.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tfrec import retrieval
from tfrec.evaluation import corpus_ranking
from tfrecords import encoding, formats, reader, records, synthetic
from tfrecords.schema import Schema
from tfrecords.splits import SPLITS

SPLIT = "test"
MAX_REQUESTS = 200
_SCORES_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Planted values of the test split.

    Attributes:
        world: Gives the planted probability of any request with any ad.
        rows: Planted values [L] of each impression, by the name they are served under.
        log: The raw impressions [L].
        sample_requests: Raw query fields of some requests [Q].
    """

    world: synthetic.World
    rows: dict[str, np.ndarray]
    log: pa.Table
    sample_requests: pa.Table

    def encode(self, data_set: reader.DataSet, requests: pa.Table) -> np.ndarray:
        """Encodes raw requests as [Q, Fq] int32."""
        encoder = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)
        return encoder.encode_table(requests)


def load_ground_truth(directory: pathlib.Path, data_set: reader.DataSet) -> GroundTruth:
    """Reads the truth of the log that a data set was converted from.

    Raises:
        FileNotFoundError: The directory is not a synthetic log's.
        ValueError: The log has another number of impressions than the data set.
    """
    log = synthetic.SyntheticLog(directory)
    world = synthetic.load_world(directory)
    planted = records.read_arrow(log.truth)
    written = sum(data_set.num_rows(split) for split in SPLITS)
    if planted.num_rows != written:
        raise ValueError(
            f"{log.truth} has {planted.num_rows} impressions, but the data set in "
            f"{data_set.directory} has {written}; convert {log.log} again."
        )
    count = data_set.num_rows(SPLIT)
    if not count:
        raise ValueError(f"The test split of {data_set.directory} is empty; use a larger log.")
    impressions = _last_impressions(log.log, data_set.schema, count)
    requests = impressions[data_set.schema.request_key].to_pylist()
    starts = [i for i, key in enumerate(requests) if i == 0 or key != requests[i - 1]]
    starts = starts[:MAX_REQUESTS]
    values = planted.slice(planted.num_rows - count)
    return GroundTruth(
        world,
        {name: values[name].to_numpy() for name in planted.column_names},
        impressions,
        impressions.take(starts),
    )


def _last_impressions(path: pathlib.Path, schema: Schema, count: int) -> pa.Table:
    opened = formats.criteo.open_log(formats.Files((path,)), schema)
    tail: list[pa.Table] = []
    for chunk in opened.chunks():
        tail.append(opened.parse(chunk).table)
        while sum(table.num_rows for table in tail[1:]) >= count:
            tail.pop(0)
    table = pa.concat_tables(tail).unify_dictionaries()
    table = table.slice(table.num_rows - count).combine_chunks()
    label = table[formats.criteo.LABEL].cast(pa.string()).cast(pa.int8())
    return table.set_column(
        table.column_names.index(formats.criteo.LABEL), formats.criteo.LABEL, label
    )


def columns(table: pa.Table, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Turns Arrow columns into the world's: strings with "" and numbers with NaN for missing."""
    result = {}
    for name in names:
        column = table[name]
        if pa.types.is_floating(column.type):
            result[name] = column.to_numpy()
        else:
            result[name] = np.array([value or "" for value in column.to_pylist()])
    return result


def _query_columns(table: pa.Table) -> dict[str, np.ndarray]:
    names = [
        n for n in (*synthetic.NUMERIC, *synthetic.CATEGORICAL) if n not in synthetic.AD_COLUMNS
    ]
    return columns(table, names)


def catalogue_order(truth: GroundTruth, catalogue: reader.Catalogue) -> np.ndarray:
    """Returns the world's number of each catalogue ad [N]."""
    number = {ad_id: i for i, ad_id in enumerate(truth.world.ads["C7"].tolist())}
    return np.array([number[ad_id] for ad_id in catalogue.ad_ids.to_pylist()])


def click_matrix(truth: GroundTruth, order: np.ndarray, requests: pa.Table) -> np.ndarray:
    """Returns the planted p(click) [Q, N] in the first slot, ads in `catalogue_order`."""
    return truth.world.click_probability_matrix(_query_columns(requests))[:, order]


def value_matrices(
    truth: GroundTruth, order: np.ndarray, requests: pa.Table
) -> dict[str, np.ndarray]:
    """Returns what an impression in the first slot is worth, for each head [Q, N].

    `click` and `engagement` are probabilities and `revenue` is expected, each of an impression.
    """
    query, world = _query_columns(requests), truth.world
    click = world.click_probability_matrix(query)
    engagement = click * world.engagement_probability_matrix(query)
    revenue = engagement * world.expected_revenue_given_engagement_matrix(query)
    return {
        head: values[:, order]
        for head, values in (("click", click), ("engagement", engagement), ("revenue", revenue))
    }


@dataclasses.dataclass(frozen=True)
class Shown:
    """The truth of lists of ads, in the slots they stand in: [Q, slots] each.

    Attributes:
        click: Probability of a click.
        engagement_given_click: Probability of an engagement after one.
        revenue_given_engagement: Mean revenue of one.
    """

    click: np.ndarray
    engagement_given_click: np.ndarray
    revenue_given_engagement: np.ndarray


def shown(truth: GroundTruth, order: np.ndarray, requests: pa.Table, rows: np.ndarray) -> Shown:
    """Returns the truth of lists of catalogue rows [Q, slots], the first in slot 0."""
    num_slots = rows.shape[1]
    query = {
        name: np.repeat(values, num_slots) for name, values in _query_columns(requests).items()
    }
    ads = {name: values[order[rows.ravel()]] for name, values in truth.world.ads.items()}
    position = np.tile(np.arange(num_slots), len(rows))
    world = truth.world
    values = (
        world.click_probability(query, ads, position),
        world.engagement_probability(query, ads),
        world.expected_revenue_given_engagement(query, ads),
    )
    return Shown(*(own.reshape(rows.shape) for own in values))


def recommender(truth: GroundTruth, catalogue: reader.Catalogue) -> corpus_ranking.Recommender:
    """Returns the recommender that knows the world.

    A click on an ad needs that the logging policy shows it and that it is clicked, so the
    best order of all ads is by exposure times p(click).
    """
    clicked = np.flatnonzero(truth.log[formats.criteo.LABEL].to_numpy())
    order = catalogue_order(truth, catalogue)

    def scores(queries: corpus_ranking.Queries) -> np.ndarray:
        table = _query_columns(truth.log.take(clicked[queries.number]))
        weight = np.empty((len(queries), len(order)), np.float32)
        for rows in retrieval.query_chunks(len(queries), len(order), _SCORES_AT_ONCE):
            part = {name: values[rows] for name, values in table.items()}
            clicks = truth.world.click_probability_matrix(part)
            weight[rows] = (clicks * truth.world.exposure_weight_matrix(part))[:, order]
        return weight

    return scores
