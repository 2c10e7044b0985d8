"""/api/events: what happened since an event number, waiting for the next one if need be (long poll)."""

from __future__ import annotations

import msgspec

from kodectl.api.requests import Parameter, one_of, seconds, whole_number
from kodectl.api.routing import Call, Limit, Route, Service
from kodectl.errors import LocalMisuse
from kodectl.node.events import without_payload
from kodectl.node.topics import ALL_TYPES, TOPIC_OF, TYPES_OF, types_of
from kodectl.node.views import EventsView

MAX_SEQ = 2**53 - 1
"""The last whole number that every JSON reader takes."""
POLL_TIMEOUT_S = 0.0
"""Without `timeout` the answer comes at once, as from any other GET."""
MAX_POLL_TIMEOUT_S = 60.0
PAGE = 500
"""Events in one answer, unless `limit` asks for fewer; some 150 kB without large payloads."""
POLLS = Limit("long polls", 32)
"""A quarter of the connections, so that they never shut out other requests."""
_NAME = f"(?:{'|'.join((*TYPES_OF, *TOPIC_OF))})"
TOPICS_TEXT = f"^(?:{_NAME}(?:,{_NAME})*)?$"
"""Described only: the node says which name is none."""
MAX_RUN = 40
"""Characters of a time."""


def events(service: Service, call: Call) -> EventsView:
    """What happened after an event number. With a timeout it waits for the first one."""
    found = _wait(service, call)
    if call.query["payloads"] == "no":
        return msgspec.structs.replace(found, events=[without_payload(event) for event in found.events])
    return found


def _wait(service: Service, call: Call) -> EventsView:
    query = call.query
    wanted = query["since"], query["timeout"], query["limit"], query["topics"], query["run"]
    connection = call.request.env.get("kodectl.connection")
    if connection is None or not query["timeout"]:
        return service.node.events.wait(*wanted)
    # Who goes away meanwhile (a page that is loaded again, a program that was stopped) gives its place to others at once.
    again = service.node.runtime.event()
    with connection.watched(again) as there:
        return service.node.events.wait(*wanted, again, there)


def _types(text: str) -> frozenset[str]:
    return types_of(name for name in text.split(",") if name)


def _run(text: str) -> str:
    if len(text) > MAX_RUN:
        raise LocalMisuse(f"run is what an answer said, at most {MAX_RUN} characters")
    return text


ROUTES = (
    Route(
        "GET",
        "/api/events",
        events,
        {200: EventsView},
        query=(
            whole_number("since", 0, 0, MAX_SEQ, "The number of the last event that is known; go on with `next`."),
            whole_number("limit", PAGE, 1, PAGE, "How many events at most."),
            seconds("timeout", POLL_TIMEOUT_S, MAX_POLL_TIMEOUT_S, "How long to wait for the first one."),
            Parameter(
                "topics",
                _types,
                ALL_TYPES,
                {"type": "string", "pattern": TOPICS_TEXT},
                "Topics (node, peer, nat, dht, message) or event types, with commas between; all if left out.",
            ),
            one_of("payloads", ("yes", "no"), "Whether messages come with what is in them; yes if left out."),
            Parameter(
                "run",
                _run,
                None,
                {"type": "string", "maxLength": MAX_RUN},
                "The `run` of an earlier answer: numbers of another run of the node are not taken for this one's.",
            ),
        ),
        problems={400: ("unknown_topic",)},
        limit=POLLS,
    ),
)
