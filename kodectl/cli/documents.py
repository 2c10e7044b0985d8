"""What each command prints under --json and --jsonl, as JSON Schema: `kodectl COMMAND --schema`.

`DOCUMENTS` has every command of the tree. Most print a view, which is named here as `module:Name` and imported when its
schema is asked for. What light commands print, which start without msgspec, is described by a Struct of this module."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

import msgspec

from kodectl.api.schemas import complete_schemas
from kodectl.cli.configuration import SETTINGS
from kodectl.cli.output import SCHEMA_VERSION
from kodectl.errors import ExitCode

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/{name}"


class Key(msgspec.Struct):
    """A key file. `mode`: its permissions, octal."""

    id: str
    public_key: str
    file: str
    encrypted: bool
    mode: str


class RevealedKey(Key):
    """With --reveal."""

    seed: str


class KeyId(msgspec.Struct):
    id: str


class OwnEnode(msgspec.Struct):
    """`ip_source`: who told the address."""

    enode: str
    id: str
    ip: str
    ip_source: Literal["option", "node", "stun", "default_route"]
    tcp: int
    udp: int


class ParsedEnode(msgspec.Struct):
    """One text, taken apart; with `enode` null it cannot be read, and `problems` says why. `id` as written: 64 or 128 hex
    digits."""

    input: str
    enode: str | None
    id: str | None
    node_id: str | None
    host: str | None
    ip: str | None
    scope: str | None
    tcp: int | None
    udp: int | None
    udp_source: Literal["discport", "tcp_port"] | None
    problems: list[str]


class ParsedEnodes(msgspec.Struct):
    enodes: list[ParsedEnode]
    count: int


class Gap(msgspec.Struct):
    """Events that are gone before they were read; null: not known how many, the node has been restarted."""

    type: Literal["gap"]
    missed: int | None


class ConnectLine(msgspec.Struct):
    """One of several targets; `outcome` as of a single one, or `bad_target`."""

    target: str
    outcome: str
    id: str | None
    detail: str | None


class Waited(msgspec.Struct):
    condition: str
    waited_s: float


class Ticket(msgspec.Struct):
    """One side of an ICE connection; candidates as RFC 8839 writes them."""

    ufrag: str
    pwd: str
    candidates: list[str]


class Punched(msgspec.Struct):
    event: Literal["connected"]
    local: str
    remote: str
    local_type: str
    remote_type: str
    role: Literal["controlling", "controlled"]
    path: Literal["direct", "relay"]
    ms: float


class Exchanged(msgspec.Struct):
    """How many pings came back."""

    event: Literal["done", "summary"]
    echoed: int
    rtt_ms_median: float | None


class NotPunched(msgspec.Struct):
    event: Literal["failed"]
    why: str


class ServerReady(msgspec.Struct):
    """Where a STUN and TURN server listens. `other_address` is that of RFC 5780."""

    type: Literal["ready"]
    udp: list[str]
    tcp: list[str]
    other_address: str | None
    relay_ips: list[str]


class ServerSummary(msgspec.Struct):
    """What a STUN and TURN server has done; `turn` is null without users."""

    type: Literal["summary"]
    answered: int
    refused: int
    over_rate: int
    malformed: int
    connections: int
    connections_refused: int
    turn: dict[str, int] | None


class CheckedConfiguration(msgspec.Struct):
    """`given`: how many settings have another source than their default."""

    file: str | None
    given: int
    settings: int


class NewConfiguration(msgspec.Struct):
    """`file` is null with --stdout."""

    file: str | None
    content: str


Value = str | int | bool | list[str]


class Origin(msgspec.Struct):
    """With --origin. `origin` is `default`, a variable, or a file."""

    value: Value
    origin: str


Configured = msgspec.defstruct("Configured", [(setting.key, Value | Origin) for setting in SETTINGS])
"""Every setting by its key."""


class Explained(msgspec.Struct):
    """`subject`: what the code is about. `command`: what to type, if there is one."""

    code: str
    subject: str
    cause: str
    recognised: str
    mend: str
    command: str | None


class AllExplained(msgspec.Struct):
    codes: list[Explained]
    count: int


class ExitMeaning(msgspec.Struct):
    exit: int
    name: str
    meaning: str


class ExitMeanings(msgspec.Struct):
    exit_codes: list[ExitMeaning]


class ApiAnswer(msgspec.Struct):
    """Of one request. `body` is what the JSON says, text where it is none, null where there is nothing."""

    method: str
    path: str
    status: int
    content_type: str
    body: object


class ApiRoute(msgspec.Struct):
    method: str
    path: str
    summary: str


class ApiRoutes(msgspec.Struct):
    """With --list."""

    routes: list[ApiRoute]
    count: int


class Script(msgspec.Struct):
    shell: str
    script: str


class Page(msgspec.Struct):
    """A manual page, in roff."""

    name: str
    page: str


class With(NamedTuple):
    """A view with one more field, whose value tells it from the others of a stream."""

    field: str
    value: str
    view: Any


class Documents(NamedTuple):
    """`data` is what can stand in the document's `data`, and in the `details` of its error; `lines`, where they are
    others, what can in each document of --jsonl; `bare` are lines without an envelope."""

    data: tuple[Any, ...]
    lines: tuple[Any, ...] = ()
    bare: tuple[Any, ...] = ()


VIEWS = "kodectl.node.views:"
DOCTOR = "kodectl.node.doctor_views:"
EVENTS = (f"{VIEWS}EventView", Gap)

DOCUMENTS: dict[str, Documents] = {
    "node.run": Documents(("kodectl.cli.serving:ReadyView", *EVENTS)),
    "node.status": Documents((f"{VIEWS}StatusView",)),
    "node.stop": Documents(("kodectl.api.views:StopView",)),
    "node.wait": Documents((Waited,)),
    "node.health": Documents((f"{VIEWS}HealthView",)),
    "node.peers": Documents((f"{VIEWS}PeersView",), (f"{VIEWS}PeerView",)),
    "node.connect": Documents((f"{VIEWS}ConnectView", ConnectLine)),
    "node.disconnect": Documents((f"{VIEWS}DisconnectView",)),
    "node.ban": Documents((f"{VIEWS}BanView",)),
    "node.unban": Documents((f"{VIEWS}BanView",)),
    "node.stats": Documents((f"{VIEWS}StatsView",)),
    "node.latency": Documents((f"{VIEWS}LatencyView",), (f"{VIEWS}LatencyEntry",)),
    "node.bootstrap": Documents((f"{VIEWS}BootstrapView",), (f"{VIEWS}BootstrapEntry",)),
    "node.rediscover": Documents((f"{VIEWS}RediscoverView",)),
    "node.table": Documents((f"{VIEWS}TableView",), (f"{VIEWS}BucketView",)),
    "node.broadcast": Documents((f"{VIEWS}BroadcastView",)),
    "node.events": Documents(EVENTS),
    "node.top": Documents(("kodectl.cli.node_top_look:TopView",)),
    "key.gen": Documents((Key,)),
    "key.show": Documents((Key, RevealedKey)),
    "key.id": Documents((KeyId,)),
    "key.passwd": Documents((Key,)),
    "enode.gen": Documents((OwnEnode,)),
    "enode.parse": Documents((ParsedEnode, ParsedEnodes), (ParsedEnode,)),
    "enode.verify": Documents(("kodectl.node.errands:VerifyView",)),
    "nat.probe": Documents(("kodectl.node.probe_views:ProbeView",)),
    "nat.watch": Documents(("kodectl.node.probe_watching:WatchView",)),
    "nat.map": Documents(
        (
            "kodectl.node.mapping_views:MapView",
            With("event", "mapped", "kodectl.node.mapping_views:MapView"),
            "kodectl.node.mapping_views:KeptEvent",
        )
    ),
    "nat.mappings": Documents(("kodectl.node.mapping_views:ListView",), ("kodectl.node.mapping_views:MappingView",)),
    "nat.unmap": Documents(("kodectl.node.mapping_views:UnmapView",), ("kodectl.node.mapping_views:UnmappedView",)),
    "nat.punch": Documents((Exchanged, NotPunched), bare=(Ticket, Punched, Exchanged, NotPunched)),
    "nat.serve": Documents((ServerReady, ServerSummary)),
    "peer.ping": Documents(
        (
            With("event", "pong", "kodectl.node.pinging:PongView"),
            With("event", "summary", "kodectl.node.pinging:PingView"),
        )
    ),
    "dht.find-node": Documents((f"{VIEWS}LookupView",), (f"{VIEWS}HopView", f"{VIEWS}ContactView")),
    "dht.put": Documents((f"{VIEWS}PutView",)),
    "dht.get": Documents((f"{VIEWS}ValueView",), (f"{VIEWS}RecordView",)),
    "dht.crawl": Documents(("kodectl.node.crawl_views:CrawledNode", "kodectl.node.crawl_views:CrawlView")),
    "sim": Documents(("kodectl.sim.report:SimReport",)),
    "config.show": Documents((Configured,)),
    "config.check": Documents((CheckedConfiguration,)),
    "config.init": Documents((NewConfiguration,)),
    "api": Documents((ApiAnswer, ApiRoutes), (ApiAnswer, ApiRoute)),
    "doctor": Documents(
        (f"{DOCTOR}DoctorView", f"{DOCTOR}VerdictView", f"{DOCTOR}CheckList"),
        (f"{DOCTOR}FindingView", f"{DOCTOR}VerdictView", f"{DOCTOR}CheckAbout"),
    ),
    "explain": Documents((Explained, AllExplained, ExitMeanings), (Explained, ExitMeaning)),
    "completion": Documents((Script,)),
    "man": Documents((Page,)),
}


def schema_of(command: str, *, lines: bool) -> dict[str, Any]:
    """JSON Schema of one document of `command`; with `lines` of one of its lines under --jsonl."""
    documents = DOCUMENTS[command]
    data = [shape_of(name) for name in (documents.lines if lines and documents.lines else documents.data)]
    details = [shape_of(name) for name in documents.data]
    bare = [shape_of(name) for name in documents.bare]
    references, definitions = complete_schemas([*data, *details, *bare], REF)
    of_data, of_details = references[: len(data)], references[len(data) : len(data) + len(details)]
    identifier = f"kodectl.{command}/{SCHEMA_VERSION}"
    return {
        "$schema": DIALECT,
        "$id": f"urn:kodectl:schema:{identifier}",
        "title": identifier,
        "oneOf": [
            envelope(identifier, True, "data", one_of(of_data)),
            envelope(identifier, False, "error", {"$ref": REF.format(name="Error")}),
            *references[len(data) + len(details) :],
        ],
        "$defs": {
            **definitions,
            "Error": error_schema(one_of(of_details)),
            "Warning": object_schema({"code": TEXT, "message": TEXT, "hint": TEXT_OR_NULL}),
        },
    }


TEXT: dict[str, Any] = {"type": "string"}
TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}


def envelope(identifier: str, is_ok: bool, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return object_schema(
        {
            "schema": {"const": identifier},
            "ok": {"const": is_ok},
            "ts": {"type": "string", "format": "date-time"},
            "elapsed_ms": {"type": "number", "minimum": 0},
            name: schema,
            "warnings": {"type": "array", "items": {"$ref": REF.format(name="Warning")}},
        }
    )


def error_schema(details: dict[str, Any]) -> dict[str, Any]:
    """`details`: the answer, where there is one that is not good."""
    schema = object_schema(
        {
            "code": TEXT,
            "exit": {"enum": sorted(int(code) for code in ExitCode if code)},
            "message": TEXT,
            "hint": TEXT_OR_NULL,
        }
    )
    schema["properties"]["details"] = details
    return schema


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def one_of(references: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return references[0] if len(references) == 1 else {"anyOf": list(references)}


@cache
def shape_of(named: Any) -> Any:
    """The type that an entry stands for; the same one each time."""
    if isinstance(named, With):
        view = shape_of(named.view)
        hints = get_type_hints(view, include_extras=True)
        fields = [(named.field, Literal[named.value]), *((name, hints[name]) for name in view.__struct_fields__)]
        return msgspec.defstruct(named.value.capitalize(), fields, namespace={"__doc__": view.__doc__})
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
