"""Values of the network: put, get, and keeping them where they belong while nodes come and go."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from kodectl.core.distance import distance
from kodectl.core.requests import Notice
from kodectl.core.sessions import Session
from kodectl.core.table import K, subnet_of
from kodectl.core.values import MAX_EXPIRY_S, MAX_PER_KEY, Tokens, ValueStore
from kodectl.errors import LocalMisuse, NegativeAnswer, PeerFault
from kodectl.node.discovery import ANSWER_LIMIT_S, Discovery, read_answer
from kodectl.node.kademlia import ALL, NO_MORE, Kademlia
from kodectl.runtime.base import Runtime, Scope, TimedOut
from kodectl.runtime.rounds import Rounds
from kodectl.wire import record as records
from kodectl.wire import rpc
from kodectl.wire.contacts import CONTACT_SIZE_V4, Contact
from kodectl.wire.packets import MAX_PACKET
from kodectl.wire.record import Record, unpack_record
from kodectl.wire.rpc import StoreStatus

log = logging.getLogger(__name__)

ENOUGH_HOLDERS = 3
"""Answers alike, from different networks, that a get waits for: one holder may have missed the newest sequence, three hardly;
and what one network holds out beside a key, old or its own, does not end the search."""
ENOUGH_ANSWERS = 6
"""With records, alike or not, that a get waits for as well: where a network was cut in two and both sides have written, half of
the holders have the older record until somebody tells them."""
READ_ALPHA = 6
"""So many are asked at once: the holders' answers come together, and reading more of them takes no longer."""
MENDED_AT_ONCE = 32
"""Older records that one get replaces where it met them."""
ROOM = MAX_PACKET - 80
"""Of a `values` answer: what headers, tag, token and counts leave."""
UPKEEP_EVERY_S = 60.0
REPUBLISH_AFTER_S = 3600.0
REPUBLISH_AT_ONCE = 20
HANDOVERS_WAITING = 256
HANDOVER_AT_ONCE = 50
"""Records given to one newcomer; what is left comes with the republishing."""
KEYS_AT_ONCE = 64
"""Compared with a newcomer, at 0.1 ms each, before other tasks get their turn."""
_SKIP_ALL = 2**32 - 1


class Values:
    """Owns the record store; answers store and find_value."""

    def __init__(self, runtime: Runtime, discovery: Discovery, kademlia: Kademlia, scope: Scope) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._kademlia = kademlia
        self._scope = scope
        self._identity = discovery.identity
        self._tokens = Tokens(runtime.random_bytes)
        self._last_sequence = 0
        self.store = ValueStore(self._identity.node_id, self._identity.suite)
        self._newcomers: deque[Contact] = deque()
        self._hands_over = False
        discovery.handlers[rpc.Kind.STORE] = self._serve_store
        discovery.handlers[rpc.Kind.FIND_VALUE] = self._serve_find_value
        kademlia.on_new.append(self._welcome)

    def start(self) -> None:
        Rounds(self._runtime, self._scope, "value upkeep", self._until_upkeep, self._upkeep)

    @property
    def own_id(self) -> bytes:
        return self._identity.node_id

    def load(self, packed_records: list[bytes]) -> None:
        """Takes in what an earlier run kept; what has expired stays behind."""
        self.store.load(packed_records, self._runtime.now(), self._runtime.unix_time())

    # -- answers ---------------------------------------------------------------------------------------------------

    def _serve_store(self, session: Session, question: rpc.Store) -> rpc.Stored:
        now = self._runtime.now()
        try:
            key = unpack_record(question.record).key
        except PeerFault:
            return rpc.Stored(StoreStatus.MALFORMED)
        if not self._tokens.check(question.token, session.node_id, session.address, key, now):
            return rpc.Stored(StoreStatus.BAD_TOKEN)
        if not self._is_ours(key):
            return rpc.Stored(StoreStatus.NOT_CLOSEST)
        return rpc.Stored(self.store.put(question.record, session.address[0], now, self._runtime.unix_time()))

    def _serve_find_value(self, session: Session, question: rpc.FindValue) -> rpc.Values:
        token = self._tokens.make(session.node_id, session.address, question.key, self._runtime.now())
        held = self.held(question.key)
        room = ROOM
        told: list[bytes] = []
        for record in held[question.skip : question.skip + rpc.MAX_RECORDS_IN_ANSWER]:
            size = len(record.packed) + 3
            if size > room:
                break
            room -= size
            told.append(record.packed)
        # The largest record leaves less than one contact's room, and then there are none: the asker has what it wants.
        count = min(K, room // CONTACT_SIZE_V4) if question.contacts_wanted else 0
        contacts = self._kademlia.closest_packed(question.key, count) if count else b""
        while len(contacts) > room:
            count -= 1
            contacts = self._kademlia.closest_packed(question.key, count)
        return rpc.Values(len(held), token, told, contacts)

    def held(self, key: bytes) -> list[Record]:
        """Here, that are in time."""
        self.store.expire(self._runtime.unix_time())
        return self.store.get(key)

    def holds(self, key: bytes, sequence: int) -> bool:
        """Whether this record of our own is here."""
        own = self._identity.public_key
        return any(record.publisher == own and record.sequence == sequence for record in self.store.get(key))

    def _is_ours(self, key: bytes) -> bool:
        """Whether this node is among the 16 closest that it knows."""
        closest = self._kademlia.table.closest(key)
        if len(closest) < K:
            return True
        return distance(self._identity.node_id, key) < closest[-1].number ^ int.from_bytes(key)

    # -- put and get -----------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, ttl_s: float, above: int = 0) -> tuple[int, int, int]:
        """Signs and stores `value` under `key` (32 bytes); waits. Returns sequence, stores that took it, stores asked.
        The sequence is the time in ms, but above `above`, above the last one used and above that of a record held here.

        Raises LocalMisuse for a value or a time to live over the limits, NegativeAnswer when nobody took it."""
        if not 0 < ttl_s <= MAX_EXPIRY_S:
            raise LocalMisuse(f"the time to live is 1 second to {MAX_EXPIRY_S} seconds (48 hours)", code="bad_ttl")
        if len(value) > records.MAX_VALUE:
            raise LocalMisuse(
                f"the value has {len(value)} bytes; the limit is {records.MAX_VALUE}", code="value_too_large"
            )
        sequence, packed = self.signed(key, value, ttl_s, above)
        stored, asked = self.place(key, packed)
        if not stored:
            raise NegativeAnswer("no node took the value", code="not_stored", hint="kodectl node table")
        return sequence, stored, asked

    def signed(self, key: bytes, value: bytes, ttl_s: float, above: int = 0) -> tuple[int, bytes]:
        """Sequence and packed record, as `put` stores it."""
        unix_time = self._runtime.unix_time()
        publisher = self._identity.public_key
        held = max((record.sequence for record in self.store.get(key) if record.publisher == publisher), default=0)
        sequence = self._last_sequence = max(int(unix_time * 1000), self._last_sequence + 1, above + 1, held + 1)
        statement = records.record_statement(publisher, key, sequence, math.ceil(unix_time + ttl_s), value)
        return sequence, records.pack_record(statement, self._identity.sign(statement))

    def place(self, key: bytes, packed: bytes) -> tuple[int, int]:
        """Stores a record at the nodes closest to its key, ourselves among them where we belong; waits. Returns stores that
        took it, stores asked."""
        tokens: dict[bytes, bytes] = {}

        def take(contact: Contact, answer: rpc.Values) -> int:
            tokens[contact.node_id] = answer.token
            return ALL

        found = self._kademlia.iterate(key, rpc.FindValue(key, _SKIP_ALL, True), take=take)
        holders = found.closest
        stored = asked = 0
        is_client = self._discovery.sessions.flags & 1
        if not is_client and (
            len(holders) < K or distance(self._identity.node_id, key) < distance(holders[-1].node_id, key)
        ):
            asked += 1
            holders = holders[: K - 1]
            own = self.store.put(packed, None, self._runtime.now(), self._runtime.unix_time())
            stored += own is StoreStatus.STORED
        taken = self._store_at(holders, packed, tokens)
        return stored + taken, asked + len(holders)

    def _store_at(self, holders: list[Contact], packed: bytes, tokens: dict[bytes, bytes]) -> int:
        """Asks all side by side; returns how many took it."""
        outcomes = self._runtime.mailbox(2 * K)
        for contact in holders:
            self._discovery.request(
                contact.node_id,
                contact.address,
                rpc.Store(tokens[contact.node_id], packed),
                lambda session, kind, body, rtt_s: outcomes.put(_stored(kind, body)),
                lambda notice: notice is Notice.SLOW or outcomes.put(False),
            )
        try:
            return sum(outcomes.get(ANSWER_LIMIT_S) for _ in holders)
        except TimedOut:
            return 0

    def get(self, key: bytes) -> list[Record]:
        """The records of a key, newest sequence first; the best of several holders, who hear of what is newer than theirs. Waits.
        Empty: none found."""
        found: dict[bytes, Record] = {record.publisher: record for record in self.held(key)}
        agreement = Agreement()
        told: dict[Contact, rpc.Values] = {}
        answers: dict[Contact, rpc.Values] = {}

        def take(contact: Contact, answer: rpc.Values) -> int:
            told[contact] = answer
            if self.merge(found, key, answer.records):
                answers[contact] = answer
                if agreement.reached(contact, answer.records) and len(answers) >= ENOUGH_ANSWERS:
                    return NO_MORE
            wanted = ENOUGH_ANSWERS - len(answers)
            return wanted if wanted > 0 else ALL

        self._kademlia.iterate(key, rpc.FindValue(key, 0, True), take=take, alpha=READ_ALPHA)
        for contact in agreement.holders():
            self._read_on(found, key, contact, answers[contact])
        self._mend(found, key, told)
        return sorted(found.values(), key=lambda record: (-record.sequence, record.publisher))

    def _mend(self, found: dict[bytes, Record], key: bytes, told: dict[Contact, rpc.Values]) -> None:
        """Gives what was found to those who have said something older, ourselves among them. Does not wait."""
        for record in self.store.get(key):
            newest = found.get(record.publisher, record)
            if newest.sequence > record.sequence:
                self.store.put(newest.packed, None, self._runtime.now(), self._runtime.unix_time())
        older = (
            (contact, answer.token, found[record.publisher])
            for contact, answer in told.items()
            for record in _readable(answer.records)
            if record.publisher in found and found[record.publisher].sequence > record.sequence
        )
        for contact, token, newer in islice(older, MENDED_AT_ONCE):
            question = rpc.Store(token, newer.packed)
            self._discovery.request(contact.node_id, contact.address, question, _ignore, _ignore)

    def _read_on(self, found: dict[bytes, Record], key: bytes, holder: Contact, answer: rpc.Values) -> None:
        """Asks for what did not fit into the first answer: large records of one publisher must not hide another's."""
        told = len(answer.records)
        while told < min(answer.total, MAX_PER_KEY):
            question = rpc.FindValue(key, told, False)
            try:
                answer = self._discovery.ask(holder.node_id, holder.address, question).body
            except (NegativeAnswer, PeerFault):
                return
            if not answer.records:
                return
            told += len(answer.records)
            self.merge(found, key, answer.records)

    def merge(self, found: dict[bytes, Record], key: bytes, packed_records: list[bytes]) -> int:
        """Takes in the records that hold: right key, in time, signed."""
        taken = 0
        for record in _readable(packed_records):
            if record.key != key or record.expiry <= self._runtime.unix_time():
                continue
            known = found.get(record.publisher)
            if known is not None and known.sequence >= record.sequence:
                taken += known.packed == record.packed
                continue
            if self._identity.suite.verify(record.publisher, record.statement(), record.signature):
                found[record.publisher] = record
                taken += 1
        return taken

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def _until_upkeep(self) -> float:
        return UPKEEP_EVERY_S * self._runtime.rng.uniform(0.8, 1.2)

    def _upkeep(self) -> None:
        self.store.expire(self._runtime.unix_time())
        # Holders republish at different times; the first one refreshes the others, which then keep still.
        due_before = self._runtime.now() - REPUBLISH_AFTER_S
        for record in self.store.not_written_since(due_before, REPUBLISH_AT_ONCE):
            self.store.republished(record, self._runtime.now())
            self.place(record.key, record.packed)

    def _welcome(self, newcomer: Contact) -> None:
        """Somebody new is in the table."""
        if not len(self.store) or len(self._newcomers) >= HANDOVERS_WAITING:
            return
        self._newcomers.append(newcomer)
        if not self._hands_over and not self._scope.closed:
            self._hands_over = True
            self._scope.spawn("value handover", self._hand_over)

    def _hand_over(self) -> None:
        """Gives each newcomer to the table the records that it is now among the closest to."""
        try:
            while self._newcomers:
                self._hand_over_to(self._newcomers.popleft())
        finally:
            self._hands_over = False

    def _hand_over_to(self, newcomer: Contact) -> None:
        given = 0
        for number, key in enumerate(self.store.keys()):
            if number % KEYS_AT_ONCE == 0:
                self._scope.sleep(0)
            if not self._belongs_to(newcomer, key):
                continue
            try:
                given += self._give(newcomer, key)
            except (NegativeAnswer, PeerFault):
                return  # the next newcomer must not wait while every record is offered to a dead one
            if given >= HANDOVER_AT_ONCE:
                return

    def _belongs_to(self, newcomer: Contact, key: bytes) -> bool:
        """Whether it is among the closest to the key, and we, of those who were before, the one to tell it."""
        closest = self._kademlia.table.closest(key)
        if newcomer not in closest:
            return False
        others = [contact for contact in closest if contact != newcomer]
        return not others or distance(self._identity.node_id, key) < distance(others[0].node_id, key)

    def _give(self, newcomer: Contact, key: bytes) -> int:
        """Returns how many records it took. Raises NegativeAnswer or PeerFault when it does not answer."""
        asked = rpc.FindValue(key, _SKIP_ALL, False)
        token = self._discovery.ask(newcomer.node_id, newcomer.address, asked).body.token
        return sum(self._store_at([newcomer], record.packed, {newcomer.node_id: token}) for record in self.held(key))


class Agreement:
    """Whether enough networks have given one answer. Where addresses are not scarce, each counts."""

    def __init__(self) -> None:
        self._given: dict[tuple[bytes, ...], dict[str, Contact]] = {}

    def reached(self, holder: Contact, records: list[bytes]) -> bool:
        alike = self._given.setdefault((*sorted(records),), {})
        alike.setdefault(subnet_of(holder.ip) or f"{holder.address}", holder)
        return len(alike) >= ENOUGH_HOLDERS

    def holders(self) -> list[Contact]:
        """So many as are needed, of those that most agree with first."""
        alike = sorted(self._given.values(), key=len, reverse=True)
        return [holder for of_answer in alike for holder in of_answer.values()][:ENOUGH_HOLDERS]


def _readable(packed_records: list[bytes]) -> Iterator[Record]:
    for packed in packed_records:
        try:
            yield unpack_record(packed)
        except PeerFault:
            continue


def _ignore(*_: object) -> None:
    pass


def _stored(kind: int, packed: bytes) -> bool:
    try:
        answer: Any = read_answer(kind, packed)
    except PeerFault:
        return False
    return answer.status == StoreStatus.STORED
