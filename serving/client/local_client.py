"""Client that runs both stages in this process, with the methods of the HTTP client.

    with LocalClient("workdir/quickstart/bundle") as client:
        answer = client.recommend(user={"country": "CH"}, k=10)

For notebooks, batch jobs and tests. It verifies the bundle as a service does. Imports TensorFlow.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent import futures
from typing import Any, Self, TypeVar, Unpack

from serving import errors, orchestrator, releases, users
from serving.client import http_calls
from serving.config import OrchestratorConfig
from serving.ranker import LocalRanker
from serving.requests import (
    Answer,
    Event,
    EventFields,
    EventsAdded,
    Request,
    RequestFields,
    UserId,
    parse,
)

Result = TypeVar("Result")


class LocalClient:
    """Answers requests from a bundle; thread-safe.

    A forked process cannot use it, because its threads and those of TensorFlow are not forked.
    """

    def __init__(
        self,
        base: str | os.PathLike[str],
        *,
        version: int | None = None,
        config: OrchestratorConfig | None = None,
        user_store: str | None = None,
    ) -> None:
        """Loads and verifies a release.

        Args:
            base: Base directory of the bundles.
            version: Release version; None: the stable release.
            config: Options of the orchestrator; None: the defaults.
            user_store: Address of a user store, such as `sqlite:users.db`; None: no store.

        Raises:
            ValueError: The address of the user store is not valid.
            UserStoreError: The user store cannot be opened.
            BundleError: The release cannot be loaded.
            RankerError: The ranker cannot be loaded, or does not reproduce the probes.
        """
        self._release = releases.load(base, version)
        self._service: orchestrator.Orchestrator | None = None
        self._users: orchestrator.UserData | None = None
        self._loop = asyncio.new_event_loop()
        # A coroutine submitted to a stopped loop would never finish.
        self._lock = threading.Lock()
        self._closed = False
        self._process_id = os.getpid()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="local-client", daemon=True
        )
        self._thread.start()
        try:
            ranker = LocalRanker(self._release) if self._release.manifest.has_ranker else None
            if user_store is not None:
                self._users = orchestrator.UserData(users.open_store(user_store))
            self._service = orchestrator.Orchestrator(
                self._release, ranker, config, users=self._users
            )
            self._wait(self._service.verify_ranker(60.0))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and cancels the calls in flight.

        Does nothing in a forked process, which has no such threads.
        """
        if self._is_forked:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._release.close()

    def recommend(self, request: Request | None = None, **fields: Unpack[RequestFields]) -> Answer:
        """Returns the best ads for one request; see `client.Client.recommend` for the arguments.

        Raises:
            ClientRequestError: The request is refused.
            ClientOverloadedError: The request cannot be answered in time.
        """
        valid = http_calls.request_of(request, fields)
        return _with_role(valid, self._call(lambda service: service.recommend(valid)))

    def recommend_batch(self, requests: Iterable[Request | RequestFields]) -> list[Answer]:
        """Returns the answers to many requests, in the same order.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        batch = http_calls.requests_of(requests)
        answers = self._call(lambda service: service.recommend_batch(batch))
        return [_with_role(*pair) for pair in zip(batch, answers, strict=True)]

    def add_events(self, events: Iterable[Event | EventFields]) -> EventsAdded:
        """Adds events to the histories of users; see `client.Client.add_events` for the arguments.

        Raises:
            ClientRequestError: An event is refused.
            UserStoreError: The user store failed.
        """
        batch = http_calls.event_batch(events)
        return self._call(
            lambda service: orchestrator.EventIntake(_stored(service)).add(batch.events)
        )

    def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user; see `client.Client` for the arguments and errors."""

        async def write(service: orchestrator.Orchestrator) -> None:
            service.check_profile(user_id, profile)
            await _stored(service).set_profile(user_id, profile)

        self._call(write)

    def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""

        async def read(service: orchestrator.Orchestrator) -> dict[str, Any]:
            parse(UserId, {"user_id": user_id})
            return (await _stored(service).get(user_id)).to_json()

        return self._call(read)

    def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""

        async def delete(service: orchestrator.Orchestrator) -> bool:
            parse(UserId, {"user_id": user_id})
            return await _stored(service).delete(user_id)

        return self._call(delete)

    def bundle(self) -> dict[str, Any]:
        """Describes the served release."""
        return orchestrator.describe_release(self._open())

    def health(self) -> bool:
        """Returns whether the client is open."""
        return not self._closed and not self._is_forked

    def ready(self) -> bool:
        """Returns whether full answers are expected."""
        return self._open().not_ready is None

    def _call(
        self, method: Callable[[orchestrator.Orchestrator], Coroutine[Any, Any, Result]]
    ) -> Result:
        """Runs a call; raises the same errors for refusals as the HTTP client."""
        try:
            return self._wait(method(self._open()))
        except errors.InvalidRequestError as error:
            raise http_calls.refused(error) from error
        except errors.OverloadedError as error:
            raise errors.ClientOverloadedError(429, error.code, str(error)) from error
        except futures.CancelledError as error:
            raise errors.TfrecClientError("The client was closed before the answer.") from error

    @property
    def _is_forked(self) -> bool:
        return self._process_id != os.getpid()

    def _open(self) -> orchestrator.Orchestrator:
        if self._is_forked:
            raise errors.TfrecClientError(
                "The client belongs to the process that this one was forked from. Start "
                "processes with the method spawn, and create a client in each."
            )
        if self._service is None or self._closed:
            raise http_calls.closed()
        return self._service

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            if self._closed:
                coroutine.close()
                raise http_calls.closed()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    async def _end(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._service is not None:
            await self._service.close()
        if self._users is not None:
            await self._users.close()


def _with_role(request: Request, answer: Answer) -> Answer:
    """Returns the answer as a service without a canary would return it."""
    return answer if request.release is None else answer.model_copy(update={"release": "stable"})


def _stored(service: orchestrator.Orchestrator) -> orchestrator.UserData:
    if service.users is None:
        raise errors.TfrecClientError("The client has no user store. Create it with user_store.")
    return service.users
