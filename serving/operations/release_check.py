"""Checks a release without a server: every file, and the probes of all parts."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from serving import errors, index, live, ranker, releases, requests
from tfrecords import terminal

Score = Callable[[requests.Columns, np.ndarray], dict[str, np.ndarray]]


def check_release(base: pathlib.Path, version: int) -> Iterator[str]:
    """Checks a release and yields a line for each check that passed.

    Args:
        base: Base directory of the bundles.
        version: Release version.

    Raises:
        BundleError: A part of the release is missing, damaged, or does not reproduce its probes.
        RankerError: The ranker does not reproduce its probes.
    """
    with contextlib.closing(releases.load(base, version)) as release:
        num_bytes = sum(entry["bytes"] for entry in release.manifest.files.values())
        yield f"{len(release.manifest.files)} files, {num_bytes / 1e6:,.1f} MB, are unchanged"
        yield "query tower and index reproduce the probes"
        tower = releases.AdTower(base / "ad_tower" / str(version), release.manifest.ad_fields)
        releases.check_ad_tower(release.manifest, tower, release.ad_index)
        yield "the ad tower reproduces its probes"
        if release.manifest.has_ranker:
            features = release.ad_index.features(releases.candidate_rows(release.manifest))
            with ranker_of(release) as score:
                scores = score(releases.query_columns(release.manifest), features)
            releases.check_scores(release.manifest, scores)
            yield "the ranker reproduces its probes"
        else:
            yield "it has no ranker: answers are in retrieval order"


def check_updates(release: releases.Bundle) -> str:
    """Reads the live updates of a release from the start, as a service does when it loads it.

    Args:
        release: Loaded release.

    Raises:
        LiveIndexError: The journal is damaged, or belongs to another release.
    """
    with contextlib.closing(live.LiveIndex(release)) as updates:
        state = updates.status()
    if not state["num_updates"]:
        return "none"
    return (
        f"{terminal.format_count(state['num_updates'], 'update is', 'updates are')} undamaged: "
        f"{terminal.format_count(state['added'], 'ad')} added or changed, "
        f"{state['removed_or_changed']:,} of the release removed or changed"
    )


def changed_ads(release: releases.Bundle) -> frozenset[str]:
    """Returns the ids of ads that live updates have added or changed.

    This includes ads of which only a vector changed; neither answers nor logs have vectors.

    Raises:
        LiveIndexError: The journal is damaged, or belongs to another release.
    """
    with contextlib.closing(live.LiveIndex(release)) as updates:
        return frozenset(updates.changes().ads[index.AD_ID].to_pylist())


@contextlib.contextmanager
def ranker_of(release: releases.Bundle) -> Iterator[Score]:
    """Loads the release's ranker and yields a function that scores candidates.

    The function takes the query fields, [B] or [B, L] each, as `QueryFields.columns` returns them,
    and ad_features [B, C, F] int32; it returns scores [B, C] float32 for each output.

    Raises:
        ProbeMismatchError: The ranker cannot be loaded or run.
    """
    try:
        model = ranker.LocalRanker(release)
        try:
            yield model.score
        finally:
            model.free()
    except errors.RankerError as error:
        raise errors.ProbeMismatchError(
            f"ranker/{release.version} cannot score candidates: {error}"
        ) from error
