"""A client of a running node: HTTP over its unix socket, or over TCP with a token.

Imports stay with http.client and msgspec, since every `kodectl node ...` command starts with them.
"""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from kodectl.api.files import SOCKET_FILE, TOKEN_FILE, socket_address
from kodectl.api.problems import PROBLEM_TYPE
from kodectl.errors import (
    DeadlineReached,
    Degraded,
    EnvironmentFault,
    KodectlError,
    LocalMisuse,
    NegativeAnswer,
    NodeUnreachable,
    NotAuthorised,
    PeerFault,
)
from kodectl.wire.addresses import address_text

T = TypeVar("T")

MAX_ANSWER = 64 * 1024 * 1024
"""Far above any answer of a node; what sends more is none."""
REUSED_FOR_S = 20.0
"""Since the last answer: the node closes connections that rest for a minute, and a request that meets that is lost."""
WAIT_MARGIN_S = 5.0
"""What a request may take beyond the wait that it asks the node for."""

BRANCHES: dict[int, type[KodectlError]] = {
    int(branch.exit): branch
    for branch in (
        KodectlError,
        LocalMisuse,
        NegativeAnswer,
        Degraded,
        NodeUnreachable,
        NotAuthorised,
        EnvironmentFault,
        DeadlineReached,
        PeerFault,
    )
}
"""Which error of ours a problem of the API becomes: the exit code says."""


@dataclass(frozen=True)
class Endpoint:
    """Where a node's API is: the unix socket `unix`, else `host` and `port`."""

    unix: Path | None = None
    host: str = ""
    port: int = 0
    token_file: Path | None = None

    def __str__(self) -> str:
        if self.unix is not None:
            return str(self.unix)
        return address_text(self.host, self.port)


class _Problem(msgspec.Struct, frozen=True):
    """The members of a problem document that a client acts on."""

    detail: str
    code: str
    exit: int
    hint: str | None = None


class Answer(NamedTuple):
    """Of any route, as it came. `problem`: the error that a problem document stands for."""

    status: int
    content_type: str
    body: bytes
    problem: KodectlError | None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with socket_address(self._path) as address:
            self.sock.connect(address)


class NodeClient:
    """Requests to one node, over one kept connection.

    Every method raises NodeUnreachable when nothing answers, DeadlineReached when the answer takes longer than the
    time limit, NotAuthorised, and what the node's problem document says."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._connection = self._open()
        self._answered_at = time.monotonic()
        self._headers = _authorization(endpoint.token_file)

    def get(self, path: str, shape: type[T], query: dict[str, Any] | None = None, wait_s: float = 0.0) -> T:
        """`wait_s` is how long the node was asked to wait, beside the time limit of the request."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        return self._call("GET", target, shape, None, wait_s)

    def post(self, path: str, shape: type[T], body: object = None, wait_s: float = 0.0) -> T:
        return self._call("POST", path, shape, body, wait_s)

    def exchange(self, method: str, target: str, body: object = None) -> Answer:
        """A request whose answer may be anything. Raises no error that the node answers: it is the answer's `problem`."""
        status, content_type, answer = self._exchange(method, target, body, self.timeout_s)
        try:
            is_problem = content_type == PROBLEM_TYPE and answer
            problem = _error_of(msgspec.json.decode(answer, type=_Problem)) if is_problem else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_node(status, content_type) from error
        return Answer(status, content_type, answer, problem)

    def upgrade(self, path: str) -> socket.socket:
        """A connection of its own that has become a WebSocket; nothing has come on it yet, since a node speaks when it is
        spoken to."""
        from wsproto.utilities import generate_accept_token, generate_nonce

        connection = self._open()
        key = generate_nonce()
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        try:
            connection.request("GET", path, headers={**self._headers, **headers, "Sec-WebSocket-Key": key.decode()})
            response = connection.getresponse()
            status, content_type = response.status, response.getheader("Content-Type", "").partition(";")[0]
            if status != http.HTTPStatus.SWITCHING_PROTOCOLS:
                self._answer(status, content_type, response.read(MAX_ANSWER), msgspec.Raw)
                raise self._no_node(status, content_type)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error, self.timeout_s) from error
        except KodectlError:
            connection.close()
            raise
        if response.getheader("Sec-WebSocket-Accept", "").encode() != generate_accept_token(key):
            connection.close()
            raise self._no_node(status, content_type)
        return connection.sock

    def close(self) -> None:
        self._connection.close()

    def _open(self) -> http.client.HTTPConnection:
        if self.endpoint.unix is not None:
            return _UnixConnection(self.endpoint.unix, self.timeout_s)
        return http.client.HTTPConnection(self.endpoint.host, self.endpoint.port, timeout=self.timeout_s)

    def _call(self, method: str, target: str, shape: type[T], body: object, wait_s: float) -> T:
        status, content_type, answer = self._exchange(method, target, body, self.timeout_s + wait_s)
        return self._answer(status, content_type, answer, shape)

    def _answer(self, status: int, content_type: str, answer: bytes, shape: type[T]) -> T:
        try:
            if content_type == PROBLEM_TYPE:
                raise _error_of(msgspec.json.decode(answer, type=_Problem))
            # A failing probe answers 503 with its checks, as JSON like any other view.
            return msgspec.json.decode(answer, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_node(status, content_type) from error

    def _no_node(self, status: int, content_type: str) -> NodeUnreachable:
        return NodeUnreachable(
            f"what answers at {self.endpoint} (HTTP {status}, {content_type or 'no type'}) is no kodectl node",
            code="not_a_node",
            hint="name the node's API with --api HOST:PORT, or its data directory with --datadir",
        )

    def _exchange(self, method: str, target: str, body: object, timeout_s: float) -> tuple[int, str, bytes]:
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = _encode(body)
            headers["Content-Type"] = "application/json"
        self._connection.timeout = timeout_s
        if time.monotonic() - self._answered_at > REUSED_FOR_S:
            self._connection.close()
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        try:
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
            answer = response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error, timeout_s) from error
        self._answered_at = time.monotonic()
        if not response.isclosed():
            self._connection.close()
        return response.status, response.getheader("Content-Type", "").partition(";")[0], answer

    def _unreachable(self, error: Exception, timeout_s: float) -> KodectlError:
        if isinstance(error, TimeoutError):
            return DeadlineReached(f"the node at {self.endpoint} did not answer within {timeout_s:g} s")
        if isinstance(error, PermissionError):
            return NotAuthorised(
                f"{self.endpoint} belongs to another user",
                code="socket_not_yours",
                hint="run the command as the node's user, or name its API with --api HOST:PORT",
            )
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return NodeUnreachable(
                f"no node runs at {self.endpoint}",
                hint="start one with 'kodectl node run', or name another with --datadir or --api",
            )
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return NodeUnreachable(f"no answer from {self.endpoint}: {reason}", hint="is a node listening there?")


def _encode(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise LocalMisuse(f"{error.object!a} is no text") from error


def path_of(prefix: str, name: str) -> str:
    """A path that ends in a name which people chose; bytes of theirs that are no text go as they are."""
    return f"{prefix}/{quote(name, safe='', errors='surrogateescape')}"


def endpoint_of(
    datadir: Path, api: tuple[str, int], *, datadir_given: bool, api_given: bool, token_file: Path | None
) -> Endpoint:
    """The unix socket of the data directory; the API's address when it was given, or when there is no such socket and
    no data directory was asked for (one that was asked for must not be answered by some other node)."""
    socket_path = datadir / SOCKET_FILE
    # An API on any free port (0) is found through its socket only, also while the node is about to make that.
    if not api_given and (datadir_given or api[1] == 0 or socket_path.exists()):
        return Endpoint(unix=socket_path)
    host, port = api
    if token_file is None and _is_this_machine(host) and (datadir / TOKEN_FILE).exists():
        # Only to this machine: a token is told to nobody it was not made for.
        token_file = datadir / TOKEN_FILE
    return Endpoint(host=host, port=port, token_file=token_file)


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _authorization(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        with token_file.open("rb") as file:
            token = file.read(4096).decode("ascii", "replace").strip()
    except OSError as error:
        raise EnvironmentFault(
            f"cannot read the token in {token_file}: {error.strerror}", code="token_unreadable"
        ) from error
    if not token.isascii() or not token.isprintable():
        raise EnvironmentFault(f"{token_file} holds no token: one line of ASCII text", code="token_unreadable")
    return {"Authorization": f"Bearer {token}"}


def _error_of(problem: _Problem) -> KodectlError:
    return BRANCHES.get(problem.exit, KodectlError)(problem.detail, code=problem.code, hint=problem.hint)
