"""One gossip core, from outside."""

import hashlib
import random

import pytest

from kodectl.core import gossip, neighbour, seen, serving, spreading
from kodectl.core.gossip import Gossip
from kodectl.core.gossip_effects import Distrust, Offence, Relay, SendDigest, SendHave, SendWant, Verdict
from kodectl.core.message_cache import MessageCache
from kodectl.core.pulls import WANT_DELAY_S
from kodectl.core.seen import SLOT_MS
from kodectl.errors import PeerFault
from kodectl.wire.messages import DigestSlot

NOW, UNIX = 1000.0, 1_790_000_000.0
TIME_MS = int(UNIX * 1000)
ORIGIN = b"o" * 32


def an_id(number):
    return hashlib.sha256(str(number).encode()).digest()


def a_core(peers, seed=1):
    core = Gossip(random.Random(seed))
    for peer in range(peers):
        core.connected(bytes([peer]), NOW)
    return core


def receive(core, peer, message_id, *, message=b"message", now=NOW, time_ms=TIME_MS, origin=ORIGIN, flood=False):
    assert core.allow(peer, len(message), now)
    verdict = core.judge(peer, message_id, origin, time_ms, len(message), now, UNIX + now - NOW)
    if verdict is not Verdict.NEW:
        return verdict
    return core.accept(peer, message_id, origin, time_ms, message, now, flood=flood)


def tick(core, now):
    return core.tick(now, UNIX + now - NOW, {})


@pytest.mark.parametrize(("peers", "copies"), [(1, 1), (5, 5), (6, 6), (12, 6), (20, 6), (30, 9), (50, 15)])
def test_an_origin_hands_its_message_to_a_share_and_to_six_at_least(peers, copies):
    relay = a_core(peers).publish(an_id(1), TIME_MS, b"message", NOW, flood=False)
    assert relay.message == b"message"
    assert len(set(relay.peers)) == copies


@pytest.mark.parametrize(("peers", "copies"), [(2, 1), (4, 2), (8, 3), (20, 6), (50, 15)])
def test_a_relay_hands_it_to_a_share_but_never_back(peers, copies):
    for seed in range(20):
        relay = receive(a_core(peers, seed), b"\0", an_id(1))
        assert len(set(relay.peers)) == copies
        assert b"\0" not in relay.peers


def test_chance_picks_the_share():
    picks = {tuple(receive(a_core(20, seed), b"\0", an_id(1)).peers) for seed in range(50)}
    assert len({peer for pick in picks for peer in pick}) == 19


def test_a_relay_that_knows_who_has_it_spares_them():
    core = a_core(4)
    for peer in (b"\1", b"\2"):
        core.on_have(peer, [an_id(1)], NOW)
    assert list(receive(core, b"\0", an_id(1)).peers) == [b"\3"]


def test_the_only_peer_gets_nothing_back():
    assert receive(a_core(1), b"\0", an_id(1)) is None


def test_flood_goes_to_all_but_the_source():
    relay = receive(a_core(20), b"\5", an_id(1), flood=True)
    assert sorted(relay.peers) == [bytes([peer]) for peer in range(20) if peer != 5]


def test_duplicates_are_recognised():
    core = a_core(4)
    receive(core, b"\0", an_id(1))
    assert receive(core, b"\1", an_id(1)) is Verdict.DUPLICATE
    core.publish(an_id(2), TIME_MS, b"own", NOW, flood=False)
    assert receive(core, b"\1", an_id(2)) is Verdict.DUPLICATE


@pytest.mark.parametrize(
    ("age_s", "verdict"),
    [(601, Verdict.TOO_OLD), (-121, Verdict.AHEAD), (2e9, Verdict.TOO_OLD), (-1e16, Verdict.AHEAD)],
)
def test_times_outside_of_the_window_are_refused(age_s, verdict):
    assert receive(a_core(2), b"\0", an_id(1), time_ms=max(0, int((UNIX - age_s) * 1000))) is verdict


def test_ids_are_announced_within_100_ms_to_those_who_got_nothing():
    core = a_core(8)
    expected = {bytes([peer]): [] for peer in range(8)}
    for number in range(3):
        relay = receive(core, b"\0", an_id(number))
        handed = {*relay.peers, b"\0"}
        for peer in expected.keys() - handed:
            expected[peer].append(an_id(number))
    assert core.next_deadline() <= NOW + 0.1
    haves = [effect for effect in tick(core, NOW + 0.1) if isinstance(effect, SendHave)]
    assert {have.peer: list(have.ids) for have in haves} == {peer: ids for peer, ids in expected.items() if ids}


def test_who_has_shown_to_have_it_is_not_told():
    core = a_core(8)
    relay = receive(core, b"\0", an_id(1))
    first, second, *others = [bytes([peer]) for peer in range(1, 8) if bytes([peer]) not in relay.peers]
    assert receive(core, first, an_id(1)) is Verdict.DUPLICATE
    core.on_have(second, [an_id(1)], NOW)
    haves = [effect for effect in tick(core, NOW + 0.1) if isinstance(effect, SendHave)]
    assert [have.peer for have in haves] == others


def test_a_relay_sees_to_it_that_six_have_it():
    core = a_core(10)
    relay = receive(core, b"\0", an_id(1))
    assert len(relay.peers) == 3
    rest = [bytes([peer]) for peer in range(1, 10) if bytes([peer]) not in relay.peers]
    core.on_have(rest[0], [an_id(1)], NOW)
    late = [effect for effect in tick(core, NOW + spreading.TOP_UP_AFTER_S) if isinstance(effect, Relay)]
    # The source, three handed, one that has it: one more makes six.
    assert [len(effect.peers) for effect in late] == [1]
    assert late[0].peers[0] in rest[1:]


def test_what_is_announced_and_does_not_come_is_asked_for():
    core = a_core(2)
    core.on_have(b"\0", [an_id(1), an_id(2)], NOW)
    receive(core, b"\1", an_id(2))
    wants = [effect for effect in tick(core, NOW + WANT_DELAY_S) if isinstance(effect, SendWant)]
    assert wants == [SendWant(b"\0", (an_id(1),))]


def test_a_want_is_answered_as_far_as_there_is_room_and_then_goes_on():
    core = a_core(2)
    for number in range(3):
        core.publish(an_id(number), TIME_MS, bytes(1000), NOW, flood=False)
    ids = [an_id(number) for number in range(3)]
    assert [effect.message_id for effect in core.on_want(b"\0", [an_id("?"), *ids], 2500, NOW)] == ids[:2]
    assert core.indebted() == [b"\0"]
    assert core.next_deadline() <= NOW + serving.SERVE_AGAIN_S
    assert not any(isinstance(effect, Relay) for effect in core.tick(NOW + 0.05, UNIX, {b"\0": 999}))
    late = [effect for effect in core.tick(NOW + 0.1, UNIX, {b"\0": 1000}) if isinstance(effect, Relay)]
    assert late == [Relay((b"\0",), ids[2], bytes(1000))]
    assert core.indebted() == []


def test_wants_of_one_peer_are_limited_in_number_and_in_bytes_a_second():
    core = a_core(1)
    core.publish(an_id(1), TIME_MS, bytes(1 << 20), NOW, flood=False)
    served = core.on_want(b"\0", [an_id(1)] * 2000, 1 << 40, NOW)
    assert len(served) == neighbour.SERVE_BURST // ((1 << 20) + neighbour.MESSAGE_COST)
    assert core.counters()["want_over_limit"] == 2000 - serving.MAX_OWED
    core.on_want(b"\0", [an_id(1)] * 2000, 1 << 40, NOW)
    assert core.counters()["served"] == len(served)


def digests(effects):
    return [effect for effect in effects if isinstance(effect, SendDigest)]


def test_a_new_link_starts_with_a_digest():
    core = a_core(0)
    core.publish(an_id(1), TIME_MS, b"message", NOW, flood=False)
    expected = DigestSlot(TIME_MS // SLOT_MS, 1, an_id(1))
    assert core.connected(b"\0", NOW) == [SendDigest(b"\0", (expected,))]


def test_a_digest_that_differs_is_answered_with_ids_and_an_equal_one_is_not():
    core = a_core(1)
    core.publish(an_id(1), TIME_MS, b"message", NOW, flood=False)
    tick(core, NOW + 1)
    equal = DigestSlot(TIME_MS // SLOT_MS, 1, an_id(1))
    assert core.on_digest(b"\0", [equal], NOW + 3, UNIX + 3) == []
    assert not any(isinstance(effect, SendHave) for effect in tick(core, NOW + 4))
    core.on_digest(b"\0", [], NOW + 5, UNIX + 5)
    haves = [effect for effect in tick(core, NOW + 6) if isinstance(effect, SendHave)]
    assert haves == [SendHave(b"\0", (an_id(1),))]


def test_a_side_that_lacks_something_answers_with_its_own_digest_but_not_endlessly():
    core = a_core(1)
    theirs = [DigestSlot(TIME_MS // SLOT_MS, 1, an_id(1))]
    now = NOW + gossip.DIGEST_AGAIN_S
    assert len(digests(core.on_digest(b"\0", theirs, now, UNIX))) == 1
    assert digests(core.on_digest(b"\0", theirs, now + 0.1, UNIX)) == []


def test_many_ids_leave_in_messages_of_bounded_size():
    core = a_core(1)
    core.disconnected(b"\0", NOW)
    for number in range(5000):
        core.publish(an_id(number), TIME_MS, b"", NOW, flood=False)
    core.connected(b"\0", NOW)
    core.on_digest(b"\0", [], NOW, UNIX)
    told = []
    for step in (1, 2):
        haves = [effect for effect in tick(core, NOW + 0.1 * step) if isinstance(effect, SendHave)]
        assert 0 < sum(len(have.ids) for have in haves) <= 4096
        assert all(len(have.ids) <= 1024 for have in haves)
        told += [message_id for have in haves for message_id in have.ids]
    assert told == [an_id(number) for number in range(5000)]


def test_slots_that_still_fill_up_are_compared_on_a_fresh_link_only():
    core = a_core(1)
    later = NOW + 100
    time_ms = int((UNIX + 100) * 1000)
    core.publish(an_id(1), time_ms, b"message", later, flood=False)
    tick(core, later + 0.1)
    core.on_digest(b"\0", [], later + 1, UNIX + 101)
    assert not any(isinstance(effect, SendHave) for effect in tick(core, later + 2))
    core.on_digest(b"\0", [], later + 30, UNIX + 130)
    assert any(isinstance(effect, SendHave) for effect in tick(core, later + 31))


def test_peers_are_compared_with_in_turn():
    core = a_core(5)
    asked = []
    now = NOW
    for _ in range(10):
        now += gossip.DIGEST_EVERY_S * 2
        asked += [effect.peer for effect in digests(tick(core, now))]
    assert sorted(asked) == sorted([bytes([peer]) for peer in range(5)] * 2)


def test_digests_sent_all_the_time_are_ignored():
    core = a_core(1)
    for _ in range(100):
        core.on_digest(b"\0", [], NOW, UNIX)
    assert core.counters()["digests_ignored"] == 100 - neighbour.DIGEST_BURST


def test_a_flooding_peer_is_cut_short_and_told_on():
    core = a_core(2)
    allowed = sum(core.allow(b"\0", 200, NOW) for _ in range(60_000))
    assert allowed == neighbour.PEER_BURST // (200 + neighbour.MESSAGE_COST)
    assert core.allow(b"\1", 200, NOW), "the others are heard"
    assert core.next_deadline() <= NOW
    assert tick(core, NOW) == [Distrust(b"\0", Offence.FLOODING)]
    assert core.allow(b"\0", 200, NOW + 1)


def test_a_peer_that_never_stops_flooding_breaks_the_protocol():
    core = a_core(2)
    for _ in range((neighbour.PEER_BURST + neighbour.PATIENCE) // neighbour.MESSAGE_COST):
        core.allow(b"\0", 0, NOW)
    with pytest.raises(PeerFault) as caught:
        core.allow(b"\0", 0, NOW)
    assert caught.value.code == "flooding"
    assert core.allow(b"\1", 0, NOW), "the others are heard"


def test_a_burst_twice_as_fast_as_allowed_costs_no_link():
    core = a_core(1)
    pause_s = neighbour.MESSAGE_COST / (2 * neighbour.PEER_RATE)
    allowed = sum(core.allow(b"\0", 0, NOW + number * pause_s) for number in range(200_000))
    assert 100_000 < allowed < 200_000


def test_one_origin_is_limited_without_blame_for_who_relays_it():
    core = a_core(2)
    block = bytes(4 << 20)
    verdicts = [receive(core, b"\0", an_id(number), message=block) for number in range(25)]
    assert verdicts.count(Verdict.OVER_RATE) == 25 - gossip.ORIGIN_BURST // (len(block) + neighbour.MESSAGE_COST)
    assert not any(isinstance(effect, Distrust) for effect in tick(core, NOW))
    assert receive(core, b"\0", an_id("other"), origin=b"p" * 32) is not Verdict.OVER_RATE
    # What was dropped has not been seen: it is taken when it comes again.
    assert isinstance(receive(core, b"\0", an_id(24), message=block, now=NOW + 5), Relay)


def test_a_publisher_learns_how_long_to_wait():
    core = a_core(1)
    size, now = 4 << 20, NOW
    for number in range(60):
        wait_s = core.publish_wait_s(size, now, UNIX)
        assert wait_s < 0.6
        now += wait_s
        core.publish(an_id(number), TIME_MS, bytes(size + 5), now, flood=False)
    assert now - NOW == pytest.approx((60 * 4.004 - 72) / 7.2, abs=1)


def test_the_origins_remembered_are_bounded():
    core = a_core(1)
    for number in range(gossip.MAX_ORIGINS + 100):
        receive(core, b"\0", an_id(number), origin=an_id(("origin", number)))
    assert len(core._origins) == gossip.MAX_ORIGINS


def test_a_message_for_a_crowded_link_becomes_an_announcement():
    core = a_core(1)
    core.publish(an_id(1), TIME_MS, b"message", NOW, flood=True)
    core.postpone(b"\0", an_id(1), NOW)
    assert SendHave(b"\0", (an_id(1),)) in tick(core, NOW + 0.1)


def test_a_peer_that_is_gone_gets_and_owes_nothing():
    core = a_core(8)
    relay = receive(core, b"\0", an_id(1))
    core.on_want(b"\1", [an_id(1)], 0, NOW)
    for peer in range(8):
        core.disconnected(bytes([peer]), NOW)
    assert relay
    assert core.indebted() == []
    assert tick(core, NOW + 60) == []
    assert not core.allow(b"\1", 10, NOW)


def test_an_idle_core_asks_for_no_ticks():
    core = a_core(0)
    assert core.next_deadline() == float("inf")
    core.connected(b"\0", NOW)
    assert core.next_deadline() < float("inf")
    core.disconnected(b"\0", NOW)
    tick(core, NOW + 60)
    assert core.next_deadline() == float("inf")


def test_old_messages_are_forgotten_and_refused():
    core = a_core(1)
    receive(core, b"\0", an_id(1))
    tick(core, NOW + 700)
    assert core.counters()["cached"] == 0
    assert receive(core, b"\0", an_id(1), now=NOW + 700) is Verdict.TOO_OLD
    # By a clock that was set back meanwhile it would be in time again.
    assert core.judge(b"\0", an_id(1), ORIGIN, TIME_MS, 7, NOW + 701, UNIX) is Verdict.TOO_OLD


def test_when_nothing_more_can_be_remembered_new_messages_are_refused():
    core = a_core(1)
    core._seen = seen.Seen(limit=10)
    for number in range(10):
        receive(core, b"\0", an_id(number))
    assert receive(core, b"\0", an_id("one more")) is Verdict.FULL
    assert core.publish_wait_s(1, NOW, UNIX) == float("inf")
    assert receive(core, b"\0", an_id(1)) is Verdict.DUPLICATE


@pytest.mark.parametrize("ahead_s", [20, 60, 119])
@pytest.mark.parametrize("slots", [1, 3, 6, 9])
def test_many_messages_from_ahead_do_not_close_the_present(ahead_s, slots):
    """A spammer with as many keys as he likes signs messages of the next two minutes until the memory is full."""
    core = a_core(2)
    core._seen = seen.Seen(limit=600)
    for number in range(900):
        time_ms = TIME_MS + max(20_000, ahead_s * 1000 - number % slots * SLOT_MS)
        receive(core, b"\0", an_id(("spam", number)), time_ms=time_ms, origin=number.to_bytes(32, "big"))
    for age_s in (0, 1, 20, 49):
        assert isinstance(receive(core, b"\1", an_id(age_s), time_ms=TIME_MS - age_s * 1000), Relay | None)
    # And when that time has come, it is open as well.
    for later in range(1, 120):
        message_id, time_ms = an_id(("later", later)), TIME_MS + later * 1000
        assert isinstance(receive(core, b"\1", message_id, time_ms=time_ms, now=NOW + later), Relay | None)


def test_what_is_older_than_a_minute_makes_room_for_what_is_new():
    core = a_core(1)
    core._seen = seen.Seen(limit=30)
    for slot in range(30):
        receive(core, b"\0", an_id(slot), time_ms=TIME_MS - slot * SLOT_MS)
    assert core.publish_wait_s(1, NOW, UNIX) == 0
    core.publish(an_id("own"), TIME_MS, b"own", NOW, flood=False)
    assert receive(core, b"\0", an_id("oldest"), time_ms=TIME_MS - 29 * SLOT_MS) is Verdict.TOO_OLD
    assert isinstance(receive(core, b"\0", an_id("in between"), time_ms=TIME_MS - 15 * SLOT_MS), Relay | None)


def test_a_message_whose_slot_had_to_be_forgotten_for_it_is_refused():
    core = a_core(1)
    core._seen = seen.Seen(limit=1)
    receive(core, b"\0", an_id(1), time_ms=TIME_MS - 9 * SLOT_MS)
    assert receive(core, b"\0", an_id(2), time_ms=TIME_MS - 9 * SLOT_MS) is Verdict.TOO_OLD


@pytest.mark.parametrize(("held", "announced"), [(0, 0), (1, 1), (13, 13), (60, 20), (200, 20)])
def test_a_digest_that_differs_everywhere_costs_no_more_than_can_be_announced(monkeypatch, held, announced):
    monkeypatch.setattr(spreading, "MAX_TO_ANNOUNCE", 20)

    class Cache(MessageCache):
        asked = 0

        def __contains__(self, message_id):
            Cache.asked += 1
            return super().__contains__(message_id)

    core = a_core(0)
    core._cache = Cache(max_messages=held)
    for number in range(200):
        core.publish(an_id(number), TIME_MS - number % 5 * SLOT_MS, b"message", NOW, flood=False)
    core.connected(b"\0", NOW)
    core.on_digest(b"\0", [], NOW, UNIX)
    told = [message_id for effect in tick(core, NOW + 0.1) if isinstance(effect, SendHave) for message_id in effect.ids]
    assert len(told) == announced
    assert {*told} <= {an_id(number) for number in range(200 - held, 200)}
    assert Cache.asked <= 5 * 7, "five slots of forty ids, halved six times"


def test_slots_about_to_be_too_old_are_not_compared():
    core = a_core(1)
    receive(core, b"\0", an_id(1), time_ms=int((UNIX - 570) * 1000))
    tick(core, NOW + 1)
    core.on_digest(b"\0", [], NOW + 2, UNIX + 2)
    assert not any(isinstance(effect, SendHave) for effect in tick(core, NOW + 3))


def test_after_many_were_pulled_from_a_peer_it_is_compared_with_again():
    core = a_core(8)
    ids = [an_id(number) for number in range(gossip.MANY_PULLED)]
    core.on_have(b"\3", ids, NOW)
    for step in range(100):
        now = NOW + 0.15 * (step + 1)
        for want in [effect for effect in tick(core, now) if isinstance(effect, SendWant)]:
            for message_id in want.ids:
                receive(core, want.peer, message_id, now=now)
        if core.counters()["pulled"] == len(ids):
            break
    compared = [effect.peer for effect in digests(tick(core, now + gossip.UPKEEP_EVERY_S))]
    assert b"\3" in compared
