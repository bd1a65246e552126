"""Checks a running recommendation service (tfrec serve) against a bundle.

The requests are dry runs, so they are neither in the impression log, which is joined with feedback
and trained on, nor in the metrics of answers.

Shapes: C answered ads.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np

from serving import client, errors, releases
from serving.operations import findings, release_check
from serving.requests import Answer, Exploration, QueryFields, RankedAd, Rules

_ADS_PER_PROBE = 10
_DEADLINE_MS = 20_000
_SERVE = "tfrec serve"
# Turns the service's rules off.
_NO_RULES = Rules(caps=(), frequency_caps=(), diversity=(), exploration=Exploration(share=0.0))
CHANGED = "no answered ad has the fields of the release: updates of ads or rates changed them"


class ServiceCheck:
    """Checks of a REST service and the release that it should serve.

    Args:
        url: URL of the service, such as http://127.0.0.1:8080.
        release: Loaded release.
        timeout_seconds: Timeout of each request, in seconds.
        token: Bearer token. None: the service requires none.
        tls_authorities: PEM file of certificates to trust. None: the public authorities.

    Raises:
        TfrecClientError: The URL is not valid, or the PEM file cannot be used.
    """

    def __init__(
        self,
        url: str,
        release: releases.Bundle,
        timeout_seconds: float,
        token: str | None,
        tls_authorities: str | None,
    ) -> None:
        self._url = url
        self._release = release
        self._client = client.Client(
            url, timeout_seconds=timeout_seconds, token=token, verify=tls_authorities or True
        )

    def look(self) -> Iterator[findings.DoctorFinding]:
        """Yields the result of each check; ends early if later checks are impossible."""
        place = f"service {self._url}"
        reachable = findings.finding_of(f"{place}, reachable", self._reachable)
        yield reachable
        if reachable.status != "ok":
            return
        yield findings.finding_of(f"{place}, ready", self._ready)
        yield findings.finding_of(f"{place}, problems", self._problems)
        served = findings.finding_of(f"{place}, release", self._release_served)
        yield served
        if served.status == "ok":
            yield findings.finding_of(f"{place}, answers to the probes", self._answers)

    def recommend(self, fields: Mapping[str, Any], ad_ids: list[str]) -> Answer:
        """Returns the service's answer to a request that allows only these ads, without rules.

        Args:
            fields: Raw query fields.
            ad_ids: Ids of the eligible ads.
        """
        return self._client.recommend(
            context=fields,
            k=len(ad_ids),
            filters={"allowed_ads": ad_ids},
            rules=_NO_RULES,
            deadline_ms=_DEADLINE_MS,
            release=self._role(),
            dry_run=True,
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _reachable(self) -> str:
        try:
            is_healthy = self._client.health()
        except errors.ClientConnectionError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise
            raise findings.WrongError(
                "a certificate signed by a trusted authority",
                str(error),
                "Set --tls_authorities to the PEM file of the certificates to trust, and use the "
                "host name of the certificate in --service.",
            ) from error
        if not is_healthy:
            raise findings.WrongError(
                '{"status": "ok"} from GET /healthz',
                "a different document",
                f"Start {_SERVE} at this address.",
            )
        return "yes"

    def _ready(self) -> str:
        if not self._client.ready():
            raise findings.WrongError(
                "200 from GET /readyz",
                "503: its ranker is not verified",
                "See the checks of the model server; GET /readyz says why.",
            )
        return "yes"

    def _problems(self) -> str:
        served = self._client.bundle()
        states = (served.get(part) or {} for part in ("live", "user_store", "impression_log"))
        problems = [state["problem"] for state in states if state.get("problem")]
        if problems:
            raise findings.WrongError(
                "live updates, a user store and an impression log that can be used",
                " ".join(problems),
                "See the message, which is also in GET /v1/bundle and in the service's log.",
            )
        return "none of its live updates, user store and impression log"

    def _role(self) -> Literal["stable", "canary"] | None:
        """Returns the value of `release` in requests that the release answers."""
        role = _roles(self._client.bundle()).get(self._release.version)
        return role if role in ("stable", "canary") else None

    def _release_served(self) -> str:
        served, manifest = self._client.bundle(), self._release.manifest
        version, refused = self._release.version, served.get("refused")
        roles = _roles(served)
        words = ", ".join(f"{number} {role}" for number, role in sorted(roles.items()))
        if roles.get(version) not in ("stable", "canary"):
            raise findings.WrongError(
                f"release {version}",
                f"{words}; {refused}" if refused else words or f"release {served.get('version')}",
                self._remedy(),
            )
        if roles[version] == "stable":
            for name in ("training_id", "dataset_fingerprint"):
                if served[name] != getattr(manifest, name):
                    raise findings.WrongError(
                        f"{name} {getattr(manifest, name)}",
                        str(served[name]),
                        "The service uses a different base directory. Start "
                        f"{_SERVE} with this --bundle.",
                    )
        return words

    def _remedy(self) -> str:
        """Returns what to do if the service does not serve the release."""
        version, base = self._release.version, self._release.base
        pointer = releases.current_pointer(base)
        if version in (pointer.stable, pointer.canary):
            role = "stable" if version == pointer.stable else "the canary"
            return (
                f"Release {version} of {base} is {role}, and services load it within a minute: run "
                "this again. If nothing changes, the service has another base directory (--bundle) "
                "or a fixed --version, or its log says why it refuses the release."
            )
        return (
            f"Release {pointer.stable} of {base} is stable: check it with "
            f"--version={pointer.stable}, or, to serve release {version}, run tfrec release "
            f"--action=promote --version={version}."
        )

    def _answers(self) -> str:
        """Sends the probes' requests and compares the answers with the bundle's ranker."""
        release, found = self._release, []
        requests = release.manifest.probes["requests"]
        if not release.manifest.has_ranker:
            num_ads = sum(
                len(self._answer_of(request, f"probe {number}").ads)
                for number, request in enumerate(requests)
            )
            return (
                f"{num_ads} ads of {len(requests)} requests, in retrieval order: there is no ranker"
            )
        changed = release_check.changed_ads(release)
        with release_check.ranker_of(release) as score:
            for number, request in enumerate(requests):
                place = f"probe {number}"
                answer = self._answer_of(request, place)
                is_released = are_as_released(release, answer.ads, changed)
                ads = list(itertools.compress(answer.ads, is_released))
                if not ads:
                    continue
                rows = release.ad_index.find([ad.ad_id for ad in ads])
                scores = {
                    output: [getattr(ad, output) for ad in ads]
                    for output in release.manifest.outputs.values()
                }
                differences = score_differences(release, score, request, rows, scores, place)
                found.append(differences.max(axis=0))
        if not found:
            raise findings.SkippedError(CHANGED)
        num_ads = sum(map(len, found))
        return (
            f"{num_ads} ads of {len(requests)} requests have the scores of the bundle's ranker; "
            f"they differ by at most {np.concatenate(found).max():.2g}"
        )

    def _answer_of(self, request: Mapping[str, Any], place: str) -> Answer:
        answer = self._client.recommend(
            context=request,
            k=_ADS_PER_PROBE,
            deadline_ms=_DEADLINE_MS,
            release=self._role(),
            dry_run=True,
        )
        check_answer(answer, self._release.version, place)
        return answer


def _roles(served: Mapping[str, Any]) -> dict[int, Any]:
    """Returns the role of each release, by version, in the service's description."""
    return {row["version"]: row["role"] for row in served.get("releases", ())}


def are_as_released(
    release: releases.Bundle, ads: Sequence[RankedAd], changed: Set[str]
) -> list[bool]:
    """Returns which answered ads [C] are as in the release; live updates changed the others.

    Args:
        release: Loaded release.
        ads: Answered ads [C].
        changed: Ids of the `release_check.changed_ads`.
    """
    rows = release.ad_index.find([ad.ad_id for ad in ads])
    known = release.ad_index.listed(np.maximum(rows, 0))
    return [
        row >= 0 and ad.fields == released_ad.fields and ad.ad_id not in changed
        for ad, row, released_ad in zip(ads, rows.tolist(), known, strict=True)
    ]


def score_differences(
    release: releases.Bundle,
    score: release_check.Score,
    request: Mapping[str, Any],
    rows: np.ndarray,
    found: Mapping[str, Sequence[float | None]],
    place: str,
) -> np.ndarray:
    """Returns the differences between scores of ads and the scores of the release's ranker.

    Args:
        release: Loaded release.
        score: Scoring function from `release_check.ranker_of`.
        request: Raw query fields.
        rows: Catalog rows [C] of the ads.
        found: Scores [C] of each output.
        place: Name of the request in error messages.

    Returns:
        Absolute differences [outputs, C].

    Raises:
        WrongError: The scores differ by more than one model's scores on two servers do.
    """
    manifest = release.manifest
    fields = QueryFields(manifest.query_fields, manifest.ad_kinds)
    columns = fields.columns([fields.merge({}, request)])
    expected = score(columns, release.ad_index.features(rows[None]))
    return np.stack(
        [compared(output, scores, expected[output][0], place) for output, scores in found.items()]
    )


def compared(
    output: str, found: Sequence[float | None], expected: np.ndarray, place: str
) -> np.ndarray:
    """Returns the absolute differences [C] between served scores [C] and expected ones [C].

    Raises:
        WrongError: The scores differ by more than one model's scores on two servers do.
    """
    difference = np.abs(np.array(found, np.float32) - expected)
    # The condition is negated so that NaN, a missing score, fails.
    if not np.all(difference <= releases.TOLERANCE + releases.SCORE_TOLERANCE * np.abs(expected)):
        raise findings.WrongError(
            f"the {output} of the release, within {releases.SCORE_TOLERANCE:.0%}",
            f"{place}: the scores differ by {difference.max():.2g}",
            "A different model was served; see the other checks.",
        )
    return difference


def check_answer(answer: Answer, version: int, place: str) -> None:
    """Checks that the answer to a request comes from a release and has scores.

    Raises:
        WrongError: The answer comes from another release or is degraded.
    """
    if answer.bundle_version != version:
        raise findings.WrongError(
            f"{place} answered by release {version}",
            f"by release {answer.bundle_version}",
            "The release has changed in the meantime; run this again.",
        )
    if answer.degraded is not None:
        raise findings.WrongError(
            f"{place} answered with scores",
            f"degraded: {answer.degraded}",
            "See the checks of the model server and its load.",
        )
