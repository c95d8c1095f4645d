"""The studio: a page to use a served agent, watch its runs, decide about calls, fork runs, and compare them.

The page is plain HTML, CSS and ES modules in `page/`, as the browser runs them, without a build. It asks the
service that serves it and no other one, which its content policy enforces. Texts of models, tools and users become
text nodes, never markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

PAGE = Path(__file__).parent / "page"
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
ROOT, FILE = "/studio", "/studio/{name:path}"
"""Paths of the page, which needs no key: it holds nothing, and asks for a key itself."""


async def root(request: Request, owner: str) -> Response:
    """Redirect to the page's folder, against which its addresses are resolved."""
    return RedirectResponse(f"{request.url.path.rsplit('/', 1)[-1]}/")


async def file(request: Request, owner: str) -> Response:
    """Return the page, or a file of it."""
    path = FILES.get(request.path_params["name"] or "index.html")
    if path is None:
        return Response("the page has no such file\n", status_code=404, media_type="text/plain", headers=HEADERS)
    return FileResponse(path, headers=dict(HEADERS))


FILES: Mapping[str, Path] = {path.name: path for path in sorted(PAGE.iterdir())}
"""Files of the page by name; nothing else is served."""
