"""The user routes of a service with a user store.

    POST   /v1/events          `requests.EventBatch` -> `requests.EventsAdded`
    GET    /v1/users/{id}      the stored data of a user
    PUT    /v1/users/{id}      `requests.UserProfile`: replaces the profile
    DELETE /v1/users/{id}      erases the user from the store

All of them can be retried after a failure.
"""

import urllib.parse
from typing import Annotated

import fastapi
import pydantic
from fastapi import responses
from starlette import convertors

from serving import errors, orchestrator, requests
from serving.impressions import FeedbackLog
from serving.service import release_router
from serving.service.rest import schemas


class _AnyText(convertors.PathConvertor):
    """Text with any characters, unlike Starlette's own paths, which end at a line break."""

    regex = r"[\s\S]*"


convertors.register_url_convertor("any_text", _AnyText())
# An id may contain a slash and a line break.
_USER_PATH = "/v1/users/{user_id:any_text}"
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
    http: fastapi.Request,
    user_id: Annotated[str, fastapi.Path(description="Id of the user."), _ID_SCHEMA],
) -> str:
    """Returns the id of a user; raises `InvalidRequestError` if no request can have it."""
    path: str = http.scope["raw_path"].decode("latin-1")
    try:
        # The server replaces invalid UTF-8, so several ids would become one.
        urllib.parse.unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise errors.InvalidRequestError(
            f"user_id: expected percent-encoded UTF-8 in the path, got {path!r}."
        ) from error
    requests.parse(requests.UserId, {"user_id": user_id})
    return user_id


_UserId = Annotated[str, fastapi.Depends(_checked)]


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

    @app.post("/v1/events")
    async def add_events(body: requests.EventBatch) -> requests.EventsAdded:
        """Adds actions and impressions to the histories of users.

        Events can be resent: events of a user with the same id count once.
        """
        return await events.add(body.events)

    @app.get(_USER_PATH, response_model=schemas.UserBody)
    async def get_user(user_id: _UserId) -> responses.Response:
        """Returns the stored data of a user: profile, actions and impressions."""
        return responses.JSONResponse((await data.get(user_id)).to_json())

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
