"""Clients of the replicas behind an address, which may be a list or a name in DNS."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable

from serving import errors, releases
from serving.ranker import ranker_client

_logger = logging.getLogger(__name__)
_DNS = "dns:///"
# Targets of gRPC, which calls one of their servers, and the next one after that has ended.
_TARGETS = ("ipv4:", "ipv6:", "unix:")
# Time between two lookups of a name. CoreDNS caches the addresses of a service for 5 s.
_RESOLVE_SECONDS = 5.0
# The same after a call has failed, because the server may have moved.
_RESOLVE_AFTER_FAILURE_SECONDS = 1.0
# Time for the calls in flight to a server that has left DNS.
_LEAVE_SECONDS = 10.0

Resolve = Callable[[str, str], Awaitable[list[str]]]


def split_address(address: str) -> list[str]:
    """Returns the parts of an address: `HOST:PORT`, `dns:///NAME:PORT` or a target of gRPC.

    Args:
        address: One part, or several separated by commas.

    Raises:
        ValueError: A part is empty, has no port, or appears twice.
    """
    if address.startswith(_TARGETS):
        return [address]
    parts = [part.strip() for part in address.split(",")]
    for part in parts:
        host, _, port = part.removeprefix(_DNS).rpartition(":")
        # gRPC takes ::1:8500 for an IPv6 address without a port.
        is_host = host and "/" not in host and (host.count(":") < 2 or host.endswith("]"))
        if not is_host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(
                f"The address of the model server has {part!r}; expected HOST:PORT of its gRPC "
                "server, several separated by commas, or dns:///NAME:PORT; an IPv6 address is in "
                "brackets."
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"The address names a server twice: {address}. Name each once.")
    return parts


async def resolve(host: str, port: str) -> list[str]:
    """Returns `IP:PORT` of each address of a host, in order.

    Raises:
        OSError: The name cannot be resolved.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is not the name of a host ({error})") from error
    return sorted({_joined(str(address[0]), port) for *_, address in found})


async def find_servers(address: str) -> list[str]:
    """Returns `HOST:PORT` of each server behind an address.

    Args:
        address: Parts as for `split_address`.

    Raises:
        ValueError: The address is not valid.
        OSError: A name cannot be resolved.
    """
    found = []
    for part in split_address(address):
        name, _, port = part.removeprefix(_DNS).rpartition(":")
        found += await resolve(name.strip("[]"), port) if part.startswith(_DNS) else [part]
    return list(dict.fromkeys(found))


class Endpoints:
    """One client for each server behind an address. Use it from one event loop.

    Names in DNS are looked up again while calls are made. If a lookup fails, the known servers
    remain.

    Args:
        address: Parts as for `split_address`.
        version: Release version.
        outputs: Output names of the ranker.
        lookup: Returns the servers of a host and a port, for `dns:///`.
        clock: Monotonic clock in seconds, for the time between lookups.

    Attributes:
        clients: Client of each known server, by `host:port`.
        problem: Why the names cannot be resolved, or None.
    """

    def __init__(
        self,
        address: str,
        *,
        version: int,
        outputs: Iterable[str],
        lookup: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.version = version
        self.clients: dict[str, ranker_client.RankerClient] = {}
        self.problem: str | None = None
        self._outputs = tuple(outputs)
        self._lookup = lookup
        self._clock = clock
        parts = split_address(address)
        self._fixed = [part for part in parts if not part.startswith(_DNS)]
        self._names = [part.removeprefix(_DNS) for part in parts if part.startswith(_DNS)]
        self._resolving: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._next_lookup = clock()
        self._use(self._fixed)

    async def refresh(self, timeout_seconds: float, failed: bool = False) -> None:
        """Looks up the names if the next lookup is due; waits only while no server is known.

        Args:
            timeout_seconds: Time to wait; the lookup continues after it.
            failed: Whether a server has become unavailable since the last call.
        """
        if not self._names:
            return
        now = self._clock()
        if failed:
            soon = self._next_lookup - _RESOLVE_SECONDS + _RESOLVE_AFTER_FAILURE_SECONDS
            self._next_lookup = min(self._next_lookup, max(soon, now))
        task = self._resolving
        if task is not None and (task.done() or task.get_loop() is not asyncio.get_running_loop()):
            task = None
        if task is None and now >= self._next_lookup:
            self._next_lookup = now + _RESOLVE_SECONDS
            task = self._resolving = asyncio.get_running_loop().create_task(self._look_up())
        if task is not None and not self.clients:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await asyncio.shield(task)
            except TimeoutError:
                self.problem = f"{self.address} was not resolved in {timeout_seconds:.3g} s."

    async def close(self) -> None:
        """Closes the connections."""
        for task in (self._resolving, *self._leaving):
            if task is not None and task.get_loop() is asyncio.get_running_loop():
                task.cancel()
        for client in self.clients.values():
            await client.close()

    async def _look_up(self) -> None:
        found = list(self._fixed)
        try:
            for name in self._names:
                host, _, port = name.rpartition(":")
                found += await self._lookup(host.strip("[]"), port)
        except OSError as error:
            problem = f"{self.address} cannot be resolved: {error}."
            if problem != self.problem:
                _logger.warning("%s The known rankers remain: %s", problem, list(self.clients))
            self.problem = problem
            return
        self.problem = None
        for client in self._use(found):
            # A server leaves DNS before it ends, and still answers the calls in flight.
            task = asyncio.get_running_loop().create_task(client.close(_LEAVE_SECONDS))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _use(self, addresses: list[str]) -> list[ranker_client.RankerClient]:
        """Replaces the known servers, and returns the clients of the removed ones."""
        removed = [client for address, client in self.clients.items() if address not in addresses]
        if self.clients and (removed or len(set(addresses)) != len(self.clients)):
            _logger.warning("Rankers behind %s: %s", self.address, ", ".join(addresses))
        self.clients = {
            address: self.clients.get(address)
            or ranker_client.RankerClient(address, version=self.version, outputs=self._outputs)
            for address in dict.fromkeys(addresses)
        }
        return removed


def connect(
    release: releases.Bundle, address: str
) -> ranker_client.RankerClient | Endpoints | None:
    """Returns a client for the ranker of a release, or None if it has none.

    Args:
        release: Loaded release.
        address: host:port of the model server, several separated by commas, or `dns:///NAME:PORT`,
            whose addresses are all used.

    Raises:
        ValueError: The address is not valid.
    """
    if not release.manifest.has_ranker:
        return None
    outputs = release.manifest.outputs.values()
    if len(split_address(address)) > 1 or address.startswith(_DNS):
        return Endpoints(address, version=release.version, outputs=outputs)
    return ranker_client.RankerClient(address, version=release.version, outputs=outputs)


def unresolved(endpoints: Endpoints) -> errors.RankerUnavailableError:
    """Returns the error of a call while no server is known."""
    return errors.RankerUnavailableError(
        endpoints.problem or f"{endpoints.address} resolves to no server."
    )


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
