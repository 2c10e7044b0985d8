"""The probes of orchestrators, and the request to leave."""

from __future__ import annotations

from typing import Literal

from kodectl.api.routing import Call, Route, Service
from kodectl.api.views import StopView
from kodectl.node.views import HealthView


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
    return health


def stop(service: Service, call: Call) -> StopView:
    """Asks the node to leave. It says goodbye to its peers, saves, and ends."""
    service.stop()
    return StopView(stopping=True)


ROUTES = (
    Route("GET", "/livez", live, {200: HealthView, 503: HealthView}),
    Route("GET", "/readyz", ready, {200: HealthView, 503: HealthView}),
    Route("GET", "/startupz", startup, {200: HealthView, 503: HealthView}),
    Route("POST", "/api/node/stop", stop, {202: StopView}),
)
