"""A running node: composed here, kept up until it is told to leave, and taken down in order.

Imported by `node run` after gevent has patched the standard library."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from gevent.event import Event

from kodectl import __version__
from kodectl.api.api import Api, ApiSettings
from kodectl.cli.background import BackgroundStream
from kodectl.cli.configuration import Configuration
from kodectl.cli.gateways import gateway_finders
from kodectl.cli.identity import KEY_FILE
from kodectl.cli.leaving import watch_hangups, watch_signals
from kodectl.cli.log import LimitedHandler
from kodectl.cli.log import change as change_log
from kodectl.cli.log import configure as configure_log
from kodectl.cli.output import Output, PipeClosed, pairs
from kodectl.cli.quotas import parse_relay
from kodectl.cli.reloading import Reloading, Values
from kodectl.cli.sd_notify import Supervisor
from kodectl.core.identity import Identity
from kodectl.errors import EnvironmentFault, ExitCode
from kodectl.node.node import Node
from kodectl.node.views import EventView, ListenerView, NatView
from kodectl.runtime.base import Mailbox, Scope
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.store.datadir import hold
from kodectl.store.keyfile import create_key, load_key
from kodectl.store.sqlite import SqliteStore
from kodectl.wire import pcp
from kodectl.wire.suite import RealSuite

log = logging.getLogger("kodectl.node")

STORE_FILE = "node.db"
VERBOSITY_OF = {"error": -1, "warning": 0, "info": 1, "debug": 2}
"""By the setting log_level."""
LOOK_AGAIN_S = 1.0
"""How soon a node whose tasks have failed is noticed."""
EVENTS_WAIT_S = 60.0
EVENTS_AT_ONCE = 256
PRINT_REST_S = 0.01
PRINTED_PAYLOAD_BYTES = 1024
"""Of a block or transaction among the events of `node run --json`."""
PCP_NONCE_CONTEXT = b"kodechain pcp nonce v1"
STATUS = "taking part in the network"
"""For `systemctl status`."""
JOIN_LIMIT_S = 2.0
GC_THRESHOLDS = (10_000, 10, 10)
"""How many containers are made before those are looked through; 700 by default, which a busy node makes in 20 ms."""


class ReadyView(msgspec.Struct, frozen=True):
    """The first line of `node run --json`."""

    type: str
    id: str
    enode: str
    client: str
    pid: int
    datadir: str
    listeners: ListenerView
    nat: NatView
    warnings: list[str]


def serve(
    output: Output, values: Values, flags: Values, load: Callable[[], Configuration], passphrase: bytes | None
) -> None:
    """Runs a node until a signal or a client of the API asks it to leave; then says goodbye and saves. `values`: every
    setting, of which `flags` were given on the command line; `load` reads the configuration again.

    Raises EnvironmentFault (port_in_use, datadir_in_use, key_..., ...) before anything has been said to the network,
    and PipeClosed when the reader of the events has gone."""
    settings, api_settings = node_settings(values), api_settings_of(values)
    assert settings.datadir is not None, "node run always has a data directory"
    with ExitStack() as cleanup:
        runtime = GreenRuntime()
        cleanup.callback(runtime.close)
        leaving = Event()
        watch_signals(leaving, cleanup)
        scope = runtime.scope("run")
        # Of one place: who asks again before it was read asks for the same.
        reloads = runtime.mailbox(1)
        scope.on_close(reloads.close)
        watch_hangups(lambda: reloads.put(True), leaving, cleanup)
        log_stream = start_logging(values, runtime, cleanup)
        cleanup.callback(end, scope)
        scope.spawn("log", log_stream.run, scope)
        scope.spawn("log repeats", keep_telling_repeats, scope)

        cleanup.enter_context(hold(settings.datadir))
        store = runtime.in_thread(SqliteStore, settings.datadir / STORE_FILE)
        cleanup.callback(runtime.in_thread, store.close)
        identity = runtime.in_thread(load_identity, settings.datadir / KEY_FILE, passphrase)
        api = Api(runtime, api_settings)
        cleanup.callback(api.stop)
        node = Node(runtime, settings, identity, store, gateway_finders(runtime, pcp_nonce_of(identity)))
        node.start()
        cleanup.callback(node.stop)
        scope.spawn("hub delay", node.hub_delay.measure, scope)
        api.start(node, leaving.set)
        reloading = Reloading(lambda: runtime.in_thread(load), Takeover(node, api).take, values, flags)
        supervisor = Supervisor(os.environ, os.getpid())
        scope.spawn("reload", keep_reloading, reloads, reloading, node, supervisor)
        scope.spawn("watchdog", supervisor.keep_alive, scope, lambda: node.health("live").ok)

        ready = ready_view(node, settings.datadir)
        runtime.in_thread(output.emit, ready, ready_text(ready))
        settle_memory()
        supervisor.ready(STATUS)
        log.info("ready: %s", ready.enode)
        printer = EventPrinter(output, runtime, node, leaving)
        if output.structured:
            scope.spawn("events", printer.run)
        while not leaving.wait(LOOK_AGAIN_S):
            if node.scope.closed or scope.closed:
                log.error("a task has failed; leaving")
                break
        log.info("leaving")
        supervisor.stopping()
    log.info("stopped")
    if printer.reader_gone:
        raise PipeClosed


def settle_memory() -> None:
    """Takes what is there now for what stays. Python would look for garbage among the 80,000 objects of the program again and
    again: every second, for 50 to 100 ms of the hub, in a node that takes 2,000 messages a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def keep_reloading(wishes: Mailbox[bool], reloading: Reloading, node: Node, supervisor: Supervisor) -> None:
    """Reloads for each wish, until the mailbox is closed."""
    while True:
        wishes.get()
        supervisor.reloading()
        reloading.reload(node.events)
        supervisor.ready(STATUS)


class Takeover:
    """What becomes of the values that a running node takes over."""

    def __init__(self, node: Node, api: Api) -> None:
        self._node = node
        self._api = api

    def take(self, values: Values) -> bool:
        """Whether the API's token is another one. Raises KodectlError, and then nothing has changed."""
        settings = api_settings_of(values)
        rules = self._api.rules_for(settings.names, settings.token_required)
        self._node.reconfigure(node_settings(values))
        change_log(verbosity=VERBOSITY_OF[values["log_level"]], json_lines=values["log_format"] == "json")
        return self._api.take_rules(rules)


def node_settings(values: Values) -> NodeSettings:
    """Raises LocalMisuse."""
    listen_host, tcp_port = values["listen"]
    same = ("datadir", "bootstrap", "max_peers", "lan", "nat", "stun", "turn", "network", "validators")
    return NodeSettings(
        listen_host=listen_host,
        tcp_port=tcp_port,
        udp_port=values["discovery_port"],
        relay=parse_relay(values["relay"]),
        **{name: values[name] for name in same},
    )


def api_settings_of(values: Values) -> ApiSettings:
    host, port = values["api"]
    return ApiSettings(
        host=host,
        port=port,
        names=values["api_names"],
        token_required=values["api_token"] == "required",
        datadir=values["datadir"],
    )


def start_logging(values: Values, runtime: GreenRuntime, cleanup: ExitStack) -> BackgroundStream:
    """The log goes to stderr from a thread: a terminal that has been paused must not stop the node."""
    configure_log(verbosity=VERBOSITY_OF[values["log_level"]], json_lines=values["log_format"] == "json")
    stream = BackgroundStream(runtime, sys.stderr)
    for handler in limited_handlers():
        handler.setStream(stream)
        # In the opposite order.
        cleanup.callback(handler.tell_rest)
        cleanup.callback(handler.setStream, sys.stderr)
    return stream


def keep_telling_repeats(scope: Scope) -> None:
    """Tells of lines that were held back, until the scope closes."""
    while True:
        scope.sleep(LOOK_AGAIN_S)
        for handler in limited_handlers():
            handler.tell_due()


def limited_handlers() -> list[LimitedHandler]:
    """Tests may have others there."""
    return [handler for handler in logging.getLogger("kodectl").handlers if isinstance(handler, LimitedHandler)]


def end(scope: Scope) -> None:
    scope.close()
    if scope.join(JOIN_LIMIT_S):
        # Only writing to a reader that stands still takes so long, and no thread can be called back from that. The node
        # has left and saved by now.
        os._exit(int(ExitCode.SIGPIPE))


def load_identity(path: Path, passphrase: bytes | None) -> Identity:
    """The node's key; made on the first start."""
    # A link that leads nowhere is somebody's key that is missing, and not to be replaced by a new one.
    if not os.path.lexists(path):
        create_key(path, passphrase)
        log.info("made a new identity in %s", path)
    key = load_key(path, passphrase)
    if key.exposed:
        raise EnvironmentFault(
            f"{path} can be read by others (mode {key.mode:04o})", code="key_exposed", hint=f"chmod 600 {path}"
        )
    return Identity(RealSuite(), key.seed)


def pcp_nonce_of(identity: Identity) -> bytes:
    """The same in every run, and nobody else's: a router then gives a node that was killed its ports back."""
    return hashlib.sha256(identity.sign(PCP_NONCE_CONTEXT)).digest()[: pcp.NONCE_SIZE]


def ready_view(node: Node, datadir: Path) -> ReadyView:
    status = node.status()
    return ReadyView(
        type="ready",
        id=status.id,
        enode=status.enode,
        client=status.client,
        pid=status.pid,
        datadir=str(datadir),
        listeners=status.listeners,
        nat=status.nat,
        warnings=status.warnings,
    )


def ready_text(ready: ReadyView) -> str:
    tcp_api, unix_api = ready.listeners.api
    return f"kodectl {__version__} is ready\n" + pairs(
        [
            ("enode", ready.enode),
            ("peers", f"{ready.listeners.tcp} tcp"),
            ("discovery", f"{ready.listeners.udp} udp"),
            ("api", f"http://{tcp_api}/api/network/status"),
            ("socket", unix_api.removeprefix("unix:")),
            ("nat", "looked into" if ready.nat.state == "unknown" else ready.nat.state),
            ("data", ready.datadir),
        ]
    )


class EventPrinter:
    """Prints what happens, one document a line, until the node stops or nobody reads any more."""

    def __init__(self, output: Output, runtime: GreenRuntime, node: Node, leaving: Event) -> None:
        self._output = output
        self._runtime = runtime
        self._node = node
        self._leaving = leaving
        self.reader_gone = False

    def run(self) -> None:
        try:
            self._print_events()
        except PipeClosed:
            self.reader_gone = True
            self._leaving.set()

    def _print_events(self) -> None:
        seq, stopping = 0, False
        while not stopping:
            page = self._node.events.wait(seq, EVENTS_WAIT_S, EVENTS_AT_ONCE)
            records: list[object] = [{"type": "gap", "missed": page.missed}] if page.missed else []
            for event in page.events:
                # `ready` has been printed, with more in it.
                if event.type != "ready":
                    records.append(_without_large_payload(event))
                if event.type == "stopping":
                    stopping = True
                    break
            self._runtime.in_thread(self._print, records)
            seq = page.next
            # What happens meanwhile is printed together: a thread for each event takes as long as its message.
            self._leaving.wait(PRINT_REST_S)

    def _print(self, records: list[object]) -> None:
        for record in records:
            self._output.emit(record, "")


def _without_large_payload(event: EventView) -> EventView:
    """A log of what happens is no place for blocks; /ws and /api/events have them whole."""
    payload = event.data.get("payload")
    if not isinstance(payload, bytes) or len(payload) <= PRINTED_PAYLOAD_BYTES:
        return event
    return msgspec.structs.replace(event, data={**event.data, "payload": None})
