"""Errors as RFC 9457 problem details, with the codes and exit codes of `kodectl.errors`."""

from __future__ import annotations

import http

import msgspec

from kodectl.errors import (
    DeadlineReached,
    Degraded,
    EnvironmentFault,
    KodectlError,
    LocalMisuse,
    NegativeAnswer,
    NodeUnreachable,
    NotAuthorised,
    PeerFault,
)

PROBLEM_TYPE = "application/problem+json"

STATUS_OF_CODE = {
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "method_not_allowed": 405,
    "route_not_found": 404,
    "request_timeout": 408,
    "body_too_large": 413,
    "uri_too_long": 414,
    "media_type_not_supported": 415,
    "upgrade_required": 426,
    "headers_too_large": 431,
    "transfer_encoding_not_supported": 501,
    "busy": 503,
    "disk_full": 507,
}
"""Where the code says more about HTTP than the branch of the error tree does."""

STATUS_OF_BRANCH: tuple[tuple[type[KodectlError], int], ...] = (
    (LocalMisuse, 400),
    (NotAuthorised, 401),
    (NegativeAnswer, 404),
    (PeerFault, 502),
    (Degraded, 502),
    (NodeUnreachable, 503),
    (EnvironmentFault, 503),
    (DeadlineReached, 504),
)


class Problem(msgspec.Struct, frozen=True):
    type: str
    title: str
    status: int
    detail: str
    code: str
    exit: int
    hint: str | None


def problem_of(error: KodectlError) -> Problem:
    status = status_of(error)
    return Problem(
        type=f"urn:kodectl:error:{error.code}",
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        code=error.code,
        exit=int(error.exit),
        hint=error.hint,
    )


def status_of(error: KodectlError) -> int:
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    for branch, status in STATUS_OF_BRANCH:
        if isinstance(error, branch):
            return status
    return 500


def internal_fault() -> KodectlError:
    """What a client learns of a bug: that it is in the node's log."""
    return KodectlError("the node failed to answer; its log says why")


def encode(value: object) -> bytes:
    """JSON with a line end, for people who type curl."""
    return msgspec.json.encode(value) + b"\n"


def raw_response(error: KodectlError) -> bytes:
    """A whole HTTP response, for what fails before there is a request; the connection ends with it."""
    problem = problem_of(error)
    body = encode(problem)
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
