"""Client that runs both stages in this process, with the methods of the HTTP client.

    with LocalClient("workdir/quickstart/bundle") as client:
        answer = client.recommend(user={"country": "CH"}, k=10)

For notebooks, batch jobs and tests. It verifies the bundle as a service does. Imports TensorFlow.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent import futures
from typing import Any, Self, TypeVar

from serving import errors, orchestrator, releases, users
from serving.client import calls
from serving.config import OrchestratorConfig
from serving.ranker import LocalRanker
from serving.requests import Answer, Event, EventsAdded, Request, UserId

Result = TypeVar("Result")


class LocalClient:
    """Answers requests from a bundle; thread-safe. A forked process cannot use it."""

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
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            ranker = LocalRanker(self._release) if self._release.manifest.has_ranker else None
            if user_store is not None:
                self._users = orchestrator.UserData(users.open_store(user_store))
            self._service = orchestrator.Orchestrator(
                self._release, ranker, config, users=self._users
            )
            self._run(self._service.verify_ranker(60.0))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and cancels the calls in flight."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._release.close()

    def recommend(self, request: Request | None = None, **fields: Any) -> Answer:
        """Returns the best ads for one request; see `Client.recommend` for the arguments.

        Raises:
            ClientRequestError: The request is refused.
            ClientOverloadedError: The request cannot be answered in time.
        """
        valid = calls.request_of(request, fields)
        return _with_role(valid, self._run(self._open.recommend(valid)))

    def recommend_batch(
        self, requests: Iterable[Request | Mapping[str, Any]]
    ) -> list[Answer | errors.ClientStatusError]:
        """Returns the answer to each request, or its error, in the same order."""
        batch = calls.requests_of(requests)
        service = self._open
        outcomes = self._run(
            orchestrator.answer_each(service.recommend, batch, service.config.requests_per_call)
        )
        return [
            _with_role(request, outcome)
            if isinstance(outcome, Answer)
            else calls.error_of(outcome.code, str(outcome))
            for request, outcome in zip(batch, outcomes, strict=True)
        ]

    def add_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAdded:
        """Adds events, or their JSON objects, to the histories of users in the user store.

        Raises:
            ClientRequestError: An event is refused.
            UserStoreError: The user store failed.
        """
        batch = calls.event_batch(events)
        return self._run(orchestrator.EventIntake(self._stored).add(batch.events))

    def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user, raw query fields, in the user store."""
        try:
            self._open.check_profile(user_id, profile)
        except errors.InvalidRequestError as error:
            raise calls.error_of(error.code, str(error)) from error
        self._run(self._stored.set_profile(user_id, profile))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return self._run(self._stored.get(_known(user_id))).to_json()

    def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        return self._run(self._stored.delete(_known(user_id)))

    def bundle(self) -> dict[str, Any]:
        """Describes the served release."""
        return orchestrator.describe_release(self._open)

    def health(self) -> bool:
        """Returns whether the client is open."""
        return not self._is_closed

    def ready(self) -> bool:
        """Returns whether full answers are expected."""
        return self._open.not_ready is None

    @property
    def _open(self) -> orchestrator.Orchestrator:
        if self._service is None or self._is_closed:
            raise _closed()
        return self._service

    @property
    def _stored(self) -> orchestrator.UserData:
        if self._open.users is None:
            raise errors.TfrecClientError(
                "The client has no user store. Create it with user_store."
            )
        return self._open.users

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a call; raises the same errors for refusals as the HTTP client."""
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise _closed()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except (errors.InvalidRequestError, errors.OverloadedError) as error:
            raise calls.error_of(error.code, str(error)) from error
        except futures.CancelledError as error:
            raise errors.TfrecClientError("The client was closed before the answer.") from error

    async def _end(self) -> None:
        if self._users is not None:
            # Writes what its users were shown.
            await self._users.close()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._service is not None:
            await self._service.close()


def _closed() -> errors.TfrecClientError:
    return errors.TfrecClientError("The client is closed. Create another.")


def _known(user_id: str) -> str:
    return calls.parsed(UserId, {"user_id": user_id}).user_id


def _with_role(request: Request, answer: Answer) -> Answer:
    """Returns the answer as a service without a canary would return it."""
    return answer if request.release is None else answer.model_copy(update={"release": "stable"})
