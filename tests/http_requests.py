"""One request to a node's API, by nothing but the standard library."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPResponse
from typing import Any


def ask(node: Any, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """The answer and its body; `node` has its address as `api`."""
    connection = HTTPConnection(*node.api.split(":"), timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()
