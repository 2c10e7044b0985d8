"""What the running node knows, at the press of TAB: the ids of its peers and of the nodes in its table.

Asked over the unix socket of the data directory with plain sockets, since a shell waits for every import. No node, no
answer in time, no configuration: then there is nothing to offer, and nothing is said about it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

LIMIT_S = 0.5
"""The longest that a TAB may take; a well node answers in 2 ms."""
MAX_ANSWER = 1024 * 1024
"""50 peers are 40 kB, a full table 30 kB."""
ID = re.compile(r"[0-9a-f]{64}")
"""Nothing else is handed to a shell."""


class KnownId(click.ParamType[str]):
    """A node id, or its beginning; completed from `path` of the API, whose answer `ids` reads."""

    name = "id"

    def __init__(self, path: str, ids: Callable[[Any], dict[str, str]]) -> None:
        """`ids`: from the decoded answer to what is said about each id."""
        self._path = path
        self._ids = ids

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        try:
            found = self._ids(ask(_datadir(ctx), self._path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
        known = [(node_id, about) for node_id, about in found.items() if ID.fullmatch(node_id)]
        return [CompletionItem(node_id, help=about) for node_id, about in known if node_id.startswith(incomplete)]


def peers(answer: Any) -> dict[str, str]:
    return {peer["id"]: f"{peer['addr']} {peer['direction']} {peer['path']}" for peer in answer["peers"]}


def table(answer: Any) -> dict[str, str]:
    return {node_id: f"bucket {bucket['index']}" for bucket in answer["buckets"] for node_id in bucket["nodes"]}


CONNECTED_ID = KnownId("/api/network/peers", peers)
TABLE_ID = KnownId("/api/network/routing", table)


def ask(datadir: Path, path: str) -> Any:
    """The decoded answer to a GET. Raises OSError (nobody there, too slow) and ValueError (an answer that is none)."""
    from kodectl.api.files import SOCKET_FILE, socket_address

    if not (datadir / SOCKET_FILE).exists():
        raise FileNotFoundError(datadir)  # Without paying for the imports below.
    import json
    import socket

    until = time.monotonic() + LIMIT_S
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, socket_address(datadir / SOCKET_FILE) as name:
        connection.settimeout(LIMIT_S)
        connection.connect(name)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        while data := connection.recv(65_536):
            answer += data
            if len(answer) > MAX_ANSWER:
                raise ValueError("more than any node says")
            connection.settimeout(max(0.001, until - time.monotonic()))
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ValueError("the node did not answer the question")
    return json.loads(body)


def _datadir(ctx: click.Context) -> Path:
    given = ctx.params.get("datadir")
    if given is not None:
        return Path(given)
    from kodectl.cli.options import configuration_of
    from kodectl.errors import KodectlError

    try:
        return Path(configuration_of(ctx).get("datadir").value)
    except KodectlError as error:
        raise OSError(error.message) from error
