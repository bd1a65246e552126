"""The user routes of a service with a user store.

    POST   /v1/events          `requests.EventBatch` -> `requests.EventsAdded`
    GET    /v1/users/{id}      the stored data of a user
    PUT    /v1/users/{id}      `requests.UserProfile`: replaces the profile
    DELETE /v1/users/{id}      erases the user from the store

All of them can be retried after a failure.
"""

from typing import Annotated, Any

import fastapi
import pydantic

from serving import orchestrator, requests
from serving.impressions import FeedbackLog
from serving.service import release_router

# An id may contain a slash.
_USER_PATH = "/v1/users/{user_id:path}"
# The schema of `requests.UserId`, which checks ids with the service's messages.
_ID_SCHEMA = pydantic.WithJsonSchema(
    {"type": "string", "minLength": 1, "maxLength": requests.MAX_ID_LENGTH}
)


def add_refusals(app: fastapi.FastAPI) -> None:
    """Adds routes that explain why a service without a user store has no user routes."""

    async def refuse() -> None:
        raise fastapi.HTTPException(
            404, "this service has no user store; start it with --user_store"
        )

    for path in ("/v1/events", _USER_PATH):
        app.add_api_route(
            path, refuse, methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False
        )


async def _checked(
    user_id: Annotated[str, fastapi.Path(description="Id of the user."), _ID_SCHEMA],
) -> str:
    return requests.parse(requests.UserId, {"user_id": user_id}).user_id


_UserId = Annotated[str, fastapi.Depends(_checked)]


def add_routes(
    app: fastapi.FastAPI,
    router: release_router.ReleaseRouter,
    feedback: FeedbackLog | None,
) -> None:
    """Adds the routes."""
    data = router.stable.users
    assert data is not None
    events = orchestrator.EventIntake(data, feedback)

    @app.post("/v1/events")
    async def add_events(body: requests.EventBatch) -> requests.EventsAdded:
        """Adds actions and impressions to the histories of users.

        Events can be resent: events of a user with the same id count once.
        """
        return await events.add(body.events)

    @app.get(_USER_PATH)
    async def get_user(user_id: _UserId) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return (await data.get(user_id)).to_json()

    @app.put(_USER_PATH)
    async def set_profile(user_id: _UserId, body: requests.UserProfile) -> requests.UserProfile:
        """Replaces the profile of a user."""
        router.stable.check_profile(user_id, body.profile)
        await data.set_profile(user_id, body.profile)
        return body

    @app.delete(_USER_PATH)
    async def delete_user(user_id: _UserId) -> requests.UserDeleted:
        """Erases a user from the user store.

        The impression log and the log of events are not changed.
        """
        return requests.UserDeleted(deleted=await data.delete(user_id))
