"""Sends requests at a steady rate and checks every answer.

Every second request allows only ads that live updates added, to read the writes back; the others
are ordinary requests. An answer must be from one release, in the order that it claims, and must
arrive before the deadline of its request.
"""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

from workload.live_writer import Acknowledged

from serving import client, errors, requests

_THREADS = 16
_MAX_READ_BACK = 40
_MAX_PROBLEMS = 20


@dataclasses.dataclass
class Counts:
    """The outcomes of the requests.

    Attributes:
        requests: Requests sent.
        answered: Answers within the deadline.
        failed: Requests without an answer after all attempts of the client, neither refused nor
            late.
        refused: Requests that the service shed (429).
        late: Answers after the deadline, and requests whose client gave up at the deadline.
        degraded: Answers in which not all candidates were ranked.
        mixed: Answers that mix releases, or are not in the order that they claim.
        lost: Ads whose acknowledged state an answer contradicts.
        problems: The first failures, in words.
    """

    requests: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    late: int = 0
    degraded: int = 0
    mixed: int = 0
    lost: set[str] = dataclasses.field(default_factory=set)
    problems: list[str] = dataclasses.field(default_factory=list)


class CheckedLoad:
    """Sends requests from several threads until the `with` block ends.

    Args:
        url: URL of the service.
        contexts: Raw query fields of the ordinary requests, sent in turn.
        acknowledged: Release version -> function that returns the acknowledged ads.
        rate: Requests per second.
        deadline_seconds: Deadline of a request, over all attempts of the client.
    """

    def __init__(
        self,
        url: str,
        contexts: Sequence[dict[str, Any]],
        acknowledged: Mapping[int, Callable[[], Acknowledged]],
        rate: float,
        deadline_seconds: float,
    ) -> None:
        self._url = url
        self._contexts = contexts
        self._acknowledged = acknowledged
        self._rate = rate
        self._deadline_seconds = deadline_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.counts = Counts()
        self._pace = threading.Thread(target=self._keep_pace)

    def __enter__(self) -> "CheckedLoad":
        self._pace.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pace.join()

    def read_back(self) -> None:
        """Reads all acknowledged ads of the release that answers, in pieces."""
        with client.Client(self._url, timeout_seconds=30.0) as service:
            ids = sorted({ad for read in self._acknowledged.values() for ad in _ads(read())})
            for start in range(0, len(ids), _MAX_READ_BACK):
                self._read_back(service, ids[start : start + _MAX_READ_BACK])

    def _keep_pace(self) -> None:
        due, sent = time.monotonic(), []
        with (
            client.Client(self._url, timeout_seconds=self._deadline_seconds) as service,
            futures.ThreadPoolExecutor(_THREADS) as pool,
        ):
            while not self._stop.is_set():
                due += 1 / self._rate
                self._stop.wait(max(0.0, due - time.monotonic()))
                sent.append(pool.submit(self._ask, service, len(sent)))
        for future in sent:
            future.result()  # Raises errors of this program.

    def _ask(self, service: client.Client, number: int) -> None:
        started = time.monotonic()
        outcome, problem = "answered", None
        try:
            if number % 2:
                self._read_newest_back(service)
            else:
                context = self._contexts[number // 2 % len(self._contexts)]
                self._check(service.recommend(context=context, k=10))
            if time.monotonic() - started > self._deadline_seconds:
                outcome = "late"
        except errors.ClientOverloadedError:
            outcome = "refused"
        except errors.ClientTimeoutError:
            outcome = "late"
        except errors.TfrecClientError as error:
            outcome, problem = "failed", f"failed: {error}"
        self._count("requests", outcome, problem=problem)

    def _read_newest_back(self, service: client.Client) -> None:
        per_release = _MAX_READ_BACK // len(self._acknowledged)
        ids = [ad for read in self._acknowledged.values() for ad in _ads(read())[-per_release:]]
        self._read_back(service, ids)

    def _read_back(self, service: client.Client, ids: list[str]) -> None:
        # Read before the request: later acknowledgements may be missing from its answer.
        known = {version: read() for version, read in self._acknowledged.items()}
        answer = service.recommend(
            context=self._contexts[0], k=_MAX_READ_BACK, filters={"allowed_ads": ids}
        )
        self._check(answer)
        found = {ad.ad_id for ad in answer.ads}
        version = answer.bundle_version
        state = known.get(version, Acknowledged())
        # Without the ads whose removal has begun in the meantime.
        present = state.present & self._acknowledged.get(version, Acknowledged)().present
        other_ads = {
            ad
            for version, acknowledged in known.items()
            if version != answer.bundle_version
            for ad in acknowledged.present | acknowledged.absent
        }
        lost = (present & set(ids)) - found | state.absent & found
        if found & other_ads:
            self._count("mixed", problem=f"mixed: release {version} has {found & other_ads}")
        if lost:
            with self._lock:
                self.counts.lost |= lost
            self._count(problem=f"lost: {sorted(lost)[:3]} of release {version}")

    def _check(self, answer: requests.Answer) -> None:
        scores = [
            ad.utility if answer.order == "utility" else ad.retrieval_score for ad in answer.ads
        ]
        pairs = itertools.pairwise(scores)
        is_sorted = all(a is not None and b is not None and a >= b for a, b in pairs)
        if not is_sorted or answer.bundle_version not in self._acknowledged:
            problem = f"mixed: release {answer.bundle_version}, {answer.order}: {scores}"
            self._count("mixed", problem=problem)
        if answer.degraded is not None:
            self._count("degraded")

    def _count(self, *names: str, problem: str | None = None) -> None:
        """Counts outcomes, and keeps the problem if it is one of the first."""
        with self._lock:
            for name in names:
                setattr(self.counts, name, getattr(self.counts, name) + 1)
            if problem is not None and len(self.counts.problems) < _MAX_PROBLEMS:
                self.counts.problems.append(problem)


def _ads(state: Acknowledged) -> list[str]:
    """Returns ids, oldest first."""
    return sorted(state.present | state.absent, key=lambda ad: int(ad.rsplit("-", 1)[1]))
