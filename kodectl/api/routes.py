"""Every route of the API. Imports no web framework: clients read the table too."""

from __future__ import annotations

from kodectl.api import dashboard, dht, events, lifecycle, metrics, network, openapi, websocket
from kodectl.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *network.ROUTES,
    *dht.ROUTES,
    *events.ROUTES,
    *websocket.ROUTES,
    *lifecycle.ROUTES,
    *openapi.ROUTES,
    *metrics.ROUTES,
    *dashboard.ROUTES,
)
