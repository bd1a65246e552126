"""The console: a page that tries requests on this service, served with its files from the package.

    /console          the page
    /console/NAME     its styles, modules and icon, all of `serving/console/`

The page has no data of its own: it asks the REST routes, with the token that its user gives it. It
loads nothing from elsewhere, and its content security policy lets nothing else be loaded or run.
"""

import hashlib
import importlib.resources
import mimetypes

import fastapi
import starlette.exceptions
from fastapi import responses

# Plain fetches of this service, own files, and no text that becomes markup or code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Asked anew each time, so that an upgrade mixes no old module with new ones.
    "cache-control": "no-cache",
}
_PAGE = "index.html"


class _File:
    """One file as it is answered."""

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        # The system's table of types may know other names for these.
        known = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        kind = known.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]
        self.media_type = kind or "application/octet-stream"
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def reply(self, http: fastapi.Request) -> responses.Response:
        headers = {**_HEADERS, "etag": self.tag}
        if http.headers.get("if-none-match") == self.tag:
            return responses.Response(status_code=304, headers=headers)
        return responses.Response(self.content, media_type=self.media_type, headers=headers)


def add_routes(app: fastapi.FastAPI) -> None:
    """Adds the page and its files to an application."""
    directory = importlib.resources.files("serving") / "console"
    files = {file.name: _File(file.name, file.read_bytes()) for file in directory.iterdir()}

    @app.get("/console", include_in_schema=False)
    async def page(http: fastapi.Request) -> responses.Response:
        return files[_PAGE].reply(http)

    @app.get("/console/{name:path}", include_in_schema=False)
    async def file(name: str, http: fastapi.Request) -> responses.Response:
        if not name:
            # Relative, for services behind a prefix.
            return responses.RedirectResponse("../console")
        if name not in files:
            raise starlette.exceptions.HTTPException(404, "Not Found")
        return files[name].reply(http)
