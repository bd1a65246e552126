"""Held-out requests and the trained ranker's scores of their shown ads.

The converter encoded the requests and the ads; the trained ranker and its calibrators score them.
A server's answers for the same raw fields are compared with these scores.

Shapes: C shown ads of a request.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serving.export.pipeline import Pipeline
from serving.export.release_export import training_id_of
from tfrec import calibration, ranking
from tfrecords import encoding, reader

_REQUESTS_PER_BATCH = 64


@dataclasses.dataclass(frozen=True)
class LoggedRequest:
    """A held-out request.

    Attributes:
        fields: Raw query fields.
        ad_ids: [C] shown ads.
        scores: Output -> [C] float32 served values.
    """

    fields: Mapping[str, Any]
    ad_ids: list[str]
    scores: Mapping[str, np.ndarray]


def logged_requests(
    workdir: pathlib.Path, num_requests: int
) -> tuple[str, Iterator[LoggedRequest]]:
    """Returns the training id of a work directory, and its first held-out requests, scored.

    Args:
        workdir: Work directory with the data set and both trained stages.
        num_requests: Maximum number of requests.

    Raises:
        FileNotFoundError, ValueError: The directory is not a work directory, is damaged, or has no
            ranker.
    """
    steps = Pipeline(workdir)
    data_set = steps.data_set()
    models = steps.models(data_set)
    if models.ranker is None:
        raise ValueError(f"{workdir}: expected a trained ranker, got a log of clicks alone.")
    training_id = training_id_of(data_set, models.two_tower, models.ranker)
    return training_id, _scored(data_set, models.ranker, models.calibrators, num_requests)


def _scored(
    data_set: reader.DataSet,
    ranker: ranking.RankingModel,
    calibrators: calibration.Calibrators,
    num_requests: int,
) -> Iterator[LoggedRequest]:
    samples = data_set.sample_requests()[:num_requests]
    catalog = data_set.catalog()
    ids, features = catalog.ad_ids, np.asarray(catalog.features)
    rates = data_set.schema.rates
    if rates:
        columns = dict(encoding.columns(data_set.schema.ad_fields))
        encoder, features = encoding.Encoder(data_set.fitted, rates), features.copy()
        released = encoder.encode_table(catalog.released_fields)
        features[:, [columns[field].start for field in rates]] = released
    remaining = iter(samples)
    for batch in data_set.batches("test", _REQUESTS_PER_BATCH):
        # As in serving: with the released features, and for the first position.
        logits = ranker.score(batch["query"], features[batch["ad_row"].numpy()])
        calibrated = calibrators.apply(logits)
        served = ranking.undo_down_sampling(calibrated, data_set.schema.negative_keep_rate)
        scores = {name: values.numpy() for name, values in served.items()}
        for number, mask in enumerate(batch["mask"].numpy()):
            fields = next(remaining, None)
            if fields is None:
                return
            rows = batch["ad_row"].numpy()[number][mask]
            # An ad that a request shows twice is returned once.
            rows, first = np.unique(rows, return_index=True)
            yield LoggedRequest(
                fields,
                [ids[row].as_py() for row in rows.tolist()],
                {name: values[number][mask][first] for name, values in scores.items()},
            )
