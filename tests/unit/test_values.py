"""The write rules of values: tokens, sequences, quotas, expiry, room."""

import random
import sys

import pytest

from kodectl.core import values as values_module
from kodectl.core.identity import Identity
from kodectl.core.values import MAX_EXPIRY_S, MAX_PER_KEY, TOKEN_ROTATION_S, Tokens, ValueStore
from kodectl.wire.record import pack_record, record_statement
from kodectl.wire.rpc import StoreStatus
from kodectl.wire.suite import RealSuite

UNIX = 1_790_000_000
STORED = StoreStatus.STORED
SUITE = RealSuite()
ALICE, BOB = (Identity(SUITE, bytes([n]) * 32) for n in (1, 2))


def make(identity=ALICE, key=b"k" * 32, sequence=1, expiry=UNIX + 3600, value=b"v") -> bytes:
    statement = record_statement(identity.public_key, key, sequence, expiry, value)
    return pack_record(statement, identity.sign(statement))


def put(store: ValueStore, packed: bytes, ip: str | None = "20.1.1.1", now: float = 0.0) -> StoreStatus:
    return store.put(packed, ip, now, UNIX)


@pytest.fixture
def store():
    return ValueStore(bytes(32), SUITE)


def test_stored_and_read(store):
    assert put(store, make()) is StoreStatus.STORED
    (record,) = store.get(b"k" * 32)
    assert (record.value, record.publisher) == (b"v", ALICE.public_key)
    assert store.get(bytes(32)) == []


def test_higher_sequence_wins_and_lower_never(store):
    put(store, make(sequence=5, value=b"five"))
    assert put(store, make(sequence=4, value=b"four")) is StoreStatus.OLD_SEQUENCE
    assert put(store, make(sequence=5, value=b"other five")) is StoreStatus.OLD_SEQUENCE
    assert put(store, make(sequence=5, value=b"five"), now=9.0) is StoreStatus.STORED  # a refresh
    assert put(store, make(sequence=6, value=b"six")) is StoreStatus.STORED
    assert [record.value for record in store.get(b"k" * 32)] == [b"six"]
    assert len(store) == 1


def test_nobody_overwrites_another(store):
    put(store, make(ALICE, value=b"alice"))
    put(store, make(BOB, sequence=9, value=b"bob"))
    assert [record.value for record in store.get(b"k" * 32)] == [b"bob", b"alice"]


def test_signature_is_checked(store):
    packed = bytearray(make())
    packed[83] ^= 1
    assert put(store, bytes(packed)) is StoreStatus.BAD_SIGNATURE
    assert put(store, b"rubbish") is StoreStatus.MALFORMED
    assert len(store) == 0


def test_expiry_is_bounded_and_kept(store):
    assert put(store, make(expiry=UNIX)) is StoreStatus.EXPIRED
    assert put(store, make(expiry=UNIX + MAX_EXPIRY_S + 3600)) is StoreStatus.EXPIRED
    put(store, make(expiry=UNIX + 10))
    put(store, make(sequence=2, expiry=UNIX + 20))
    store.expire(UNIX + 15)
    assert len(store) == 1
    store.expire(UNIX + 20)
    assert len(store) == 0


def test_one_publisher_fills_five_percent():
    store = ValueStore(bytes(32), SUITE, capacity=200)
    statuses = [put(store, make(key=n.to_bytes(32)), ip=f"20.1.{n}.1") for n in range(1, 40)]
    assert statuses.count(StoreStatus.STORED) == 10
    assert StoreStatus.QUOTA in statuses


def test_one_subnet_fills_five_percent():
    store = ValueStore(bytes(32), SUITE, capacity=200)
    statuses = [
        put(store, make(Identity(SUITE, n.to_bytes(32)), key=n.to_bytes(32)), ip=f"20.1.1.{n}") for n in range(1, 40)
    ]
    assert statuses.count(StoreStatus.STORED) == 10


def test_publishers_of_one_key_are_bounded(store):
    statuses = [put(store, make(Identity(SUITE, n.to_bytes(32))), ip=f"20.{n}.1.1") for n in range(1, MAX_PER_KEY + 3)]
    assert statuses.count(StoreStatus.STORED) == MAX_PER_KEY


def test_nobody_keeps_a_node_from_telling_of_itself(store):
    """A node's id is a key like any other: whoever fills it, its owner has a place, and is told first."""
    key = ALICE.node_id
    for n in range(1, MAX_PER_KEY + 1):
        assert put(store, make(Identity(SUITE, n.to_bytes(32)), key=key, sequence=9), ip=f"20.{n}.1.1") is STORED
    assert put(store, make(BOB, key=key), ip="20.98.1.1") is StoreStatus.QUOTA
    assert put(store, make(ALICE, key=key), ip="20.99.1.1") is STORED
    assert store.get(key)[0].publisher == ALICE.public_key


def test_full_store_keeps_what_is_closest_to_it():
    store = ValueStore(bytes(32), SUITE, capacity=20)
    for n in range(20):
        put(store, make(Identity(SUITE, bytes([n + 1]) * 32), key=bytes([100 + n]) * 32), ip=f"20.{n}.1.1")
    assert put(store, make(BOB, key=b"\xff" * 32), ip="20.99.1.1") is StoreStatus.QUOTA
    assert put(store, make(Identity(SUITE, b"\x63" * 32), key=b"\x01" * 32), ip="20.98.1.1") is StoreStatus.STORED
    assert len(store) == 20
    assert store.get(bytes([119]) * 32) == []


def calls_of_a_write(size: int, key: bytes) -> int:
    """Of Python and C, that a write to a full store makes."""
    store, rng = ValueStore(bytes(32), SUITE, capacity=size), random.Random(1)
    for _ in range(size):
        assert put(store, make(Identity(SUITE, rng.randbytes(32)), b"\x80" + rng.randbytes(31)), None) is STORED
    packed, calls = make(key=key), 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    put(store, packed)
    sys.setprofile(None)
    assert len(store) == size
    return calls


@pytest.mark.parametrize("key", [b"\xff" * 32, b"\1" * 32], ids=["too far away", "closer than others"])
def test_a_write_to_a_full_store_does_not_look_at_all_of_it(key):
    assert calls_of_a_write(400, key) <= calls_of_a_write(40, key) + 8


def test_room_is_made_in_the_order_of_distance():
    rng = random.Random(3)
    store = ValueStore(rng.randbytes(32), SUITE, capacity=40)
    writers = [Identity(SUITE, bytes([n]) * 32) for n in range(120)]
    keys = [rng.randbytes(32) for _ in range(100)]
    own = store._own_number
    for number, key in enumerate([*keys, *keys[:20]]):
        put(store, make(writers[number], key), f"20.{number}.1.1")
        if number % 7 == 0:
            store.expire(UNIX)
    closest = sorted(keys, key=lambda key: int.from_bytes(key) ^ own)
    assert set(store.keys()) <= set(closest[:40])
    store.expire(UNIX + 3600)
    assert (len(store), store.keys()) == (0, [])
    assert put(store, make(key=keys[0])) is STORED


def test_quota_is_given_back(store, monkeypatch):
    monkeypatch.setattr(values_module, "MAX_PER_PUBLISHER", 1)
    put(store, make(key=b"a" * 32, expiry=UNIX + 5))
    assert put(store, make(key=b"b" * 32)) is StoreStatus.QUOTA
    store.expire(UNIX + 5)
    assert put(store, make(key=b"b" * 32)) is StoreStatus.STORED


def test_changes_are_taken_once(store):
    packed = make(expiry=UNIX + 5)
    put(store, packed)
    assert store.take_changes() == ([packed], [])
    assert store.take_changes() == ([], [])
    store.put_back([packed], [])
    assert store.take_changes() == ([packed], [])
    store.expire(UNIX + 5)
    assert store.take_changes() == ([], [(ALICE.public_key, b"k" * 32)])


def test_what_the_disk_did_not_remove_is_removed_later(store):
    put(store, make(expiry=UNIX + 5))
    store.take_changes()
    store.expire(UNIX + 5)
    changes = store.take_changes()
    store.put_back(*changes)
    assert store.take_changes() == changes == ([], [(ALICE.public_key, b"k" * 32)])


def test_a_record_that_came_back_meanwhile_is_not_removed(store):
    put(store, make(expiry=UNIX + 5))
    store.take_changes()
    store.expire(UNIX + 5)
    changes = store.take_changes()
    again = make(sequence=2)
    put(store, again)
    store.put_back(*changes)
    assert store.take_changes() == ([again], [])


def test_what_has_expired_on_disk_goes_from_there(store):
    kept, gone = make(key=b"a" * 32), make(key=b"b" * 32, expiry=UNIX - 1)
    store.load([kept, gone, b"rubbish"], 0.0, UNIX)
    assert [record.packed for record in store.get(b"a" * 32)] == [kept]
    assert store.take_changes() == ([], [(ALICE.public_key, b"b" * 32)])


def test_updates_do_not_pile_up_in_the_expiry_heap(store):
    for sequence in range(1, 500):
        put(store, make(sequence=sequence))
    assert len(store._expiries) < 100


def test_republishing_takes_what_nobody_refreshed(store):
    put(store, make(key=b"a" * 32), now=0.0)
    put(store, make(key=b"b" * 32), now=100.0)
    assert [record.key for record in store.not_written_since(50.0, 10)] == [b"a" * 32]
    store.republished(store.get(b"a" * 32)[0], 200.0)
    assert store.not_written_since(50.0, 10) == []


def test_token_is_bound_to_id_address_and_key_and_ages():
    tokens = Tokens(random.Random(1).randbytes)
    where = ("192.0.2.1", 1)
    token = tokens.make(b"i" * 32, where, b"k" * 32, 0.0)
    assert tokens.check(token, b"i" * 32, where, b"k" * 32, 1.0)
    assert not tokens.check(token, b"j" * 32, where, b"k" * 32, 1.0)
    assert not tokens.check(token, b"i" * 32, ("192.0.2.1", 2), b"k" * 32, 1.0)
    assert not tokens.check(token, b"i" * 32, where, b"l" * 32, 1.0)
    assert not tokens.check(b"", b"i" * 32, where, b"k" * 32, 1.0)
    assert tokens.check(token, b"i" * 32, where, b"k" * 32, TOKEN_ROTATION_S + 1)
    assert not tokens.check(token, b"i" * 32, where, b"k" * 32, 2 * TOKEN_ROTATION_S + 2)


def test_tokens_of_before_a_long_pause_are_void():
    tokens = Tokens(random.Random(1).randbytes)
    token = tokens.make(b"i" * 32, ("192.0.2.1", 1), b"k" * 32, 0.0)
    assert not tokens.check(token, b"i" * 32, ("192.0.2.1", 1), b"k" * 32, 10 * TOKEN_ROTATION_S)
