"""Every route of the API. Imports no web framework: clients read the table too."""

from __future__ import annotations

from kodectl.api import dht, events, lifecycle, network, openapi
from kodectl.api.routing import Route

ROUTES: tuple[Route, ...] = (*network.ROUTES, *dht.ROUTES, *events.ROUTES, *lifecycle.ROUTES, *openapi.ROUTES)
