"""The API of one node on its sockets: TCP, and the unix socket of its data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kodectl.api.access import AccessRules, is_loopback, load_token
from kodectl.api.app import Guard, make_app
from kodectl.api.files import SOCKET_FILE, TOKEN_FILE
from kodectl.api.listeners import listen_tcp, listen_unix
from kodectl.api.server import ApiServer
from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Runtime
from kodectl.wire.addresses import address_text

if TYPE_CHECKING:
    from kodectl.node.node import Node

RESOLVE_LIMIT_S = 5.0
STOP_LIMIT_S = 1.0
"""For answers under way when the node leaves."""
WILDCARDS = ("0.0.0.0", "::")


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    port: int
    names: tuple[str, ...] = ()
    """Host names that the API answers to, beside localhost."""
    token_required: bool = False
    """Ask for the token on loopback too."""
    datadir: Path
    """Where the unix socket and the token file are."""


class Api:
    """Binds when made, so that a taken port is known before a node starts; serves from `start` to `stop`."""

    def __init__(self, runtime: Runtime, settings: ApiSettings) -> None:
        """Waits for the name server if the host is a name. Raises EnvironmentFault (port_in_use, api_token_required,
        api_token_unsafe, datadir_in_use, ...) and NegativeAnswer (name_not_resolved)."""
        self._scope = runtime.scope("api")
        self._unix_path = settings.datadir / SOCKET_FILE
        self._runtime = runtime
        self._settings = settings
        self._host = runtime.resolve(settings.host, RESOLVE_LIMIT_S)[0]
        self._guard = Guard(access_rules(settings, load_token_if_needed(settings, self._host)))
        self._tcp = listen_tcp((self._host, settings.port))
        try:
            self._unix = listen_unix(self._unix_path)
        except EnvironmentFault:
            self._tcp.close()
            raise
        self._unix_file = file_at(self._unix_path)
        self._servers: list[ApiServer] = []
        self.address = address_text(*self._tcp.getsockname()[:2])

    @property
    def addresses(self) -> list[str]:
        return [self.address, f"unix:{self._unix_path}"]

    def start(self, node: Node, stop: Callable[[], None]) -> None:
        """`stop` is called when a client asks the node to leave; it must not wait."""
        app = make_app(node, self._guard, stop)
        self._servers = [ApiServer(self._tcp, app, unix=False), ApiServer(self._unix, app, unix=True)]
        for server in self._servers:
            server.start_in(self._scope)
        node.api_addresses = self.addresses

    def rules_for(self, names: tuple[str, ...], token_required: bool) -> AccessRules:
        """The rules with other names, and with the token as it stands in its file now; `take_rules` makes them hold.

        Waits for the disk. Raises EnvironmentFault (api_token_required, api_token_unsafe)."""
        settings = msgspec.structs.replace(self._settings, names=names, token_required=token_required)
        return access_rules(settings, self._runtime.in_thread(load_token_if_needed, settings, self._host))

    def take_rules(self, rules: AccessRules) -> bool:
        """Whether the token is another one. Connections that stand are asked again with their next request."""
        before, self._guard.rules = self._guard.rules, rules
        return before.token != rules.token

    def stop(self) -> None:
        """Lets answers under way finish, for a moment. May be called without `start`, and twice."""
        # Under this name there may be the socket of another node by now, that was started in a directory made anew.
        if file_at(self._unix_path) == self._unix_file:
            self._unix_path.unlink(missing_ok=True)
        for server in self._servers:
            server.stop(STOP_LIMIT_S)
        self._tcp.close()
        self._unix.close()
        self._scope.close()
        self._scope.join(STOP_LIMIT_S)


def file_at(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None: none has."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def load_token_if_needed(settings: ApiSettings, host: str) -> str | None:
    """An API that others than this machine reach is never without a token."""
    if is_loopback(host) and not settings.token_required:
        return None
    return load_token(settings.datadir / TOKEN_FILE)


def access_rules(settings: ApiSettings, token: str | None) -> AccessRules:
    names = {name.lower() for name in settings.names}
    if settings.host not in WILDCARDS:
        names.add(settings.host.lower())
    return AccessRules(host_names=frozenset(names), any_address=settings.host in WILDCARDS, token=token)
