"""/openapi.json: the routes and the types of their bodies and answers as an OpenAPI 3.1 document.

Nothing in it is written by hand but what every route has in common: the rest is the table of `kodectl.api.routes`."""

from __future__ import annotations

import hashlib
import http
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec

from kodectl import __version__
from kodectl.api.problems import PROBLEM_TYPE, Problem
from kodectl.api.requests import Parameter
from kodectl.api.routing import Call, Media, Route, Service, told
from kodectl.api.schemas import complete_schemas, schemas

JSON_TYPE = "application/json"
REF = "#/components/schemas/{name}"

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "peer_id": {
        "description": "A node id, or the first 8 or more digits of a connected peer's.",
        "schema": {"type": "string", "pattern": "^[0-9a-fA-F]{8,64}$"},
    },
    "node_id": {
        "description": "A whole node id.",
        "schema": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
    },
    "file": {
        "description": "As the page names them.",
        "schema": {"type": "string", "pattern": r"^[a-z_]+\.(css|js|svg)$"},
    },
    "key": {
        "description": "Any text without a slash.",
        "schema": {"type": "string", "pattern": "^[^/]+$"},
    },
}
"""What may stand in a path, by its name there."""

COMMON_PROBLEMS: dict[int, tuple[str, ...]] = {
    400: ("usage", "malformed_request"),
    401: ("not_authorised",),
    403: ("host_not_allowed", "origin_not_allowed"),
    408: ("request_timeout",),
    414: ("uri_too_long",),
    415: ("media_type_not_supported",),
    431: ("headers_too_large",),
    500: ("internal_error",),
    501: ("transfer_encoding_not_supported",),
    503: ("busy", "node_stopping"),
}
"""What any route may answer, by status: the server and the guard before it refuse these."""
BODY_PROBLEMS = {400: ("malformed_body", "incomplete_body"), 413: ("body_too_large",)}
PATH_PROBLEMS = {404: ("route_not_found",)}
"""A parameter that holds a slash makes the path another one."""

DESCRIPTION = """\
A KodeChain node. On TCP `Host` must be a loopback address, `localhost` or a configured name, and a foreign `Origin` is
refused. Durations are floats in `_ms` or `_s`, ids are whole, times are RFC 3339 in UTC, unknown is null. Fields may be
added; ignore those you do not know. Errors are RFC 9457 problem details; `kodectl explain CODE` explains their codes."""


class Description(NamedTuple):
    content: bytes
    etag: str


def openapi(service: Service, call: Call) -> None:
    """This document."""
    found = description()
    response = call.response
    response.set_header("ETag", found.etag)
    # To be kept, and asked for again: it changes with the program only.
    response.set_header("Cache-Control", "no-cache")
    if call.request.get_header("If-None-Match") == found.etag:
        response.status = 304
    else:
        response.data = found.content


@cache
def description() -> Description:
    from kodectl.api.routes import ROUTES

    content = msgspec.json.encode(document(ROUTES)) + b"\n"
    return Description(content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    routes = list(routes)
    answers = [shape for route in routes for shape in route.answers.values() if not isinstance(shape, Media)]
    bodies = [route.body for route in routes if route.body is not None]
    references, components = schemas([Problem, *answers, *bodies], REF)
    reference_of = dict(zip([Problem, *answers, *bodies], references, strict=True))
    components |= complete_schemas(answers, REF)[1]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        entry = paths.setdefault(route.path, {"parameters": path_parameters(route.path)})
        entry[route.method.lower()] = operation(route, reference_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kodectl",
            "version": __version__,
            "summary": "Operate a node of the KodeChain peer-to-peer network.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The node that served this document."}],
        "paths": {path: {name: value for name, value in entry.items() if value} for path, entry in paths.items()},
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Asked where the API is not on loopback, or with `--api-token required`.",
                }
            },
        },
        "security": [{}, {"token": []}],
    }


def operation(route: Route, reference_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    summary, rest = told(route)
    described: dict[str, Any] = {
        "operationId": f"{subject(route)}.{route.answer.__name__}",
        "tags": [subject(route)],
        "summary": summary,
    }
    if rest:
        described["description"] = rest
    if route.query:
        described["parameters"] = [query_parameter(parameter) for parameter in route.query]
    if route.body is not None:
        needed = any(field.required for field in msgspec.structs.fields(route.body))
        described["requestBody"] = {"required": needed, "content": content_of(reference_of[route.body])}
    if not route.needs_token:
        described["security"] = []
    described["responses"] = responses(route, reference_of)
    return described


def subject(route: Route) -> str:
    """The module that answers it."""
    return route.answer.__module__.rpartition(".")[2]


def query_parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": False,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]} for name in names]


def responses(route: Route, reference_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    found: dict[int, dict[str, Any]] = {}
    for status, shape in route.answers.items():
        if isinstance(shape, Media):
            found[status] = {"description": shape.description}
            if shape.media_type:
                found[status]["content"] = {shape.media_type: {}}
        else:
            found[status] = {"description": phrase(status), "content": content_of(reference_of[shape])}
    for status, codes in sorted(problems_of(route).items()):
        entry = found.setdefault(status, {"description": phrase(status)})
        entry.setdefault("content", {})[PROBLEM_TYPE] = {"schema": problem_schema(codes)}
        entry["description"] += f": {', '.join(codes)}"
    return {str(status): found[status] for status in sorted(found)}


def problems_of(route: Route) -> dict[int, list[str]]:
    """Every code that the route may answer, by status."""
    sources = [COMMON_PROBLEMS, route.problems]
    if route.body is not None:
        sources.append(BODY_PROBLEMS)
    if "{" in route.path:
        sources.append(PATH_PROBLEMS)
    found: dict[int, list[str]] = {}
    for source in sources:
        for status, codes in source.items():
            found.setdefault(status, []).extend(code for code in codes if code not in found.get(status, ()))
    return found


def problem_schema(codes: list[str]) -> dict[str, Any]:
    return {"allOf": [{"$ref": REF.format(name="Problem")}, {"properties": {"code": {"enum": codes}}}]}


def content_of(reference: dict[str, Any]) -> dict[str, Any]:
    return {JSON_TYPE: {"schema": reference}}


def phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase


ROUTES = (
    Route(
        "GET",
        "/openapi.json",
        openapi,
        {200: Media(JSON_TYPE, "An OpenAPI 3.1 document."), 304: Media("", "The one that the client has.")},
    ),
)
