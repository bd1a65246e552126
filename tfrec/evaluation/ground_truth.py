"""The ground truth of a synthetic world, aligned with a converted data set.

Shapes: L impressions of the test split, N ads of the catalog, Q requests, P positions.
"""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa

from tfrec import retrieval
from tfrec.evaluation import corpus_ranking
from tfrecords import formats, reader, records, synthetic
from tfrecords.schema import Schema
from tfrecords.splits import SPLITS

SPLIT = "test"
MAX_REQUESTS = 200


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """True values of the test split.

    Attributes:
        world: Returns the true probability of any request with any ad.
        rows: Output of a head -> true values [L] of the impressions.
        log: The raw impressions [L], with the columns of the world that the log lacks.
        sample_requests: The rows of some requests [Q], evenly spaced over the split.
        sample_queries: Their encoded query fields [Q, Wq] int32, of the data set.
    """

    world: synthetic.World
    rows: dict[str, np.ndarray]
    log: pa.Table
    sample_requests: pa.Table
    sample_queries: np.ndarray


def load_ground_truth(directory: pathlib.Path, data_set: reader.DataSet) -> GroundTruth:
    """Reads the ground truth of the log that a data set was converted from.

    Raises:
        FileNotFoundError: The directory does not contain a synthetic log.
        ValueError: The log and the data set have different numbers of impressions.
    """
    log = synthetic.SyntheticLog(directory)
    world = synthetic.load_world(directory)
    values = records.read_arrow(log.truth)
    written = sum(data_set.num_rows(split) for split in SPLITS)
    if values.num_rows != written:
        raise ValueError(
            f"{log.truth} has {values.num_rows} impressions, but the data set in "
            f"{data_set.directory} has {written}; convert {log.log} again."
        )
    count = data_set.num_rows(SPLIT)
    if not count:
        raise ValueError(f"The test split of {data_set.directory} is empty; use a larger log.")
    # The schema of the data set may lack fields that the truth depends on.
    impressions = _last_impressions(log, world.schema, count)
    requests = impressions[world.schema.request_key].to_pylist()
    starts = [i for i, key in enumerate(requests) if i == 0 or key != requests[i - 1]]
    # The first requests would all be from the first hours.
    sample = retrieval.evenly_spaced(len(starts), MAX_REQUESTS)
    values = values.slice(values.num_rows - count)
    for name in world.population.state_columns:
        impressions = impressions.append_column(name, values[name])
    return GroundTruth(
        world,
        {name: values[name].to_numpy() for name in synthetic.TRUTH_COLUMNS},
        impressions,
        impressions.take([starts[i] for i in sample]),
        # The data set has the histories; the log does not.
        np.concatenate([window["query"] for window in data_set.windows(SPLIT)])[sample],
    )


def _last_impressions(log: synthetic.SyntheticLog, schema: Schema, count: int) -> pa.Table:
    # Titles are in the table of ads only.
    schema = dataclasses.replace(schema, show=())
    files = formats.Files((log.log,), ads=log.ads)
    opened = formats.FORMATS.get(log.format).open_log(files, schema)
    tail: list[pa.Table] = []
    for chunk in opened.chunks():
        tail.append(opened.parse(chunk).table)
        while sum(table.num_rows for table in tail[1:]) >= count:
            tail.pop(0)
    table = pa.concat_tables(tail).unify_dictionaries()
    table = table.slice(table.num_rows - count).combine_chunks()
    labels = table[schema.click].cast(pa.string()).cast(pa.int8())
    return table.set_column(table.column_names.index(schema.click), schema.click, labels)


def query_columns(world: synthetic.World, requests: pa.Table) -> dict[str, np.ndarray]:
    """Converts raw query fields to columns of the world; missing strings are "", numbers NaN."""
    result = {}
    for name in world.population.query_columns:
        if name in world.population.state_columns:
            values = requests[name].combine_chunks()
            result[name] = values.flatten().to_numpy().reshape(len(values), -1).astype(np.float64)
        elif name in world.population.vocabularies:
            result[name] = np.array([value or "" for value in requests[name].to_pylist()])
        else:
            result[name] = requests[name].cast(pa.float64()).to_numpy()
    return result


def catalog_order(truth: GroundTruth, catalog: reader.Catalog) -> np.ndarray:
    """Returns the world's number of each catalog ad [N]."""
    (key,) = truth.world.schema.ad_key
    number = {ad_id: i for i, ad_id in enumerate(truth.world.ads[key].tolist())}
    return np.array([number[ad_id] for ad_id in catalog.ad_ids.to_pylist()])


def value_matrices(
    truth: GroundTruth, order: np.ndarray, requests: pa.Table
) -> dict[str, np.ndarray]:
    """Returns the true values of impressions in the first position: head -> [Q, N].

    `click` and `engagement` are probabilities and `revenue` is an expected value, per impression.
    """
    values = truth.world.value_matrices(query_columns(truth.world, requests))
    return {head: matrix[:, order] for head, matrix in values.items()}


def recommender(truth: GroundTruth, catalog: reader.Catalog) -> corpus_ranking.Recommender:
    """Returns the recommender that ranks by the ground truth.

    A logged click requires that the logging policy shows the ad and that the user clicks it, so
    the best order of all ads is by exposure times p(click).
    """
    clicked = np.flatnonzero(truth.log[truth.world.schema.click].to_numpy())
    order = catalog_order(truth, catalog)

    def scores(queries: corpus_ranking.Queries) -> np.ndarray:
        table = query_columns(truth.world, truth.log.take(clicked[queries.number]))
        weight = np.empty((len(queries), len(order)), np.float32)
        for rows in retrieval.query_chunks(len(queries), len(order)):
            part = {name: values[rows] for name, values in table.items()}
            clicks = truth.world.click_probability(part)
            weight[rows] = (clicks * truth.world.exposure_weight_matrix(part))[:, order]
        return weight

    return scores
