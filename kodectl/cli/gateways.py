"""All the ways to find a router that maps ports, for whatever runs on a machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kodectl.core.mapping import Gateway, Method
from kodectl.node.natpmp import find_natpmp
from kodectl.node.pcp import find_pcp
from kodectl.runtime.base import Runtime
from kodectl.runtime.upnp import find_upnp


def gateway_finders(runtime: Runtime, pcp_nonce: bytes | None = None) -> dict[Method, Callable[[], Gateway]]:
    """`pcp_nonce`: see `find_pcp`."""
    return {
        Method.PCP: partial(find_pcp, runtime, pcp_nonce),
        Method.NATPMP: partial(find_natpmp, runtime),
        Method.UPNP: partial(find_upnp, runtime),
    }
