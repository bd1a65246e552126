"""The checks of `tfrec doctor`: a release, and the servers that should serve it.

A release is checked file by file, and against its own probes. A model server must reproduce the
probes of the ranker, which shows that it is reachable and serves this version of this model. A
service must be ready, serve the release and answer a probe in full. With a work directory, the
service's scores of held-out rows are compared with those of the training code: a difference is a
skew between training and serving.

Shapes: C shown ads of a request.
"""

import asyncio
import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from serving import client, errors, live, ranker, releases
from serving.requests import Answer, Exploration, Rules
from tfrecords import terminal

if TYPE_CHECKING:
    from serving import export

_DEADLINE_MS = 20_000
# Turns the service's rules off.
_NO_RULES = Rules(caps=(), frequency_caps=(), diversity=(), exploration=Exploration(share=0.0))


class CheckFailedError(Exception):
    """A check failed; the message says what was found, what was expected, and what to do."""


@dataclasses.dataclass(frozen=True)
class DoctorFinding:
    """The result of one check.

    Attributes:
        check: Name of the check.
        ok: Whether it passed.
        found: What was found.
    """

    check: str
    ok: bool
    found: str

    @classmethod
    def of(cls, check: str, run: Callable[[], str]) -> Self:
        """Runs a check: `run` returns what was found, or raises if the check fails."""
        try:
            return cls(check, True, run())
        except (CheckFailedError, errors.ServingError, OSError, ValueError) as error:
            return cls(check, False, str(error))

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'failed':8}{self.check}: {self.found}"


def check_release(base: pathlib.Path, version: int) -> Iterator[str]:
    """Checks a release without a server, and yields a line for each part.

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
        if not release.manifest.has_ranker:
            yield "it has no ranker: answers are in retrieval order"
            return
        model = ranker.LocalRanker(release)
        try:
            releases.check_scores(release.manifest, model.score(*_probe_inputs(release)))
        finally:
            model.free()
        yield "the ranker reproduces its probes"


def check_updates(release: releases.Bundle) -> str:
    """Reads the live updates of a release, as a service does when it loads it.

    Raises:
        LiveIndexError: The journal is damaged, or belongs to another release.
    """
    state = live.LiveIndex(release).status()
    return (
        f"{terminal.format_count(state['added'], 'ad')} added or changed, "
        f"{state['removed_or_changed']:,} of the release removed or changed"
    )


def check_model_server(address: str, release: releases.Bundle, timeout_seconds: float) -> str:
    """Compares the scores of a model server with the probes of the release's ranker.

    Args:
        address: host:port of its gRPC API.
        release: Loaded release.
        timeout_seconds: Timeout in seconds.

    Raises:
        RankerError: The server cannot be reached, or returns no scores of this version.
        BundleError: The scores differ.
    """
    if not release.manifest.has_ranker:
        return f"not needed: release {release.version} has no ranker"
    outputs = release.manifest.outputs.values()
    connected = ranker.RankerClient(address, version=release.version, outputs=outputs)

    async def scores() -> dict[str, np.ndarray]:
        try:
            return await connected.predict(*_probe_inputs(release), timeout_seconds)
        finally:
            await connected.close()

    releases.check_scores(release.manifest, asyncio.run(scores()))
    return f"it serves ranker {release.version}, which reproduces its probes"


def _probe_inputs(release: releases.Bundle) -> tuple[Any, np.ndarray]:
    rows = releases.candidate_rows(release.manifest)
    return releases.query_columns(release.manifest), release.ad_index.features(rows)


class ServiceCheck:
    """Checks of a REST service and the release that it should serve.

    The requests are dry runs, so they are neither in the impression log nor in the metrics.

    Args:
        connected: Client of the service.
        release: Loaded release.
    """

    def __init__(self, connected: client.Client, release: releases.Bundle) -> None:
        self._client = connected
        self._release = release

    def ready(self) -> str:
        """Checks that the service expects to give full answers, and has no problem to report."""
        if not self._client.ready():
            raise CheckFailedError(
                "It is not ready: its ranker is not verified. GET /readyz says why; see the checks "
                "of the model server."
            )
        problems = self._client.bundle().get("problems") or {}
        if problems:
            raise CheckFailedError(" ".join(f"{part}: {text}" for part, text in problems.items()))
        return "it is ready"

    def serves(self) -> str:
        """Checks that the service serves the release of this base directory."""
        version, served = self._release.version, self._client.bundle()
        roles = _roles(served)
        if version not in roles:
            problem = (served.get("problems") or {}).get("releases")
            reason = f" ({problem})" if problem else ""
            raise CheckFailedError(
                f"Expected release {version}, got release {', '.join(map(str, roles))}{reason}. "
                f"Run tfrec release --action=promote --version={version}, or check another "
                "--version; a service with a --version of its own follows no promotion."
            )
        expected = self._release.manifest.training_id
        if roles[version] == "stable" and served["training_id"] != expected:
            raise CheckFailedError(
                f"Expected training {expected}, got {served['training_id']}: the service has "
                "another base directory. Start tfrec serve with this --bundle."
            )
        return ", ".join(f"{number} {role}" for number, role in roles.items())

    def answers(self) -> str:
        """Sends a probe, and checks that the release answers it in full."""
        request = self._release.manifest.probes["requests"][0]
        answer = self._recommend(context=request, k=10)
        return f"{terminal.format_count(len(answer.ads), 'ad')} by {answer.order}"

    def skew(self, logged: "Sequence[export.LoggedRequest]") -> str:
        """Compares the service's scores of held-out rows with those of the training code.

        Ads that live updates have changed or removed are left out.

        Args:
            logged: Held-out requests with their scores.

        Returns:
            A table with a row for each output: number of rows, mean score in training and in
            serving, and the largest difference.
        """
        trained, served = collections.defaultdict(list), collections.defaultdict(list)
        for request in logged:
            answer = self._recommend(
                context=request.fields,
                k=len(request.ad_ids),
                filters={"allowed_ads": request.ad_ids},
                rules=_NO_RULES,
            )
            ads = {ad.ad_id: ad for ad in answer.ads}
            rows = self._release.ad_index.find(request.ad_ids)
            released = self._release.ad_index.listed(rows)
            for at, (ad_id, ad) in enumerate(zip(request.ad_ids, released, strict=True)):
                if ad_id not in ads or ads[ad_id].fields != ad.fields:
                    continue
                for output, scores in request.scores.items():
                    trained[output].append(scores[at])
                    served[output].append(getattr(ads[ad_id], output))
        if not served:
            raise CheckFailedError("No answered ad has the fields of the release.")
        return _skew_table(trained, served)

    def _recommend(self, **fields: Any) -> Answer:
        role = _roles(self._client.bundle()).get(self._release.version)
        answer = self._client.recommend(
            **fields, deadline_ms=_DEADLINE_MS, dry_run=True, release=role
        )
        if answer.bundle_version != self._release.version:
            raise CheckFailedError(
                f"Expected an answer of release {self._release.version}, got one of release "
                f"{answer.bundle_version}. The release has changed; run this again."
            )
        if answer.degraded is not None:
            raise CheckFailedError(f"Expected scores, got a degraded answer: {answer.degraded}")
        return answer


def _roles(served: Mapping[str, Any]) -> dict[int, str]:
    """Returns version -> stable or canary, as the service describes its releases."""
    roles = {row["version"]: row["role"] for row in served.get("releases", ())}
    return {version: role for version, role in roles.items() if role in ("stable", "canary")}


def _skew_table(
    trained: Mapping[str, Sequence[float]], served: Mapping[str, Sequence[float]]
) -> str:
    rows, is_equal = [], True
    for output in served:
        expected, found = (np.array(part[output], np.float32) for part in (trained, served))
        differences = np.abs(found - expected)
        # Negated so that NaN, a missing score, fails.
        tolerance = releases.TOLERANCE + releases.SCORE_TOLERANCE * np.abs(expected)
        is_equal &= bool(np.all(differences <= tolerance))
        means = f"{expected.mean():.5g}", f"{found.mean():.5g}"
        rows.append([output, f"{len(found):,}", *means, f"{differences.max():.2g}"])
    titles = ("output", "rows", "mean in training", "in serving", "largest difference")
    table = f"\n{terminal.text_table(titles, rows)}"
    if not is_equal:
        raise CheckFailedError(
            f"The scores differ by more than {releases.SCORE_TOLERANCE:.0%}:{table}"
        )
    return f"the scores are those of the training code{table}"
