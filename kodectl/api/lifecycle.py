"""The probes of orchestrators, and the request to leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from falcon.request import Request
from falcon.response import Response

from kodectl.api.problems import encode
from kodectl.api.views import StopView

if TYPE_CHECKING:
    from kodectl.node.node import Node

Probe = Literal["live", "ready", "startup"]


class ProbeResource:
    """200 or 503, with the checks in the body either way."""

    def __init__(self, node: Node, probe: Probe) -> None:
        self._node = node
        self._probe = probe

    def on_get(self, request: Request, response: Response) -> None:
        health = self._node.health(self._probe)
        response.status = 200 if health.ok else 503
        response.data = encode(health)


class StopResource:
    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def on_post(self, request: Request, response: Response) -> None:
        self._stop()
        response.status = 202
        response.data = encode(StopView(stopping=True))
