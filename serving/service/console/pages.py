"""The web pages of the service.

    /                 redirects to /console
    /console          console to try requests
    /docs             API reference from /openapi.json, with a form for each route
    /console/NAME     their styles, modules and icon: the files of `static/`, and the style sheet
                      that they share with the reports

The pages contain no data. They call the REST routes with the token that the user enters. Their
content security policy forbids loading anything except pictures of ads from other hosts.
"""

import hashlib
import importlib.resources
import mimetypes

import fastapi
import starlette.exceptions
from fastapi import responses

# Only files and calls of this service, and pictures of ads; text cannot become markup or code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' http: https:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Revalidated each time, so that old and new modules are not mixed after an upgrade.
    "cache-control": "no-cache",
}
PAGES = {"/console": "index.html", "/docs": "docs.html"}


class _File:
    """A file with its headers."""

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        # The system's table may have other types for these.
        known = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        kind = known.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]
        self.media_type = kind or "application/octet-stream"
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def reply(self, http: fastapi.Request) -> responses.Response:
        headers = {**_HEADERS, "etag": self.tag}
        if http.headers.get("if-none-match") == self.tag:
            return responses.Response(status_code=304, headers=headers)
        return responses.Response(self.content, media_type=self.media_type, headers=headers)


def add_routes(app: fastapi.FastAPI) -> None:
    """Adds the pages and their files to an application."""
    directory = importlib.resources.files("serving.service.console") / "static"
    shared = importlib.resources.files("tfrecords") / "pages" / "templates" / "base.css"
    files = {
        file.name: _File(file.name, file.read_bytes()) for file in (*directory.iterdir(), shared)
    }

    @app.get("/", include_in_schema=False)
    async def start() -> responses.Response:
        # Relative, for services behind a path prefix.
        return responses.RedirectResponse("console")

    for path, page in PAGES.items():
        app.get(path, include_in_schema=False)(files[page].reply)

    @app.get("/console/{name:path}", include_in_schema=False)
    async def file(name: str, http: fastapi.Request) -> responses.Response:
        if not name:
            return responses.RedirectResponse("../console")
        if name not in files:
            raise starlette.exceptions.HTTPException(404, "Not Found")
        return await files[name].reply(http)
