"""The probes of orchestrators, and the request to leave.

A kubelet or a load balancer holds no token: it is told whether, and who has the token also why."""

from __future__ import annotations

from typing import Literal

import msgspec

from kodectl.api.routing import Call, Route, Service
from kodectl.api.views import StopView
from kodectl.node.views import HealthView

WITHHELD = "told to who has the token"
"""In place of a check's detail, which can name a path of this machine."""


def live(service: Service, call: Call) -> HealthView:
    """Whether the node's tasks run."""
    return probed(service, call, "live")


def ready(service: Service, call: Call) -> HealthView:
    """Whether the node takes part in the network."""
    return probed(service, call, "ready")


def startup(service: Service, call: Call) -> HealthView:
    """Whether the node has begun."""
    return probed(service, call, "startup")


def probed(service: Service, call: Call, probe: Literal["live", "ready", "startup"]) -> HealthView:
    """200 or 503, with the checks in the body either way."""
    health = service.node.health(probe)
    if not health.ok:
        call.response.status = 503
    return withheld(health) if call.request.env.get("kodectl.stranger") else health


def withheld(health: HealthView) -> HealthView:
    checks = [msgspec.structs.replace(check, detail=WITHHELD) for check in health.checks]
    return msgspec.structs.replace(health, checks=checks)


def stop(service: Service, call: Call) -> StopView:
    """Asks the node to leave. It says goodbye to its peers, saves, and ends."""
    service.stop()
    return StopView(stopping=True)


ROUTES = (
    Route("GET", "/livez", live, {200: HealthView, 503: HealthView}, needs_token=False),
    Route("GET", "/readyz", ready, {200: HealthView, 503: HealthView}, needs_token=False),
    Route("GET", "/startupz", startup, {200: HealthView, 503: HealthView}, needs_token=False),
    Route("POST", "/api/node/stop", stop, {202: StopView}),
)
