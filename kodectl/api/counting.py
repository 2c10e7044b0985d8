"""How often which route was answered how."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import falcon

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
OTHER = "other"
"""A method or path that the API does not know: clients can make up any number of them."""

Answered = Counter[tuple[str, str, int]]
"""By method, route and status."""


class CountsAnswers:
    """A falcon middleware."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: Any, succeeded: bool
    ) -> None:
        method = request.method if request.method in METHODS else OTHER
        self._answered[method, request.uri_template or OTHER, response.status_code] += 1
