"""Binding transactions, asking side: which datagram answers which request, and what it says (RFC 8489, section 6.3).

What does not carry the 96 random bits of a request under way, or comes from elsewhere than it was sent to, is nobody's
answer. What does, and cannot be used, is kept as the reason if nothing better comes; so nothing on the way can end a
transaction wrongly, and a broken server is told apart from a silent one.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from kodectl.errors import LocalMisuse, PeerFault, WireError
from kodectl.wire.contacts import is_unicast
from kodectl.wire.stun import ID_SIZE, Attribute, Change, Message, MessageClass, Method, decode, encode
from kodectl.wire.stun_attributes import CODECS, Address

MAX_TRANSACTIONS = 256
"""At once: a probe has some dozen under way, with every server it was given."""

_MAPPED = (Attribute.XOR_MAPPED_ADDRESS, Attribute.OLD_XOR_MAPPED_ADDRESS, Attribute.MAPPED_ADDRESS)
"""Best first: what is not XORed, a NAT on the way may have rewritten."""
_ORIGIN = (Attribute.RESPONSE_ORIGIN, Attribute.SOURCE_ADDRESS)
_OTHER = (Attribute.OTHER_ADDRESS, Attribute.CHANGED_ADDRESS)


class BindingAnswer(NamedTuple):
    """What a server said. All but `source`, `rtt_s` and `sendings` is its word, and may be a lie."""

    mapped: Address
    """Where it saw the request come from."""
    source: Address
    """Where its answer came from."""
    origin: Address | None
    """Where it says that its answer came from (RESPONSE-ORIGIN or SOURCE-ADDRESS)."""
    other: Address | None
    """Its other address and port (OTHER-ADDRESS or CHANGED-ADDRESS)."""
    rtt_s: float
    """From the first sending; a round trip only where there was one."""
    sendings: int
    """How many requests had been sent when the answer came."""
    software: str | None


class StunRefused(PeerFault):
    """The server answered with an error; `number` is STUN's (RFC 8489, section 14.8)."""

    code = "stun_refused"

    def __init__(self, number: int, reason: str, server: Address) -> None:
        super().__init__(f"the STUN server at {server[0]}:{server[1]} refused: {number} {reason}".rstrip())
        self.number = number


class Transaction:
    """One request under way."""

    __slots__ = ("fault", "first_sent", "from_anywhere", "packet", "sendings", "server", "transaction_id")

    def __init__(self, transaction_id: bytes, server: Address, change: Change) -> None:
        self.transaction_id = transaction_id
        self.server = server
        self.from_anywhere = any(change)
        attributes = ((Attribute.CHANGE_REQUEST, change),) if any(change) else ()
        self.packet = encode(Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes))
        self.first_sent = 0.0
        self.sendings = 0
        self.fault: PeerFault | None = None
        """Of an answer that could not be used."""

    def sent(self, now: float) -> None:
        if not self.sendings:
            self.first_sent = now
        self.sendings += 1


class Received(NamedTuple):
    """A datagram of ours. `outcome` None: it ends nothing."""

    transaction: Transaction
    outcome: BindingAnswer | StunRefused | None


class Transactions:
    """The table of those under way, by id."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._waiting: dict[bytes, Transaction] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, server: Address, change: Change) -> Transaction:
        """Raises LocalMisuse when too many are under way, or for an address that is not one host's."""
        if len(self._waiting) >= MAX_TRANSACTIONS:
            raise LocalMisuse(f"more than {MAX_TRANSACTIONS} STUN questions at once")
        if not is_unicast(server[0]) or not server[1]:
            raise LocalMisuse(f"{server[0]}:{server[1]} is no address of a STUN server")
        transaction = Transaction(self._random_bytes(ID_SIZE), _normal(server), change)
        self._waiting[transaction.transaction_id] = transaction
        return transaction

    def end(self, transaction: Transaction) -> None:
        self._waiting.pop(transaction.transaction_id, None)

    def receive(self, data: bytes, sender: Address, now: float) -> Received | None:
        """None: not an answer to anything here."""
        transaction = self._waiting.get(data[8:20])
        if transaction is None or not (transaction.from_anywhere or sender == transaction.server):
            return None
        try:
            outcome = read_answer(data, transaction, sender, now)
        except WireError as fault:
            transaction.fault = fault
            return Received(transaction, None)
        self.end(transaction)
        return Received(transaction, outcome)


def read_answer(data: bytes, transaction: Transaction, sender: Address, now: float) -> BindingAnswer | StunRefused:
    """What the answer to `transaction` says. Raises WireError for one that cannot be used."""
    message = decode(data)
    if message.transaction_id != transaction.transaction_id or message.method != Method.BINDING:
        raise WireError("STUN message that answers something else")
    if message.kind is MessageClass.ERROR:
        error = message.get(Attribute.ERROR_CODE)
        if error is None:
            raise WireError("STUN error without a number")
        return StunRefused(error.code, error.reason, sender)
    if message.kind is not MessageClass.SUCCESS:
        raise WireError(f"STUN {message.kind.name.lower()} in place of an answer")
    unknown = message.unknown_required(CODECS)
    if unknown:
        raise WireError(f"STUN answer with the unknown attribute 0x{unknown[0]:04x}")
    return BindingAnswer(
        mapped=_mapped_of(message),
        source=sender,
        origin=_first_of(message, _ORIGIN),
        other=_first_of(message, _OTHER),
        rtt_s=now - transaction.first_sent,
        sendings=transaction.sendings,
        software=message.get(Attribute.SOFTWARE),
    )


def _mapped_of(message: Message) -> Address:
    mapped = _first_of(message, _MAPPED)
    if mapped is None:
        raise WireError("STUN answer without the mapped address")
    if not is_unicast(mapped[0]) or not mapped[1]:
        raise WireError(f"{mapped[0]}:{mapped[1]} cannot be anybody's mapped address")
    return mapped


def _first_of(message: Message, attributes: tuple[Attribute, ...]) -> Address | None:
    for attribute in attributes:
        address: Address | None = message.get(attribute)
        if address is not None:
            return _normal(address)
    return None


def _normal(address: Address) -> Address:
    """As the runtime shows it: IPv4-mapped as IPv4, which servers on a socket for both families confuse."""
    ip = ip_address(address[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped or ip), address[1]
