"""Sends HTTP requests: one after another, as many as are answered, or as a Poisson process.

The Poisson load is an open loop: requests are sent at the times of a Poisson process whether or not
earlier ones are answered, and the latency of a request counts from its due time. A client that
waits for each answer would send fewer requests when the service is slow, and would not measure the
delay.

References: G. Tene, How NOT to Measure Latency, 2015 ("coordinated omission").
"""

import asyncio
import dataclasses
import json
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

_TIMEOUT_SECONDS = 30.0
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclasses.dataclass(frozen=True)
class Target:
    """A service, and the JSON bodies of the requests to send to it in turn."""

    url: str
    bodies: Sequence[bytes]
    headers: tuple[tuple[str, str], ...] = ()


class _Client:
    """A minimal pool of connections, because the load shares its CPUs with the service."""

    def __init__(self, target: Target) -> None:
        parts = urllib.parse.urlsplit(target.url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        lines = [
            "POST /v1/recommend HTTP/1.1",
            f"host: {self._host}",
            "content-type: application/json",
        ]
        lines += [f"{name}: {value}" for name, value in target.headers]
        head = "\r\n".join(lines)
        self._requests = [
            f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            for body in target.bodies
        ]
        self._idle: list[_Connection] = []

    async def ask(self, number: int) -> tuple[int, bytes]:
        """Sends a request and returns status and body of the response."""
        reader, writer = await self._connection()
        writer.write(self._requests[number % len(self._requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        start = lower.index(b"content-length:") + len(b"content-length:")
        body = await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
        if b"connection: close" in lower:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[9:12]), body

    async def _connection(self) -> _Connection:
        """Returns an idle connection that the service has not closed, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def one_by_one(target: Target, count: int, warm_up: int) -> dict[str, Any]:
    """Sends requests one after another.

    Returns:
        `milliseconds`, `stage_ms` and `user_data` of each request, and the numbers of `failed` and
        `degraded`.
    """

    async def run() -> list[tuple[float, int, bytes]]:
        client = _Client(target)
        replies = []
        for number in range(-warm_up, count):
            started = time.perf_counter()
            status, body = await client.ask(number)
            replies.append(((time.perf_counter() - started) * 1000, status, body))
        client.close()
        return replies[warm_up:]

    replies = asyncio.run(run())
    answers = [json.loads(body) for _, status, body in replies if status == 200]
    return {
        "milliseconds": [milliseconds for milliseconds, _, _ in replies],
        "stage_ms": [answer["stage_ms"] for answer in answers],
        "user_data": [answer.get("user_data") for answer in answers],
        "failed": len(replies) - len(answers),
        "degraded": sum(answer["degraded"] is not None for answer in answers),
    }


def saturate(target: Target, num_clients: int, seconds: float) -> float:
    """Returns the answers per second to clients that send a request after each answer."""

    async def run() -> int:
        client = _Client(target)
        end = time.perf_counter() + seconds

        async def ask_until_end(number: int) -> int:
            answered = 0
            while time.perf_counter() < end:
                status, _ = await client.ask(number + num_clients * answered)
                answered += status == 200
            return answered

        counts = await asyncio.gather(*(ask_until_end(number) for number in range(num_clients)))
        client.close()
        return sum(counts)

    return asyncio.run(run()) / seconds


def poisson(target: Target, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Sends `rate` requests per second on average, at the times of a Poisson process.

    Returns:
        `milliseconds` of the answered requests from their due time, and the numbers of requests
        that were `sent`, `failed` (no answer or an error), `refused` (429) and `degraded`.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 50)
    due = np.cumsum(gaps)
    due = due[due < seconds]
    found = asyncio.run(_send_all(target, due.tolist()))
    answered = [f for f in found if f[1] == 200]
    return {
        "rate": rate,
        "sent": len(found),
        "failed": sum(status not in (200, 429) for _, status, _ in found),
        "refused": sum(status == 429 for _, status, _ in found),
        "degraded": sum(is_degraded for _, _, is_degraded in answered),
        "milliseconds": [milliseconds for milliseconds, _, _ in answered],
    }


async def _send_all(target: Target, due: Sequence[float]) -> list[tuple[float, int, bool]]:
    client = _Client(target)
    started = time.perf_counter() + 0.1

    async def send(number: int, at: float) -> tuple[float, int, bool]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                status, body = await client.ask(number)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            status, body = 0, b""
        milliseconds = (time.perf_counter() - started - at) * 1000
        return milliseconds, status, b'"degraded":null' not in body

    tasks = []
    for number, at in enumerate(due):
        wait = started + at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(send(number, at)))
    found = await asyncio.gather(*tasks)
    client.close()
    return found
