"""The routes and their guard, as a WSGI application over one node."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon
from falcon.request import Request
from falcon.response import Response

from kodectl.api.access import AccessRules, check_host, check_origin, check_token
from kodectl.api.counting import CountsAnswers
from kodectl.api.problems import PROBLEM_TYPE, encode, internal_fault, problem_of
from kodectl.api.requests import has_body
from kodectl.api.routes import ROUTES
from kodectl.api.routing import Service, add_routes
from kodectl.errors import KodectlError, LocalMisuse, NodeUnreachable
from kodectl.runtime.base import Stopped

if TYPE_CHECKING:
    from kodectl.node.node import Node

log = logging.getLogger("kodectl.api")

CODE_OF_STATUS = {
    400: "malformed_request",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    414: "uri_too_long",
    415: "media_type_not_supported",
}
"""Codes for what falcon itself refuses."""


def make_app(node: Node, guard: Guard, stop: Callable[[], None]) -> Any:
    """`stop` asks the process to leave; it does not wait."""
    service = Service(node, stop)
    middleware: list[Any] = [guard, CountsAnswers(service.answered)]
    app = falcon.App(middleware=middleware)
    app.add_error_handler(Exception, answer_bug)
    app.add_error_handler(falcon.HTTPError, answer_http_error)
    app.add_error_handler(KodectlError, answer_error)
    app.add_error_handler(Stopped, answer_stopped)
    add_routes(app, ROUTES, service)
    return app


OPEN_PATH = re.compile("|".join(re.sub(r"{\w+}", "[^/]+", route.path) for route in ROUTES if not route.needs_token))
BROWSER_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""On every answer: no page of another origin can take it for a script or a picture, or show it in a frame."""


class Guard:
    """What every request must satisfy before a route sees it. Other `rules` hold from the next request on."""

    def __init__(self, rules: AccessRules) -> None:
        self.rules = rules

    def process_request(self, request: Request, response: Response) -> None:
        environ = request.env
        response.set_headers(BROWSER_HEADERS)
        # The unix socket is guarded by its file mode, and no browser reaches it.
        if not environ.get("kodectl.unix"):
            host = environ.get("HTTP_HOST")
            check_host(self.rules, host)
            check_origin(
                environ.get("HTTP_ORIGIN"), host, environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_SEC_FETCH_MODE")
            )
            given = environ.get("HTTP_AUTHORIZATION")
            if given is None and OPEN_PATH.fullmatch(request.path):
                environ["kodectl.stranger"] = self.rules.token is not None
            else:
                check_token(self.rules, given)
        if has_body(environ):
            check_media_type(environ.get("CONTENT_TYPE"))


def check_media_type(content_type: str | None) -> None:
    """A browser sends JSON to another site only after asking, and it is never told yes."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise LocalMisuse(
            f"bodies are JSON, not {media_type or 'of no type'}",
            code="media_type_not_supported",
            hint="curl -H 'Content-Type: application/json'",
        )


def answer_error(request: Request, response: Response, error: KodectlError, params: dict[str, Any]) -> None:
    problem = problem_of(error)
    response.status = problem.status
    response.content_type = PROBLEM_TYPE
    response.data = encode(problem)
    if problem.status == 401:
        response.set_header("WWW-Authenticate", "Bearer")


def answer_http_error(request: Request, response: Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    code = CODE_OF_STATUS.get(error.status_code, "malformed_request")
    detail = error.description or f"{request.method} {request.path}: {error.title}".rstrip(": ")
    if code == "method_not_allowed":
        detail = f"{request.method} is not served on {request.path}"
    elif code == "route_not_found":
        detail = f"there is nothing at {request.path}"
    for name, value in dict(error.headers or {}).items():
        response.set_header(name, value)
    answer_error(request, response, LocalMisuse(detail, code=code), params)


def answer_stopped(request: Request, response: Response, error: Stopped, params: dict[str, Any]) -> None:
    answer_error(request, response, NodeUnreachable("the node is stopping", code="node_stopping"), params)


def answer_bug(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    answer_error(request, response, internal_fault(), params)
