"""Whom to ask for what was announced."""

import hashlib

from kodectl.core import pulls as limits
from kodectl.core.pulls import Announcer, Pulls


def an_id(number):
    return hashlib.sha256(str(number).encode()).digest()


def asked(pulls, now):
    return pulls.due(now)


def test_what_comes_unasked_is_not_asked_for():
    pulls, peer = Pulls(), Announcer(b"peer")
    pulls.announced(peer, [an_id(1)], now=0.0)
    assert pulls.arrived(an_id(1), b"another", now=0.05) == [peer]
    assert asked(pulls, 10.0) == {}
    assert len(pulls) == peer.introduced == 0


def test_what_does_not_come_is_asked_of_one_announcer_after_the_other():
    pulls = Pulls()
    peers = [Announcer(b"a"), Announcer(b"b"), Announcer(b"c")]
    for peer in peers:
        pulls.announced(peer, [an_id(1)], now=0.0)
    assert pulls.next_deadline() == limits.WANT_DELAY_S
    now, order = limits.WANT_DELAY_S, []
    for _ in peers:
        order += asked(pulls, now).items()
        now = pulls.next_deadline()
    assert order == [(b"a", [an_id(1)]), (b"b", [an_id(1)]), (b"c", [an_id(1)])]
    assert asked(pulls, now) == {}
    assert len(pulls) == 0, "all have failed: forgotten until announced again"
    assert [peer.broken for peer in peers] == [1, 1, 1]
    pulls.announced(peers[2], [an_id(1)], now)
    assert asked(pulls, now + 1) == {b"c": [an_id(1)]}


def test_a_peer_that_is_busy_delivering_is_given_time():
    pulls, peer, other = Pulls(), Announcer(b"peer"), Announcer(b"other")
    ids = [an_id(number) for number in range(40)]
    pulls.announced(peer, ids, now=0.0)
    assert len(asked(pulls, 1.0)[b"peer"]) == 40
    pulls.announced(other, ids, now=1.0)
    for number in range(20):
        now = 1.0 + 0.5 * (number + 1)
        assert asked(pulls, now) == {}
        pulls.arrived(an_id(number), b"peer", now)
    assert peer.broken == 0
    # But not for ever.
    assert asked(pulls, 1.0 + limits.LONGEST_WAIT_S + limits.MAX_PATIENCE_S).keys() == {b"other"}


def test_ids_that_many_announce_are_asked_of_all_of_them():
    pulls, peers = Pulls(), [Announcer(bytes([number])) for number in range(8)]
    for peer in peers:
        pulls.announced(peer, [an_id(number) for number in range(80)], now=0.0)
    assert {peer: len(ids) for peer, ids in asked(pulls, 1.0).items()} == {peer.peer_id: 10 for peer in peers}


def test_one_honest_peer_among_liars_is_soon_the_one_that_is_asked():
    """Liars announce all that it announces, and sooner."""
    pulls, liars = Pulls(), [Announcer(bytes([number])) for number in range(limits.MAX_ANNOUNCERS - 1)]
    honest = Announcer(b"honest")
    ids = [an_id(number) for number in range(300)]
    for peer in [*liars, honest]:
        pulls.announced(peer, ids, now=0.0)
    now, came = 0.0, 0
    while len(pulls):
        now = max(now, pulls.next_deadline())
        for message_id in asked(pulls, now).get(b"honest", ()):
            pulls.arrived(message_id, b"honest", now + 0.05)
            came += 1
    assert came == len(ids)
    assert now < 2 * limits.FIRST_PATIENCE_S + 1


def test_what_waits_for_a_peer_that_is_trusted_no_longer_is_asked_of_others():
    pulls, liar, honest = Pulls(), Announcer(b"liar"), Announcer(b"honest")
    ids = [an_id(number) for number in range(200)]
    pulls.announced(liar, ids, now=0.0)
    assert len(asked(pulls, 1.0)[b"liar"]) == limits.FIRST_ASKED < liar.load()
    pulls.announced(honest, ids, now=1.0)
    questions = asked(pulls, 1.0 + limits.FIRST_PATIENCE_S)
    assert questions.keys() == {b"honest"}
    assert liar.load() == 0
    assert honest.load() == 200


def test_patience_follows_the_answers():
    peer = Announcer(b"peer")
    assert peer.patience_s() == limits.FIRST_PATIENCE_S
    for _ in range(30):
        peer.kept(0.8, now=0.0)
    assert 0.8 <= peer.patience_s() < 1.0
    for _ in range(30):
        peer.kept(0.01, now=0.0)
    assert peer.patience_s() == limits.MIN_PATIENCE_S
    for _ in range(30):
        peer.kept(60.0, now=0.0)
    assert peer.patience_s() == limits.MAX_PATIENCE_S


def test_what_a_gone_peer_owes_is_asked_of_others_at_once():
    pulls, gone, other = Pulls(), Announcer(b"gone"), Announcer(b"other")
    for peer in (gone, other):
        pulls.announced(peer, [an_id(1)], now=0.0)
    pulls.announced(gone, [an_id(2)], now=0.0)
    assert asked(pulls, 1.0) == {b"gone": [an_id(1), an_id(2)]}
    pulls.forget_peer(gone, now=1.1)
    assert pulls.next_deadline() <= 1.1
    assert asked(pulls, 1.1) == {b"other": [an_id(1)]}
    assert len(pulls) == 1
    assert gone.broken == 0, "a cut link is nobody's lie"


def test_questions_to_one_peer_are_bounded_and_go_on_as_answers_come():
    pulls, peer = Pulls(), Announcer(b"peer")
    ids = [an_id(number) for number in range(3000)]
    pulls.announced(peer, ids, now=0.0)
    now, came = 1.0, []
    waiting = asked(pulls, now)[b"peer"]
    assert waiting == ids[: limits.FIRST_ASKED]
    while waiting:
        now += 0.1
        assert len(waiting) == len(peer.asked) <= limits.MAX_ASKED
        for message_id in waiting:
            pulls.arrived(message_id, b"peer", now)
        came += waiting
        assert len(came) == len(ids) or pulls.next_deadline() <= now
        waiting = asked(pulls, now).get(b"peer", [])
    assert came == ids
    assert peer.may_ask == limits.MAX_ASKED


def test_a_peer_that_is_asked_for_too_much_is_asked_for_less_and_not_blamed():
    """A block a second, of 64 asked: most come later than anyone waits."""
    pulls, peer = Pulls(), Announcer(b"peer")
    pulls.announced(peer, [an_id(number) for number in range(64)], now=0.0)
    asked(pulls, 1.0)
    for number in range(30):
        now = 2.0 + number
        pulls.arrived(an_id(number), b"peer", now)
        asked(pulls, now)
    assert peer.may_ask < limits.FIRST_ASKED // 4
    assert peer.broken == 0
    assert peer.trusted(31.0)


def test_the_wait_for_a_gone_peer_does_not_count_against_the_next():
    pulls, gone, other = Pulls(), Announcer(b"gone"), Announcer(b"other")
    for peer in (gone, other):
        pulls.announced(peer, [an_id(1)], now=0.0)
    asked(pulls, 1.0)
    pulls.forget_peer(gone, now=2.0)
    assert asked(pulls, 2.5) == {b"other": [an_id(1)]}
    asked(pulls, 1.0 + limits.FIRST_PATIENCE_S)
    assert other.broken == 0
    asked(pulls, 2.5 + limits.FIRST_PATIENCE_S)
    assert other.broken == 1


def test_one_peer_cannot_fill_the_table():
    pulls, inventor, honest = Pulls(), Announcer(b"inventor"), Announcer(b"honest")
    pulls.announced(inventor, [an_id(number) for number in range(limits.MAX_MISSING_PER_PEER + 10)], now=0.0)
    assert len(pulls) == limits.MAX_MISSING_PER_PEER
    assert inventor.overflowed
    pulls.announced(honest, [an_id("real")], now=0.0)
    assert an_id("real") in asked(pulls, 1.0)[b"honest"]


def test_the_table_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_MISSING", 100)
    pulls = Pulls()
    for name in range(10):
        pulls.announced(Announcer(bytes([name])), [an_id((name, number)) for number in range(20)], now=0.0)
    assert len(pulls) == 100


def test_announcers_of_one_id_are_bounded():
    pulls, peers = Pulls(), [Announcer(bytes([name])) for name in range(50)]
    for peer in peers:
        pulls.announced(peer, [an_id(1)], now=0.0)
        pulls.announced(peer, [an_id(1)], now=0.0)
    assert pulls.arrived(an_id(1), b"x", 0.0) == peers[: limits.MAX_ANNOUNCERS]


def test_who_never_delivers_is_no_longer_listened_to_until_time_has_passed():
    pulls, liar = Pulls(), Announcer(b"liar")
    pulls.announced(liar, [an_id(number) for number in range(limits.CREDIT)], now=0.0)
    pulls.due(1.0)
    now = 1.0 + limits.FIRST_PATIENCE_S
    pulls.due(now)
    assert not liar.trusted(now)
    pulls.announced(liar, [an_id("more")], now)
    assert len(pulls) == 0
    assert liar.trusted(now + 2 * limits.CREDIT_REGAIN_S)


def test_who_delivers_mostly_keeps_its_credit():
    peer = Announcer(b"peer")
    for number in range(1000):
        if number % 4:
            peer.kept(0.1, now=0.0)
        else:
            peer.broke(now=0.0)
    assert peer.trusted(0.0)
