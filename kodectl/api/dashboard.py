"""The dashboard at `/`: a page and its parts, as files of the package.

They say nothing about the node, so they are answered without the token; what the page shows it asks the API for, as any
other client does. The page runs what the node serves and nothing else: no script or style inline, none from elsewhere.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kodectl.api.routing import Call, Media, Route, Service
from kodectl.errors import LocalMisuse

FOLDER = Path(__file__).with_suffix("")
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text becomes markup nowhere in the page: a browser that knows trusted types holds it to that.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    # To be kept, and asked for again: it changes with the program only.
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def page(service: Service, call: Call) -> None:
    """The dashboard, a page for people.

    It needs no token; what it shows does."""
    _send(call, PAGE)


def part(service: Service, call: Call) -> None:
    """A script, style or picture of the dashboard."""
    _send(call, call.path["file"])


def _send(call: Call, name: str) -> None:
    found = files().get(name)
    if found is None:
        raise LocalMisuse(f"there is nothing at {call.request.path}", code="route_not_found")
    response = call.response
    for header, value in HEADERS.items():
        response.set_header(header, value)
    response.set_header("ETag", found.etag)
    if call.request.get_header("If-None-Match") == found.etag:
        response.status = 304
    else:
        response.content_type = found.media_type
        response.data = found.content


@cache
def files() -> dict[str, File]:
    """By name, read once."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[path.name] = File(content, MEDIA_TYPES[path.suffix], etag)
    return found


KEPT = {304: Media("", "The one that the client has.")}

ROUTES = (
    Route("GET", "/", page, {200: Media("text/html", "The page."), **KEPT}, needs_token=False),
    Route("GET", "/dashboard/{file}", part, {200: Media("*/*", "By its name."), **KEPT}, needs_token=False),
)
