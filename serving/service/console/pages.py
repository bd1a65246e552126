"""The web pages: `/console`, to try requests, and `/docs`, FastAPI's Swagger UI.

They contain no data. They call the REST routes with the token that the user enters.
"""

import importlib.resources
import pathlib
from typing import Any

import fastapi
from fastapi import responses, staticfiles
from fastapi.openapi import docs

_STATIC = pathlib.Path(__file__).parent / "static"
_SWAGGER = importlib.resources.files("fastapi_offline") / "static"
# Colors and type, as in the reports.
_BASE_CSS = importlib.resources.files("tfrecords") / "pages" / "templates" / "base.css"
# Only files and calls of this service, and pictures of ads; text cannot become code.
_POLICY = (
    "default-src 'none'; script-src 'self'{}; style-src 'self'{}; connect-src 'self'; "
    "img-src 'self' data: http: https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    # Values of ads cannot become markup.
    "content-security-policy": f"{_POLICY.format('', '')}; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Revalidated each time, so that old and new modules are not mixed after an upgrade.
    "cache-control": "no-cache",
}
# FastAPI's page starts Swagger UI by an inline script.
_INLINE = " 'unsafe-inline'"
_DOCS_HEADERS = {**_HEADERS, "content-security-policy": _POLICY.format(_INLINE, _INLINE)}


class _Files(staticfiles.StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> responses.Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


def add_routes(app: fastapi.FastAPI) -> None:
    """Adds the pages and their files to an application. URLs are relative, for path prefixes."""
    page = docs.get_swagger_ui_html(
        openapi_url="openapi.json",
        title="tfrec API",
        swagger_js_url="console/swagger/swagger-ui-bundle.js",
        swagger_css_url="console/swagger/swagger-ui.css",
        swagger_favicon_url="console/icon.svg",
        # Its validator is another host.
        swagger_ui_parameters={"validatorUrl": None},
    )

    @app.get("/", include_in_schema=False)
    async def start() -> responses.Response:
        return responses.RedirectResponse("console")

    @app.get("/docs", include_in_schema=False)
    async def api() -> responses.Response:
        return responses.HTMLResponse(page.body, headers=_DOCS_HEADERS)

    @app.get("/console", include_in_schema=False)
    async def console() -> responses.Response:
        return responses.FileResponse(_STATIC / "index.html", headers=_HEADERS)

    @app.get("/console/base.css", include_in_schema=False)
    async def base_css() -> responses.Response:
        return responses.FileResponse(str(_BASE_CSS), headers=_HEADERS)

    app.mount("/console/swagger", _Files(directory=str(_SWAGGER)))
    app.mount("/console", _Files(directory=_STATIC))
