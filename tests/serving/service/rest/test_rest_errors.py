"""Errors of the REST service."""

import asyncio

import fastapi
import httpx

from serving import requests
from serving.service.rest import rest_errors


def test_a_body_is_refused_by_the_model_of_its_route():
    app = fastapi.FastAPI()
    rest_errors.add_handlers(app, lambda request: None)

    @app.post("/v1/similar")
    async def similar(body: requests.UserId) -> None: ...

    async def post():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/v1/similar", json={"user_di": "u17"})

    error = asyncio.run(post()).json()["error"]
    assert error["message"] == (
        "request: unknown key 'user_di' (str). Did you mean 'user_id'? Keys: user_id."
    )
