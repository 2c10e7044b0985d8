#!/usr/bin/env python3
"""A ledger on a node: entries that anybody may add, and blocks that put them in order.

    ledger.py follow              keeps the ledger, and tells what happens
    ledger.py add "rent: 700"     publishes an entry, as a transaction
    ledger.py seal                publishes a block of the entries that wait
    ledger.py show                prints the ledger: what is sealed by height, then what waits

It takes a running node (`kodectl node run`) and the package websocket-client. The node does the network: it verifies whose
a message is, takes each once, passes it on, and keeps the last ones for whoever was away. This program keeps what came,
and in the same transaction of its database the place in the events that it has come to: however it ends, it goes on
there, without a loss and without taking anything twice.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import websocket

TABLES = """
CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, origin TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS blocks (id TEXT PRIMARY KEY, parent TEXT, height INTEGER, entries TEXT);
CREATE TABLE IF NOT EXISTS place (only INTEGER PRIMARY KEY CHECK (only = 1), seq INTEGER, run TEXT);
"""
ID = re.compile("[0-9a-f]{64}")
MAX_BLOCK_ENTRIES = 1000
SILENT_S = 75
"""The node asks after 30 s of silence whether we are there; when even that does not come, the connection is dead."""
RETRY_S = 1.0


# -- the node ----------------------------------------------------------------------------------------------------------


class Node:
    def __init__(self, address: str, token: str | None) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def publish(self, kind: str, content: dict[str, Any]) -> str:
        """The id of the message."""
        payload = base64.b64encode(json.dumps(content).encode()).decode()
        body = json.dumps({"type": kind, "payload": payload})
        with closing(http.client.HTTPConnection(self._address, timeout=30)) as connection:
            headers = {"Content-Type": "application/json", **self._headers}
            connection.request("POST", "/api/network/broadcast", body, headers)
            response = connection.getresponse()
            answer = json.load(response)
        if response.status != http.HTTPStatus.OK:
            raise SystemExit(f"the node: {answer['detail']}")
        return str(answer["id"])

    def messages(self, place: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What is on the WebSocket after `place`, until the connection ends."""
        client = websocket.create_connection(f"ws://{self._address}/ws", timeout=SILENT_S, header=self._headers)
        with closing(client):
            client.send(json.dumps({"op": "subscribe", "topics": ["block", "transaction"], **place}))
            while text := client.recv():
                yield json.loads(text)


# -- the ledger --------------------------------------------------------------------------------------------------------


class Ledger:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        # What a power cut takes of both, the node gives again.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(TABLES)

    def place(self) -> dict[str, Any]:
        """Where to go on: the number of the last event that was taken, and the run of the node that gave it."""
        row = self._db.execute("SELECT seq, run FROM place").fetchone()
        return {"since": row[0], "run": row[1]} if row else {"since": 0}

    def take(self, event: dict[str, Any], run: str) -> str | None:
        """What came of an event, for people; None if it was none of ours."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (event["seq"], run))
            message = event["data"]
            try:
                content = json.loads(base64.b64decode(message["payload"]))
                if event["type"] == "transaction":
                    return self._take_entry(message["id"], message["origin"], content["text"])
                return self._take_block(message["id"], content["parent"], content["height"], content["entries"])
            except (ValueError, TypeError, KeyError, RecursionError):
                return None  # Others may use the same network for something else.

    def _take_entry(self, id_: str, origin: str, text: object) -> str:
        if not isinstance(text, str):
            raise TypeError("an entry is a text")
        self._db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", (id_, origin, text))
        return f"entry {id_[:8]} of {origin[:8]}: {shown(text)}"

    def _take_block(self, id_: str, parent: object, height: object, entries: object) -> str:
        # Its height is believed: who may seal is for the network to say (`kodectl node run --validator ID`).
        if type(height) is not int or not 0 < height < 2**53 or not isinstance(entries, list):
            raise TypeError("a block has a height, and entries")
        ids = [entry for entry in entries if isinstance(entry, str) and ID.fullmatch(entry)][:MAX_BLOCK_ENTRIES]
        self._db.execute(
            "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?)", (id_, str(parent), height, json.dumps(ids))
        )
        return f"block {id_[:8]} at height {height}: {len(ids)} entries"

    def chain(self) -> list[tuple[str, int, list[str]]]:
        """Blocks as (id, height, entries), oldest first. Of two chains the longer holds, of two as long the one whose last
        block has the smaller id: so everybody agrees as soon as everybody has the same blocks."""
        found = []
        row = self._db.execute("SELECT id, parent, height, entries FROM blocks ORDER BY height DESC, id").fetchone()
        while row:
            found.append((row[0], row[2], json.loads(row[3])))
            row = self._db.execute("SELECT id, parent, height, entries FROM blocks WHERE id = ?", (row[1],)).fetchone()
        return found[::-1]

    def texts(self) -> dict[str, str]:
        """Of every entry, in the order in which they came."""
        return dict(self._db.execute("SELECT id, text FROM entries ORDER BY rowid"))

    def waiting(self) -> list[str]:
        sealed = {entry for _, _, entries in self.chain() for entry in entries}
        return [entry for entry in self.texts() if entry not in sealed]


# -- the commands ------------------------------------------------------------------------------------------------------


def follow(node: Node, ledger: Ledger) -> None:
    while True:
        try:
            run = ""
            for message in node.messages(ledger.place()):
                if message["type"] == "subscribed":
                    run = message["run"]
                    print("following", flush=True)
                elif message["type"] == "gap":
                    # The node keeps the last events only. A ledger that must be whole asks its neighbours here.
                    print(f"gap: {message['missed'] or 'unknown'} events are gone", flush=True)
                elif message["type"] == "error":
                    raise SystemExit(f"the node: {message['message']}")
                elif told := ledger.take(message, run):
                    print(told, flush=True)
        except (OSError, websocket.WebSocketException) as error:
            print(f"away from the node: {error}", file=sys.stderr, flush=True)
        time.sleep(RETRY_S)


def add(node: Node, text: str) -> None:
    print(node.publish("transaction", {"text": text}))


def seal(node: Node, ledger: Ledger) -> None:
    chain, entries = ledger.chain(), ledger.waiting()[:MAX_BLOCK_ENTRIES]
    parent, height = (chain[-1][0], chain[-1][1] + 1) if chain else (None, 1)
    print(node.publish("block", {"parent": parent, "height": height, "entries": entries}))


def show(ledger: Ledger) -> None:
    texts = ledger.texts()
    places = [(str(height), entry) for _, height, entries in ledger.chain() for entry in entries]
    places += [("-", entry) for entry in ledger.waiting()]
    for place, entry in places:
        print(place, entry[:8], shown(texts.get(entry)))


def shown(text: str | None) -> str:
    """As JSON: what strangers write must not be obeyed by a terminal."""
    return json.dumps(text, ensure_ascii=text is None or not text.isprintable())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", default="127.0.0.1:8545", help="where the node's API is (%(default)s)")
    parser.add_argument("--token-file", type=Path, help="the API's token, where it asks for one")
    parser.add_argument("--ledger", type=Path, default=Path("ledger.db"), help="the database (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("follow", "seal", "show"):
        commands.add_parser(name)
    commands.add_parser("add").add_argument("text")
    options = parser.parse_args()
    node = Node(options.api, options.token_file.read_text().strip() if options.token_file else None)
    try:
        match options.command:
            case "follow":
                follow(node, Ledger(options.ledger))
            case "add":
                add(node, options.text)
            case "seal":
                seal(node, Ledger(options.ledger))
            case "show":
                show(Ledger(options.ledger))
    except OSError as error:
        raise SystemExit(f"{options.api}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
