"""What kinds of events there are: every type belongs to one topic, and both can be subscribed to."""

from __future__ import annotations

from collections.abc import Iterable

from kodectl.errors import LocalMisuse

TYPES_OF = {
    "node": ("ready", "stopping", "warning", "warning_over", "config_reloaded", "config_refused"),
    "peer": (
        "connecting",
        "connect_failed",
        "peer_connected",
        "peer_disconnected",
        "peer_banned",
        "peer_unbanned",
        "path_changed",
    ),
    "nat": ("nat_changed", "port_mapped", "port_mapping_lost", "port_mapping_failed"),
    "dht": ("joined", "isolated", "bootstrap_answered", "bootstrap_failed", "node_added", "node_removed"),
    "message": ("block", "transaction"),
}
TOPIC_OF = {type_: topic for topic, types in TYPES_OF.items() for type_ in types}
ALL_TYPES = frozenset(TOPIC_OF)


def types_of(names: Iterable[str]) -> frozenset[str]:
    """The event types that topics and types by these names stand for. Raises LocalMisuse (unknown_topic)."""
    wanted: set[str] = set()
    for name in names:
        if name in TYPES_OF:
            wanted.update(TYPES_OF[name])
        elif name in TOPIC_OF:
            wanted.add(name)
        else:
            raise LocalMisuse(
                f"there is no topic or event type {name!r}",
                code="unknown_topic",
                hint=f"topics are {', '.join(TYPES_OF)}; or name an event type, such as block or peer_connected",
            )
    return frozenset(wanted)
