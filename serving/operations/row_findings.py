"""Compares served scores of held-out rows with the scores of the training code.

The rows are the first held-out requests of a data set, which keeps their raw query fields. Offline,
the trained ranker and its calibrators score the shown ads. Online, a server scores the raw fields.
A difference indicates a fault of an encoder, an export or a server.

Shapes: C shown ads of a request.
"""

import itertools
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from serving import releases, requests
from serving.operations import (
    findings,
    model_server_findings,
    release_check,
    service_findings,
)

if TYPE_CHECKING:
    from serving import export

_TIMEOUT_SECONDS = 20.0


def read_logged_requests(
    workdir: pathlib.Path, release: releases.Bundle, num_requests: int
) -> "list[export.LoggedRequest]":
    """Scores held-out requests with the trained ranker of a work directory.

    Args:
        workdir: Work directory with the data set and both trained stages.
        release: Loaded release.
        num_requests: Maximum number of requests.

    Raises:
        WrongError: The release comes from a different training.
        SkippedError: The release has no training data set, or the work directory has no held-out
            requests.
        FileNotFoundError, ValueError: It is not a work directory, or it is damaged.
    """
    if not release.manifest.dataset_fingerprint:
        raise findings.SkippedError(
            f"release {release.version} was published from models without a training data set, so "
            "there are no held-out rows to compare; --norows leaves this check out"
        )
    if not release.manifest.has_ranker:
        raise findings.SkippedError(
            f"release {release.version} has no ranker, so there are no scores to compare"
        )
    # Loads training code, which the other checks do not need.
    from serving import export

    training_id, logged = export.logged_requests(workdir, num_requests)
    if training_id != release.manifest.training_id:
        raise findings.WrongError(
            f"{workdir} with training {release.manifest.training_id}, like release "
            f"{release.version}",
            f"training {training_id}",
            "Set --workdir to the one that the release was exported from, or use --norows.",
        )
    scored = list(logged)
    if not scored:
        raise findings.SkippedError(f"{workdir} has no held-out requests")
    return scored


def compare_over_grpc(
    logged: "list[export.LoggedRequest]", release: releases.Bundle, address: str
) -> str:
    """Compares the scores of held-out requests with the scores of a model server.

    Args:
        logged: Held-out requests with their scores.
        release: Loaded release.
        address: host:port of the model server's gRPC API.

    Raises:
        WrongError: The scores differ.
        RankerError: The model server returned no scores.
    """
    manifest = release.manifest
    fields = requests.QueryFields(manifest.query_fields, manifest.ad_kinds)
    calls = (
        (
            fields.columns([fields.merge({}, request.fields)]),
            release.ad_index.features(release.ad_index.find(request.ad_ids)[None]),
        )
        for request in logged
    )
    served = model_server_findings.served_scores(address, release, calls, _TIMEOUT_SECONDS)
    found = [
        service_findings.compared(output, scores[output][0].tolist(), expected, f"request {number}")
        for number, (request, scores) in enumerate(zip(logged, served, strict=True))
        for output, expected in request.scores.items()
    ]
    num_rows = sum(len(request.ad_ids) for request in logged)
    return _summary(num_rows, logged, np.concatenate(found))


def compare_over_rest(
    logged: "list[export.LoggedRequest]",
    release: releases.Bundle,
    service: service_findings.ServiceCheck,
) -> str:
    """Compares the scores of held-out requests with the scores of the service.

    Each request allows only the ads that were shown.

    Args:
        logged: Held-out requests with their scores.
        release: Loaded release.
        service: Connection to the service.

    Raises:
        WrongError: The scores differ, or an answer lacks an ad or its scores.
        SkippedError: All ads have changed since the export.
        TfrecClientError: The service failed.
    """
    found, num_rows = [], 0
    changed = release_check.changed_ads(release)
    for number, request in enumerate(logged):
        place = f"request {number}"
        answer = service.recommend(request.fields, request.ad_ids)
        service_findings.check_answer(answer, release.version, place)
        by_id = {ad.ad_id: ad for ad in answer.ads}
        missing = [ad_id for ad_id in request.ad_ids if ad_id not in by_id]
        if missing:
            raise findings.WrongError(
                f"{place} answered with the {len(request.ad_ids)} ads that are allowed",
                f"without {', '.join(missing[:3])}",
                "Ads that were removed from the live index, or that the filters of the service's "
                "--rules leave out, are not returned; export a new release, or use --norows.",
            )
        ads = [by_id[ad_id] for ad_id in request.ad_ids]
        is_unchanged = np.array(service_findings.are_as_released(release, ads, changed))
        num_rows += int(is_unchanged.sum())
        for output, expected in request.scores.items():
            values = [getattr(ad, output) for ad in itertools.compress(ads, is_unchanged)]
            found.append(service_findings.compared(output, values, expected[is_unchanged], place))
    if not num_rows:
        raise findings.SkippedError(service_findings.CHANGED)
    return _summary(num_rows, logged, np.concatenate(found))


def _summary(num_rows: int, logged: "list[export.LoggedRequest]", differences: np.ndarray) -> str:
    return (
        f"{num_rows} rows of {len(logged)} held-out requests; "
        f"scores differ by at most {differences.max():.2g}, by {differences.mean():.2g} on average"
    )
