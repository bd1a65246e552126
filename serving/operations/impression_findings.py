"""Compares the scores in an impression log with the scores of the bundle's ranker.

The log has the scores that the service returned online. Offline, the bundle's ranker scores the
logged query fields and the bundle's ads again. A difference indicates a fault of a server or of the
log.

Shapes: C logged ads of an answer.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving import impressions, releases
from serving.operations import findings, release_check, service_findings
from tfrecords import terminal


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The query fields, and rows [C] and logged scores [C] of the ads that have not changed."""

    fields: Mapping[str, Any]
    rows: np.ndarray
    scores: Mapping[str, list[float]]


def compare_impressions(
    files: Sequence[pathlib.Path], release: releases.Bundle, num_answers: int
) -> str:
    """Compares the scores of the latest logged answers of a release with its ranker's.

    Args:
        files: Files of the log, the oldest first.
        release: Loaded release.
        num_answers: Maximum number of answers to compare.

    Raises:
        WrongError: The logged scores differ from the release's.
        SkippedError: The log has no scores that can be compared.
        ImpressionLogError: A file is not part of an impression log.
    """
    outputs = list(release.manifest.outputs.values())
    if not outputs:
        raise findings.SkippedError(
            f"release {release.version} has no ranker, so there are no scores to compare"
        )
    logged, num_ads = [], 0
    changed = release_check.changed_ads(release)
    for table in _answers(files, release, num_answers):
        num_ads += table.num_rows
        answer = _read(table, release, outputs, changed)
        if len(answer.rows):
            logged.append(answer)
    compared = sum(len(answer.rows) for answer in logged)
    if not compared:
        raise findings.SkippedError(
            f"it has {num_ads} scored ads of release {release.version}, none with the same fields "
            "as in the bundle"
        )
    with release_check.ranker_of(release) as score:
        differences = [
            service_findings.score_differences(
                release, score, answer.fields, answer.rows, answer.scores, f"logged answer {number}"
            )
            for number, answer in enumerate(logged)
        ]
    gaps = np.concatenate(differences, axis=1)
    num_changed = num_ads - compared
    left_out = f"; {num_changed} ads that have changed since are left out" if num_changed else ""
    answers = terminal.format_count(len(logged), "logged answer")
    return (
        f"{terminal.format_count(compared, 'ad')} of {answers} have the scores of release "
        f"{release.version}; they differ by at most {gaps.max():.2g}, by {gaps.mean():.2g} on "
        f"average{left_out}"
    )


def _answers(
    files: Sequence[pathlib.Path], release: releases.Bundle, num_answers: int
) -> Iterator[pa.Table]:
    """Yields the scored rows of each of the latest answers of the release."""
    outputs = [f"_{output}" for output in release.manifest.outputs.values()]
    for path in reversed(files):
        table = impressions.read_file(path)
        table = table.filter(pc.equal(table["_bundle_version"], release.version))
        if not table.num_rows:
            # Another release may have other columns.
            continue
        for output in outputs:
            table = table.filter(pc.is_valid(table[output]))
        for answer_id in reversed(pc.unique(table["_answer_id"]).to_pylist()):
            if not num_answers:
                return
            num_answers -= 1
            yield table.filter(pc.equal(table["_answer_id"], answer_id))


def _read(
    table: pa.Table, release: releases.Bundle, outputs: Sequence[str], changed: Set[str]
) -> _Answer:
    rows = release.ad_index.find(table["_ad_id"].to_pylist())
    known = np.flatnonzero(rows >= 0)
    ad_fields = [name for name, kind in release.manifest.ad_kinds.items() if kind != "dense"]
    shown = table.select(ad_fields).take(known).to_pylist()
    # Live updates may have changed the fields of an ad.
    unchanged = [
        row
        for row, fields, ad in zip(
            known.tolist(), shown, release.ad_index.listed(rows[known]), strict=True
        )
        if fields == {name: ad.fields.get(name) for name in ad_fields} and ad.ad_id not in changed
    ]
    query_names = [field["name"] for field in release.manifest.query_fields]
    return _Answer(
        table.select(query_names).slice(0, 1).to_pylist()[0],
        rows[unchanged],
        {
            output: table[f"_{output}"].take(pa.array(unchanged, pa.int64())).to_pylist()
            for output in outputs
        },
    )
