"""The routes of users, which a service with a user store has.

    POST   /v1/events          `requests.EventBatch` -> `requests.EventsAdded`
    GET    /v1/users/{id}      what the store knows of a user
    PUT    /v1/users/{id}      `requests.UserProfile`: replaces the profile
    DELETE /v1/users/{id}      erases the user from the store

Each can be sent again after a failure.
"""

from typing import Any

import fastapi

from serving import orchestrator, requests
from serving.impressions import FeedbackLog
from serving.service import release_router
from serving.service.rest.openapi import refusals

# An id may contain a slash.
_USER_PATH = "/v1/users/{user_id:path}"


def add_routes(
    app: fastapi.FastAPI,
    router: release_router.ReleaseRouter,
    feedback: FeedbackLog | None,
) -> None:
    """Adds the routes.

    Args:
        app: Application.
        router: Releases, whose orchestrators share a user store.
        feedback: Log of events that are feedback to answers. None: no log.
    """
    data = router.stable.users
    assert data is not None
    events = orchestrator.EventIntake(data, feedback)
    described: dict[str, Any] = {"responses": refusals(400, 401, 408, 413, 415, 422, 500, 503)}

    @app.post("/v1/events", **described)
    async def add_events(body: requests.EventBatch) -> requests.EventsAdded:
        """Adds what users did, and were shown, to their histories.

        Events can be sent again: those of a user with the same id are one event.
        """
        return await events.add(body.events)

    @app.get(_USER_PATH, responses=refusals(400, 401, 500, 503))
    async def user(user_id: str) -> dict[str, Any]:
        """What the user store knows of a user: profile, actions and impressions."""
        return (await data.get(_checked(user_id))).to_json()

    @app.put(_USER_PATH, **described)
    async def set_profile(user_id: str, body: requests.UserProfile) -> requests.UserProfile:
        """Replaces the profile of a user."""
        named = {"user_id": user_id, "user": body.profile}
        router.stable.check(requests.parse(requests.Request, named))
        await data.set_profile(user_id, body.profile)
        return body

    @app.delete(_USER_PATH, responses=refusals(400, 401, 500, 503))
    async def delete(user_id: str) -> requests.UserDeleted:
        """Erases a user from the user store.

        The impression log and the log of events keep what they have.
        """
        return requests.UserDeleted(deleted=await data.delete(_checked(user_id)))


def _checked(user_id: str) -> str:
    """Returns the id of a user; raises `InvalidRequestError` if no request can have it."""
    requests.parse(requests.Request, {"user_id": user_id})
    return user_id
