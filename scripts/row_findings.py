"""Holds served scores of logged rows against those of the training code.

The rows are the first held-out requests of a data set, of which it keeps the raw query fields.
Offline they are what training read, encoded by the converter, scored by the trained ranker and
its calibrators; online they are raw fields sent to a server. A difference is a fault of an
encoder, an export or a server.

Shapes: C shown ads of a request.
"""

import asyncio
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import findings
import numpy as np
import pipeline
import service_findings

from serving import bundle, export, query_fields, ranker_client
from tfrec import down_sampling, evaluation
from tfrecords import reader

_REQUESTS_PER_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Logged:
    """A held-out request.

    Attributes:
        fields: Its raw query fields.
        ad_ids: [C] the ads that it showed.
        scores: Output -> [C] float32, as training would serve them.
    """

    fields: Mapping[str, Any]
    ad_ids: list[str]
    scores: Mapping[str, np.ndarray]


def read(workdir: pathlib.Path, release: bundle.Bundle, num_requests: int) -> list[Logged]:
    """Scores held-out requests with the trained ranker of a work directory.

    Args:
        workdir: With the data set and both trained stages.
        release: The loaded release.
        num_requests: At most.

    Raises:
        WrongError: The work directory holds another training than the release.
        FileNotFoundError, ValueError: It is none, or damaged.
    """
    steps = pipeline.Pipeline(workdir)
    data_set = steps.data_set()
    models = steps.models(data_set)
    training_id = export.training_id_of(data_set, models.two_tower, models.ranker)
    if training_id != release.manifest.training_id:
        raise findings.WrongError(
            f"{workdir} to hold training {release.manifest.training_id}, that of release "
            f"{release.version}",
            f"training {training_id}",
            "Give the work directory that the release was exported from, or --rows=0.",
        )
    return list(_score(data_set, models, num_requests))


def over_grpc(logged: list[Logged], release: bundle.Bundle, address: str) -> str:
    """Compares with what a model server gives, request by request.

    Raises:
        WrongError: They differ.
        RankerError: It gives none.
    """
    manifest = release.manifest
    client = ranker_client.RankerClient(
        address, version=release.version, outputs=manifest.outputs.values()
    )
    fields = query_fields.QueryFields(manifest.query_fields, manifest.ad_kinds)

    async def ask() -> list[dict[str, np.ndarray]]:
        try:
            return [
                await client.predict(
                    fields.columns([fields.merge({}, one.fields)]),
                    release.ad_index.features(release.ad_index.find(one.ad_ids)[None]),
                    20.0,
                )
                for one in logged
            ]
        finally:
            await client.close()

    served = asyncio.run(ask())
    found = [
        service_findings.compared(output, scores[output][0].tolist(), expected, f"request {number}")
        for number, (one, scores) in enumerate(zip(logged, served, strict=True))
        for output, expected in one.scores.items()
    ]
    return _words(logged, np.concatenate(found))


def over_rest(
    logged: list[Logged], release: bundle.Bundle, service: service_findings.Service
) -> str:
    """Compares with what the whole service answers when only the shown ads are eligible.

    Raises:
        WrongError: They differ, or an answer lacks an ad or its scores.
        TfrecClientError: The service fails.
    """
    found = []
    for number, one in enumerate(logged):
        place = f"request {number}"
        answer = service.recommend(one.fields, one.ad_ids)
        service_findings.check_answer(answer, release.version, place)
        by_id = {ad.ad_id: ad for ad in answer.ads}
        missing = [ad_id for ad_id in one.ad_ids if ad_id not in by_id]
        if missing:
            raise findings.WrongError(
                f"{place} answered with the {len(one.ad_ids)} ads that are allowed",
                f"without {', '.join(missing[:3])}",
                "Ads that were removed from the live index do not come; a new export settles it.",
            )
        for output, expected in one.scores.items():
            values = [getattr(by_id[ad_id], output) for ad_id in one.ad_ids]
            found.append(service_findings.compared(output, values, expected, place))
    return _words(logged, np.concatenate(found))


def _score(
    data_set: reader.DataSet, models: evaluation.Models, num_requests: int
) -> Iterator[Logged]:
    samples = data_set.sample_requests()[:num_requests]
    if not samples:
        raise findings.SkippedError(f"{data_set.directory} has no held-out requests")
    ids = data_set.catalogue().ad_ids
    samples_left = iter(samples)
    for batch in data_set.batches("test", _REQUESTS_PER_BATCH):
        # Without the slots: served scores are those of the first.
        logits = models.ranker.score(batch["query"], batch["ad"])
        calibrated = models.calibrators.apply(logits)
        served = down_sampling.undone(calibrated, data_set.schema.negative_keep_rate)
        scores = {name: values.numpy() for name, values in served.items()}
        for number, mask in enumerate(batch["mask"].numpy()):
            fields = next(samples_left, None)
            if fields is None:
                return
            rows = batch["ad_row"].numpy()[number][mask]
            # An ad that a request shows twice comes once.
            rows, first = np.unique(rows, return_index=True)
            yield Logged(
                fields,
                [ids[row].as_py() for row in rows.tolist()],
                {name: values[number][mask][first] for name, values in scores.items()},
            )


def _words(logged: list[Logged], differences: np.ndarray) -> str:
    return (
        f"{sum(len(one.ad_ids) for one in logged)} rows of {len(logged)} held-out requests; "
        f"scores differ by {differences.max():.2g} at most, {differences.mean():.2g} on average"
    )
