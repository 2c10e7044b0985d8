"""The ICE agent without a network: what it sends, what it takes, and what it lets pass by."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core.ice.agent import (
    FAILURE_PATIENCE_S,
    FIRST_CHECKS,
    FIRST_PACING_S,
    MAX_EARLY,
    MAX_RETRIED,
    PACING_S,
    RELAY_PATIENCE_S,
    RETRY_S,
    Agent,
)
from kodectl.core.ice.book import MAX_REMOTES
from kodectl.core.ice.checks import MAX_CHECKS, RTO_S, Credentials, Peer, Role, pack_request
from kodectl.core.ice.consent import LIFETIME_S
from kodectl.core.ice.effects import Effect, Failed, Lost, Received, Selected, Transmit, Usable
from kodectl.core.ice.live import MAX_DIRECT, MAX_RELAYED, LivePaths
from kodectl.core.ice.local import Base, found_otherwise, host, may_pair, priority_of, relayed, server_reflexive
from kodectl.core.ice.pairs import MAX_PAIRS, CheckList, PairState, pair_priority
from kodectl.core.ice.requests import answer, named_ufrag, refusal
from kodectl.errors import WireError
from kodectl.wire.candidates import TCP, Address, Candidate, CandidateType, decode_candidate
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, decode, encode, verifies

OURS, THEIRS = Credentials("ours", "o" * 22), Credentials("them", "t" * 22)
FROM_US, FROM_THEM = Peer.of(THEIRS, OURS), Peer.of(OURS, THEIRS)
TIE_BREAKER = 1 << 32
THERE: Address = ("20.0.0.2", 5000)
ELSEWHERE: Address = ("20.0.0.3", 5000)
TID = b"transaction!"


class Socket:
    def __init__(self, ip: str, port: int = 4000) -> None:
        self.address: Address = (ip, port)

    def __repr__(self) -> str:
        return f"Socket{self.address}"


BASE = Socket("20.0.0.1")


def remote(address: Address = THERE, kind: CandidateType = CandidateType.HOST, foundation: str = "f") -> Candidate:
    return Candidate(foundation, 1, "udp", priority_of(kind, 65_535), address, kind)


def agent(is_controlling: bool = True, seed: int = 1, keeps_paths: bool = False) -> Agent:
    rng = random.Random(seed)
    return Agent(
        is_controlling=is_controlling,
        credentials=OURS,
        tie_breaker=TIE_BREAKER,
        random_bytes=rng.randbytes,
        rng=rng,
        keeps_paths=keeps_paths,
    )


def begun(is_controlling: bool = True, remotes: Iterable[Candidate] = (remote(),)) -> tuple[Agent, list[Effect]]:
    """With a host candidate, and the peer known at the time 0."""
    made = agent(is_controlling)
    made.add_local(host(BASE, 65_535), 0.0)
    made.local_done(0.0)
    effects = made.set_remote(THEIRS, remotes, 0.0)
    return made, effects + made.remote_done(0.0)


def sent(effects: Iterable[Effect], kind: MessageClass = MessageClass.REQUEST) -> list[Message]:
    messages = [decode(effect.data) for effect in effects if isinstance(effect, Transmit)]
    return [message for message in messages if message.kind is kind]


def only(effects: Iterable[Effect], kind: MessageClass = MessageClass.REQUEST) -> Message:
    [message] = sent(effects, kind)
    return message


def success(request: Message, mapped: Address = BASE.address, by: Credentials = THEIRS) -> bytes:
    return answer(request, mapped, by)


def error(request: Message, code: int, by: Credentials = THEIRS) -> bytes:
    return refusal(request, code, "No", by)


def request(
    *, nominates: bool = False, controlling: bool = False, tie_breaker: int = 1, peer: Peer = FROM_THEM
) -> bytes:
    return pack_request(TID, peer, Role(controlling, tie_breaker), 1_862_270_975, nominates)


def connected(is_controlling: bool = True) -> Agent:
    """Selected at the time 0."""
    made, effects = begun(is_controlling)
    if is_controlling:
        effects = made.receive(BASE, success(only(effects)), THERE, 0.0)
        effects = made.receive(BASE, success(only(effects)), THERE, 0.0)
    else:
        made.receive(BASE, success(only(effects)), THERE, 0.0)
        effects = made.receive(BASE, request(nominates=True, controlling=True), THERE, 0.0)
    assert Selected(made.pairs[0]) in effects
    return made


# --- Priorities, foundations, pairs ---------------------------------------------------------------------------------------


def test_priorities_are_the_rfcs() -> None:
    assert priority_of(CandidateType.HOST, 65_535) == 2_130_706_431
    assert priority_of(CandidateType.SERVER_REFLEXIVE, 65_535) == 1_694_498_815
    assert pair_priority(remote()._replace(priority=5), remote()._replace(priority=7), True) == 5 * 2**32 + 14
    assert pair_priority(remote()._replace(priority=5), remote()._replace(priority=7), False) == 5 * 2**32 + 15


def test_foundations_tell_type_base_and_server_apart() -> None:
    other = Socket("20.0.0.9")
    made = [
        host(BASE, 1),
        host(other, 1),
        server_reflexive(BASE, THERE, "9.9.9.9", 1),
        server_reflexive(BASE, THERE, "8.8.8.8", 1),
        relayed(BASE, THERE, "9.9.9.9", 1),
    ]
    assert len({one.candidate.foundation for one in made}) == 5
    assert host(Socket("20.0.0.1", 77), 9).candidate.foundation == made[0].candidate.foundation


@pytest.mark.parametrize(
    ("here", "there", "fits"),
    [
        ("20.0.0.1", "2a00::1", False),
        ("fe80::1", "2a00::1", False),
        ("2a00::1", "fe80::1", False),
        ("fe80::1", "fe80::2", True),
        ("169.254.0.1", "20.0.0.1", True),
    ],
)
def test_what_is_paired(here: str, there: str, fits: bool) -> None:
    assert may_pair(host(Socket(here), 1).candidate, remote((there, 1))) is fits


def test_a_reflexive_candidate_makes_no_pair_of_its_own() -> None:
    made, _ = begun()
    made.add_local(server_reflexive(BASE, ("20.0.9.9", 1), "9.9.9.9", 1), 0.0)
    assert len(made.pairs) == 1


def test_a_base_that_is_known_after_its_reflexive_candidate_gives_the_pair_its_name() -> None:
    made = agent()
    made.add_local(server_reflexive(BASE, ("20.0.9.9", 1), "9.9.9.9", 65_535), 0.0)
    made.set_remote(THEIRS, [remote()], 0.0)
    made.add_local(host(BASE, 65_535), 0.0)
    [pair] = made.pairs
    assert pair.local.candidate.type is CandidateType.HOST
    assert pair.priority == pair_priority(host(BASE, 65_535).candidate, remote(), True)


def test_pairs_and_candidates_are_bounded() -> None:
    made, _ = begun(remotes=())
    for number in range(1, 3 * MAX_PAIRS):
        made.add_local(host(Socket("20.0.0.1", number), number), 0.0)
        made.add_remote(remote((THERE[0], number)), 0.0)
    assert len(made.pairs) == MAX_PAIRS
    assert len(made.remote_candidates) == MAX_REMOTES
    priorities = [pair.priority for pair in made.pairs]
    assert priorities == sorted(priorities, reverse=True)


def test_one_pair_of_a_foundation_is_checked_until_it_works() -> None:
    pairs = CheckList(True)
    pairs.form([host(BASE, 1)], [remote((THERE[0], port)) for port in (1, 2, 3)])
    pairs.thaw()
    assert [pair.state for pair in pairs.pairs].count(PairState.WAITING) == 1
    first = pairs.next()
    assert first is not None
    first.state = PairState.IN_PROGRESS
    pairs.thaw()
    assert pairs.next() is None
    first.state = PairState.SUCCEEDED
    pairs.thaw()
    assert [pair.state for pair in pairs.pairs].count(PairState.WAITING) == 2


@pytest.mark.parametrize(("keeps_paths", "second_at"), [(True, 1.5), (False, 39.5)])
def test_a_check_in_vain_holds_up_its_foundation_for_long_only_where_the_rfc_is_all_that_counts(
    keeps_paths: bool, second_at: float
) -> None:
    """The address that a relay, or a box, has given in place of one that is gone has the foundation of that."""
    made = agent(keeps_paths=keeps_paths)
    made.add_local(host(BASE, 65_535), 0.0)
    asked: dict[Address, float] = {}
    now, effects = 0.0, made.set_remote(THEIRS, [remote((THERE[0], 1)), remote((THERE[0], 2))], 0.0)
    while len(asked) < 2:
        asked |= {
            effect.address: now for effect in effects if isinstance(effect, Transmit) and effect.address not in asked
        }
        now = made.next_deadline() or now
        effects = made.tick(now)
    assert max(asked.values()) == pytest.approx(second_at)


# --- Checks ---------------------------------------------------------------------------------------------------------------


def test_the_first_check_leaves_at_once_and_has_what_the_rfc_wants() -> None:
    _, effects = begun()
    [transmit] = [effect for effect in effects if isinstance(effect, Transmit)]
    check = decode(transmit.data)
    assert (transmit.base, transmit.address) == (BASE, THERE)
    assert check.get(Attribute.USERNAME) == "them:ours"
    assert check.get(Attribute.PRIORITY) == priority_of(CandidateType.PEER_REFLEXIVE, 65_535)
    assert check.get(Attribute.ICE_CONTROLLING) == TIE_BREAKER
    assert check.get(Attribute.USE_CANDIDATE) is None
    assert check.attributes[-1][0] == Attribute.FINGERPRINT
    assert verifies(transmit.data, THEIRS.key)
    assert named_ufrag(transmit.data) == "them"


def test_checks_are_paced() -> None:
    remotes = [remote((THERE[0], number), foundation=f"f{number}") for number in range(1, 21)]
    made, effects = begun(remotes=remotes)
    times = [0.0] * len(sent(effects))
    while len(times) < 20:
        deadline = made.next_deadline()
        assert deadline is not None
        if deadline < RTO_S:
            times += [deadline] * len(sent(made.tick(deadline)))
        else:
            break
    pauses = [round(later - earlier, 6) for earlier, later in itertools.pairwise(times)]
    assert pauses[: FIRST_CHECKS - 1] == [FIRST_PACING_S] * (FIRST_CHECKS - 1)
    assert set(pauses[FIRST_CHECKS - 1 :]) == {PACING_S}


def test_a_check_is_repeated_seven_times_and_fails_after_39_and_a_half_seconds() -> None:
    made, effects = begun()
    times = [0.0]
    assert len(sent(effects)) == 1
    while made.pairs[0].state is not PairState.FAILED:
        deadline = made.next_deadline()
        assert deadline is not None
        effects = made.tick(deadline)
        times += [deadline] * len(sent(effects))
    assert times == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert deadline == 39.5 == FAILURE_PATIENCE_S
    assert effects == [Failed()]


def test_valid_then_nominated_then_selected() -> None:
    made, effects = begun()
    effects = made.receive(BASE, success(only(effects)), THERE, 0.1)
    assert Usable(made.pairs[0]) in effects
    assert made.path is made.pairs[0]
    nomination = only(effects)
    assert nomination.get(Attribute.USE_CANDIDATE)
    assert made.selected is None
    assert made.receive(BASE, success(nomination), THERE, 0.2) == [Selected(made.pairs[0])]


def test_a_mapped_address_of_nobodys_is_a_peer_reflexive_candidate() -> None:
    made, effects = begun()
    made.receive(BASE, success(only(effects), ("20.0.9.9", 7)), THERE, 0.1)
    seen = made.pairs[0].seen_as.candidate
    assert (seen.type, seen.address) == (CandidateType.PEER_REFLEXIVE, ("20.0.9.9", 7))
    assert seen.priority == priority_of(CandidateType.PEER_REFLEXIVE, 65_535)


def test_an_answer_from_elsewhere_is_none_and_the_pair_fails_in_the_end() -> None:
    made, effects = begun()
    made.receive(BASE, success(only(effects)), ELSEWHERE, 0.1)
    assert made.pairs[0].state is PairState.IN_PROGRESS
    while (deadline := made.next_deadline()) is not None and deadline < FAILURE_PATIENCE_S + 1.0:
        made.tick(deadline)
    assert made.pairs[0].state is PairState.FAILED


def forged(check: Message) -> dict[str, bytes]:
    mapped = ((Attribute.XOR_MAPPED_ADDRESS, BASE.address),)
    plain = Message(MessageClass.SUCCESS, Method.BINDING, check.transaction_id, mapped)
    return {
        "no integrity": encode(plain, fingerprint=True),
        "another key": success(check, by=OURS),
        "no fingerprint": encode(plain, key=THEIRS.key),
        "another transaction": success(check._replace(transaction_id=TID)),
        "no integrity, an error": error(check, 400, Credentials("x", "another key than theirs")),
        "cut": success(check)[:-1],
    }


@pytest.mark.parametrize("how", forged(Message(MessageClass.REQUEST, Method.BINDING, TID)))
def test_forged_answers_change_nothing(how: str) -> None:
    made, effects = begun()
    assert made.receive(BASE, forged(only(effects))[how], THERE, 0.1) == []
    assert made.pairs[0].state is PairState.IN_PROGRESS


def test_an_error_fails_the_pair() -> None:
    made, effects = begun()
    made.receive(BASE, error(only(effects), 400), THERE, 0.1)
    assert made.pairs[0].state is PairState.FAILED


def test_a_relayed_pair_waits_for_a_better_one() -> None:
    made, effects = begun(remotes=[remote(THERE, CandidateType.RELAYED, "r"), remote(ELSEWHERE)])
    assert only(effects)
    effects = made.tick(FIRST_PACING_S)
    effects = made.receive(BASE, success(only(effects)), THERE, 0.1)
    assert made.path is not None
    assert sent(effects) == []
    asked = sent(made.tick(0.1 + RELAY_PATIENCE_S - 0.01))
    assert [check.get(Attribute.USE_CANDIDATE) for check in asked] == [None], "the repeated check of the better one"
    assert only(made.tick(0.1 + RELAY_PATIENCE_S)).get(Attribute.USE_CANDIDATE)


def test_a_relayed_pair_with_nothing_better_is_nominated_at_once() -> None:
    made, effects = begun(remotes=[remote(THERE, CandidateType.RELAYED)])
    effects = made.receive(BASE, success(only(effects)), THERE, 0.1)
    assert only(effects).get(Attribute.USE_CANDIDATE)


# --- Requests -------------------------------------------------------------------------------------------------------------


def test_a_check_on_a_pair_in_progress_restarts_its_check() -> None:
    made, effects = begun(False)
    first = only(effects)
    effects = made.receive(BASE, request(controlling=True), THERE, 0.1)
    assert verifies(effects[0].data, OURS.key)  # type: ignore[union-attr]
    assert only(effects, MessageClass.SUCCESS).get(Attribute.XOR_MAPPED_ADDRESS) == THERE
    second = only(effects)
    assert second.transaction_id != first.transaction_id
    assert Usable(made.pairs[0]) in made.receive(BASE, success(first), THERE, 0.2), (
        "the first one's answer still counts"
    )


def test_a_check_from_an_unknown_address_makes_a_peer_reflexive_candidate_that_may_be_told_later() -> None:
    made, _ = begun(False)
    effects = made.receive(BASE, request(controlling=True), ELSEWHERE, 0.1)
    assert [effect.address for effect in effects if isinstance(effect, Transmit)] == [ELSEWHERE, ELSEWHERE]
    pair = next(pair for pair in made.pairs if pair.remote.address == ELSEWHERE)
    assert (pair.remote.type, pair.remote.priority) == (CandidateType.PEER_REFLEXIVE, 1_862_270_975)
    made.add_remote(remote(ELSEWHERE, CandidateType.SERVER_REFLEXIVE), 0.2)
    assert pair.remote.type is CandidateType.SERVER_REFLEXIVE
    assert len(made.pairs) == 2


def test_a_check_before_the_description_is_answered_and_not_forgotten() -> None:
    made = agent(False)
    made.add_local(host(BASE, 1), 0.0)
    effects = made.receive(BASE, request(controlling=True, nominates=True), THERE, 0.0)
    assert sent(effects) == []
    assert only(effects, MessageClass.SUCCESS)
    check = only(made.set_remote(THEIRS, [remote()], 1.0))
    assert Selected(made.pairs[0]) in made.receive(BASE, success(check), THERE, 1.1)


def test_early_checks_are_bounded() -> None:
    made = agent(False)
    made.add_local(host(BASE, 1), 0.0)
    for port in range(1, 10 * MAX_EARLY):
        made.receive(BASE, request(controlling=True), (THERE[0], port), 0.0)
    made.set_remote(THEIRS, [], 1.0)
    assert len(made.pairs) == MAX_EARLY


REFUSED = {
    "no user": (encode(Message(MessageClass.REQUEST, Method.BINDING, TID), key=OURS.key, fingerprint=True), 400),
    "no integrity": (
        encode(Message(MessageClass.REQUEST, Method.BINDING, TID, ((Attribute.USERNAME, "ours:x"),)), fingerprint=True),
        400,
    ),
    "another user": (request(peer=Peer("other:them", OURS.key)), 401),
    "a wrong key": (request(peer=Peer("ours:them", b"wrong")), 401),
    "an unknown attribute": (
        encode(
            Message(MessageClass.REQUEST, Method.BINDING, TID, ((Attribute.USERNAME, "ours:them"), (0x7777, b""))),
            key=OURS.key,
            fingerprint=True,
        ),
        420,
    ),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data: bytes, code: int) -> None:
    made, _ = begun(False)
    effects = made.receive(BASE, data, ELSEWHERE, 0.1)
    assert only(effects, MessageClass.ERROR).get(Attribute.ERROR_CODE).code == code
    assert len(made.pairs) == 1
    assert code == 420 or len(effects[0].data) <= len(data)  # type: ignore[union-attr]


def test_nobody_is_answered_with_more_than_he_sent() -> None:
    made, _ = begun(False)
    bare = encode(Message(MessageClass.REQUEST, Method.BINDING, TID), fingerprint=True)
    assert made.receive(BASE, bare, ELSEWHERE, 0.1) == []


@pytest.mark.parametrize("is_controlling", [True, False])
def test_who_has_the_larger_tie_breaker_controls(is_controlling: bool) -> None:
    made, _ = begun(is_controlling)
    effects = made.receive(BASE, request(controlling=is_controlling, tie_breaker=TIE_BREAKER - 1), THERE, 0.1)
    assert made.role.is_controlling
    assert bool(sent(effects, MessageClass.ERROR)) is is_controlling
    made, _ = begun(is_controlling)
    effects = made.receive(BASE, request(controlling=is_controlling, tie_breaker=TIE_BREAKER + 1), THERE, 0.1)
    assert not made.role.is_controlling
    assert bool(sent(effects, MessageClass.ERROR)) is not is_controlling


def test_a_487_turns_the_role_and_the_check_is_sent_again() -> None:
    made, effects = begun()
    again = only(made.receive(BASE, error(only(effects), 487), THERE, 0.1))
    assert again.get(Attribute.ICE_CONTROLLED) not in (None, TIE_BREAKER)
    assert not made.role.is_controlling


def test_triggered_checks_do_not_flood() -> None:
    made, _ = begun(False)
    checks = 0
    for _ in range(1_000):
        checks += len(sent(made.receive(BASE, request(controlling=True), THERE, 0.1)))
    assert checks <= 17


def test_of_several_nominated_pairs_the_best_is_used() -> None:
    made, effects = begun(False, [remote(THERE, CandidateType.SERVER_REFLEXIVE, "s"), remote(ELSEWHERE)])
    better = only(effects)
    worse = only(made.tick(FIRST_PACING_S))
    made.receive(BASE, success(worse), THERE, 0.1)
    made.receive(BASE, request(nominates=True, controlling=True), THERE, 0.1)
    assert made.selected is not None
    assert made.selected.remote.address == THERE
    made.receive(BASE, success(better), ELSEWHERE, 0.2)
    made.receive(BASE, request(nominates=True, controlling=True), ELSEWHERE, 0.2)
    assert made.selected.remote.address == ELSEWHERE
    made.receive(BASE, request(nominates=True, controlling=True), THERE, 0.3)
    assert made.selected.remote.address == ELSEWHERE


def test_whose_answer_it_is_where_many_share_a_socket() -> None:
    made, effects = begun()
    check = only(effects)
    assert made.expects(check.transaction_id)
    assert not made.expects(TID)
    made.receive(BASE, success(check), THERE, 0.1)
    assert not made.expects(check.transaction_id)
    selected = connected()
    deadline = selected.next_deadline()
    assert deadline is not None
    assert selected.expects(only(selected.tick(deadline)).transaction_id)


# --- Data and consent -----------------------------------------------------------------------------------------------------


def test_data_is_taken_from_who_has_proved_himself() -> None:
    made, _effects = begun(False)
    assert made.receive(BASE, b"data", THERE, 0.1) == []
    made.receive(BASE, request(controlling=True), THERE, 0.2)
    assert made.receive(BASE, b"data", THERE, 0.3) == [Received(b"data", made.pairs[0])]
    assert made.receive(BASE, b"data", ELSEWHERE, 0.3) == []
    assert made.receive(Socket("20.0.0.1"), b"data", THERE, 0.3) == []


@pytest.mark.parametrize("is_controlling", [True, False])
def test_consent_is_asked_every_five_seconds_and_ends_after_thirty(is_controlling: bool) -> None:
    made = connected(is_controlling)
    times: list[float] = []
    effects: list[Effect] = []
    while made.selected is not None:
        deadline = made.next_deadline()
        assert deadline is not None
        effects = made.tick(deadline)
        times += [deadline] * len(sent(effects))
    assert deadline == LIFETIME_S
    assert isinstance(effects[-1], Lost)
    assert made.path is None
    assert all(4.0 <= later - earlier <= 6.0 for earlier, later in zip([0.0, *times], times, strict=False))


def test_an_answer_renews_consent_and_a_forged_one_does_not() -> None:
    made = connected()
    deadline = made.next_deadline()
    assert deadline is not None
    asked = only(made.tick(deadline))
    made.receive(BASE, success(asked), THERE, deadline)
    made.tick(LIFETIME_S + 1)
    assert made.selected is not None
    made.receive(BASE, success(asked, by=OURS), THERE, LIFETIME_S)
    made.tick(deadline + LIFETIME_S)
    assert made.selected is None


# --- Paths that are kept alive --------------------------------------------------------------------------------------------


def answering(made: Agent, effects: list[Effect], now: float, *deaf: Address) -> list[Effect]:
    """The peer answers all that is asked, and what is asked then, but at these addresses."""
    seen = list(effects)
    while effects:
        asked = [effect for effect in effects if isinstance(effect, Transmit) and effect.address not in deaf]
        effects = []
        for transmit in asked:
            if decode(transmit.data).kind is MessageClass.REQUEST:
                effects += made.receive(transmit.base, success(decode(transmit.data)), transmit.address, now)
        seen += effects
    return seen


def pass_time(made: Agent, start: float, end: float, *deaf: Address) -> None:
    while (deadline := made.next_deadline()) is not None and deadline <= end:
        now = max(start, deadline)
        answering(made, made.tick(now), now, *deaf)


def keeping(*remotes: Candidate) -> Agent:
    made = agent(keeps_paths=True)
    made.add_local(host(BASE, 65_535), 0.0)
    answering(made, made.set_remote(THEIRS, remotes, 0.0), 0.0)
    made.local_done(0.0)
    made.remote_done(0.0)
    pass_time(made, 0.0, 5.0)
    assert made.selected is not None
    return made


def test_one_that_worked_once_and_was_too_many_takes_the_place_of_those_that_die() -> None:
    places = [(THERE[0], port) for port in range(1, MAX_DIRECT + 2)]
    made = keeping(*(remote(place)._replace(priority=place[1]) for place in places))
    assert made.path is not None
    assert made.path.remote.address == places[-1]
    spare, others = places[0], places[1:]
    made.doubt(5.0)
    pass_time(made, 5.0, 8.0, *others)
    assert made.path is not None
    assert made.path.remote.address == spare


def test_a_base_that_goes_while_it_is_nominated_leaves_the_choice_to_another() -> None:
    other = Socket("20.0.0.8")
    made = agent(keeps_paths=True)
    made.add_local(host(BASE, 65_535), 0.0)
    made.add_local(host(other, 1), 0.0)
    effects = made.set_remote(THEIRS, [remote()], 0.0)
    effects = made.receive(BASE, success(only(effects)), THERE, 0.0)
    assert any(check.get(Attribute.USE_CANDIDATE) for check in sent(effects))
    made.forget(BASE, 0.0)
    pass_time(made, 0.0, 5.0)
    assert made.selected is not None
    assert made.selected.local.base is other


def test_the_credentials_of_before_a_restart_are_good_until_their_paths_die() -> None:
    made = keeping(remote())
    before = request(controlling=False)
    anew = Credentials("anew", "n" * 22)
    made.restart(anew, 5.0)
    answering(made, made.set_remote(THEIRS, [remote(ELSEWHERE)], 5.0), 5.0)
    assert made.selected is not None
    assert made.selected.remote.address == ELSEWHERE
    assert made.hears(before)
    [reply] = [effect for effect in made.receive(BASE, before, THERE, 6.0) if isinstance(effect, Transmit)]
    assert verifies(reply.data, OURS.key)


def test_whose_a_message_is_where_many_share_a_socket() -> None:
    made, effects = begun()
    check = only(effects)
    assert made.hears(request())
    assert not made.hears(request(peer=Peer("other:them", OURS.key)))
    assert made.hears(success(check))
    assert not made.hears(success(check._replace(transaction_id=TID)))
    assert not made.hears(b"")
    assert not made.hears(b"\x80data that is no STUN message")
    made.restart(Credentials("anew", "n" * 22), 1.0)
    assert made.hears(request()), "the peer may not know of the restart yet"
    assert made.hears(request(peer=Peer("anew:them", OURS.key)))


def test_failed_direct_pairs_are_tried_again_while_there_is_no_direct_path() -> None:
    relayed_end = remote(THERE, CandidateType.RELAYED, "r")
    others = [remote((ELSEWHERE[0], port), foundation=f"f{port}") for port in range(1, 9)]
    deaf = [other.address for other in others]
    made = agent(keeps_paths=True)
    made.add_local(host(BASE, 65_535), 0.0)
    answering(made, made.set_remote(THEIRS, [relayed_end, *others], 0.0), 0.0, *deaf)
    pass_time(made, 0.0, FAILURE_PATIENCE_S + 2.0, *deaf)
    assert [pair.state for pair in made.pairs].count(PairState.FAILED) == len(others)
    pass_time(made, FAILURE_PATIENCE_S + 2.0, FAILURE_PATIENCE_S + RETRY_S, *deaf)
    assert [pair.state for pair in made.pairs].count(PairState.IN_PROGRESS) == MAX_RETRIED
    assert made.path is not None
    assert made.path.is_relayed


def test_a_direct_path_is_enough() -> None:
    made = agent(keeps_paths=True)
    made.add_local(host(BASE, 65_535), 0.0)
    answering(made, made.set_remote(THEIRS, [remote(), remote(ELSEWHERE, foundation="g")], 0.0), 0.0, ELSEWHERE)
    pass_time(made, 0.0, FAILURE_PATIENCE_S + RETRY_S + 5.0, ELSEWHERE)
    assert [pair.state for pair in made.pairs if pair.remote.address == ELSEWHERE] == [PairState.FAILED]


def test_other_agents_credentials_end_with_the_restart() -> None:
    made = connected()
    made.restart(Credentials("anew", "n" * 22), 5.0)
    assert only(made.receive(BASE, request(), THERE, 5.0), MessageClass.SUCCESS)
    answering(made, made.set_remote(THEIRS, [remote()], 5.0), 5.0)
    assert made.selected is not None
    assert only(made.receive(BASE, request(), THERE, 5.0), MessageClass.ERROR)


def test_a_connection_reaches_its_other_end_alone_over_a_restart_too() -> None:
    made = agent(keeps_paths=True)
    line = Socket("20.0.0.1", 7)
    other_end = remote()._replace(transport=TCP)
    made.add_connection(found_otherwise(CandidateType.HOST, line, 65_535, TCP), other_end, 0.0)
    made.add_local(host(BASE, 65_535), 0.0)
    for _ in range(2):
        made.restart(OURS, 0.0)
        answering(made, made.set_remote(THEIRS, [remote(), remote(ELSEWHERE)], 0.0), 0.0)
        made.receive(line, request(), ELSEWHERE, 0.0)
        assert {(pair.local.base, pair.remote.address, pair.remote.transport) for pair in made.pairs} == {
            (line, THERE, TCP),
            (BASE, THERE, "udp"),
            (BASE, ELSEWHERE, "udp"),
        }
    assert made.path is not None
    assert made.path.remote.transport == "udp"
    assert priority_of(CandidateType.RELAYED, 65_535) < priority_of(CandidateType.HOST, 0, TCP)
    assert priority_of(CandidateType.HOST, 65_535, TCP) < priority_of(CandidateType.SERVER_REFLEXIVE, 0)


@given(st.binary(max_size=60))
def test_any_bytes_are_heard_or_not(data: bytes) -> None:
    made, _ = begun()
    assert made.hears(data) in (True, False)


# --- Anything -------------------------------------------------------------------------------------------------------------

_BASES = (BASE, Socket("20.0.0.1", 4001), Socket("2a00::1"))
_PLACES = st.sampled_from([THERE, ELSEWHERE, ("2a00::2", 1), ("fe80::1", 9), ("20.0.0.1", 4000)])
_NEWS = st.sampled_from(
    [
        *("add_local", "add_connection", "forget", "add_remote", "set_remote", "restart", "done"),
        *("tick", "doubt", "answer", "refuse", "request", "noise"),
    ]
)


class AnyCourse:
    """Drives an agent by whatever is drawn, with the peer's keys at hand."""

    def __init__(self, is_controlling: bool, keeps_paths: bool) -> None:
        self.agent = agent(is_controlling, keeps_paths=keeps_paths)
        self.now = 0.0
        self.asked: list[tuple[Base, Message, Address]] = []

    def do(self, news: str, base: Socket, place: Address, flag: bool, number: int, noise: bytes) -> None:
        for effect in self.effects_of(news, base, place, flag, number, noise):
            if isinstance(effect, Transmit) and decode(effect.data).kind is MessageClass.REQUEST:
                self.asked.append((effect.base, decode(effect.data), effect.address))

    def effects_of(
        self, news: str, base: Socket, place: Address, flag: bool, number: int, noise: bytes
    ) -> list[Effect]:
        made, now = self.agent, self.now
        match news:
            case "add_local":
                kind: Any = relayed if flag else host
                return made.add_local(kind(base, place, "9.9.9.9", 1) if flag else kind(base, number), now)
            case "add_connection":
                local = found_otherwise(CandidateType.HOST, base, number, TCP)
                return made.add_connection(local, remote(place)._replace(transport=TCP), now)
            case "forget":
                return made.forget(base, now)
            case "doubt":
                return made.doubt(now)
            case "add_remote":
                return made.add_remote(remote(place, list(CandidateType)[number % 4], f"f{number % 3}"), now)
            case "set_remote":
                return made.set_remote(THEIRS, [remote(place)] * flag, now)
            case "restart":
                return made.restart(OURS, now)
            case "done":
                return made.local_done(now) if flag else made.remote_done(now)
            case "tick":
                self.now += number / 10
                return made.tick(self.now)
            case "request":
                asked = request(nominates=flag, controlling=number % 2 == 0, tie_breaker=number << 30)
                return made.receive(base, asked, place, now)
            case "noise":
                return made.receive(base, noise, place, now)
        if not self.asked:
            return []
        from_base, check, address = self.asked[number % len(self.asked)]
        data = success(check, place) if news == "answer" else error(check, 487 if flag else 400)
        return made.receive(from_base, data, address if flag else place, now)


@settings(max_examples=300, deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.lists(
        st.tuples(_NEWS, st.sampled_from(_BASES), _PLACES, st.booleans(), st.integers(0, 200), st.binary(max_size=60)),
        max_size=60,
    ),
)
def test_any_course_of_things_raises_nothing_and_stays_within_bounds(
    is_controlling: bool, keeps_paths: bool, course: list[Any]
) -> None:
    driven = AnyCourse(is_controlling, keeps_paths)
    for step in course:
        driven.do(*step)
        made = driven.agent
        assert len(made.pairs) <= MAX_PAIRS
        assert len(made.remote_candidates) <= MAX_REMOTES
        assert len(made._checks) <= MAX_CHECKS
        assert made.path is None or made.path.is_heard
        assert not isinstance(made._upkeep, LivePaths) or len(made._upkeep) <= MAX_DIRECT + MAX_RELAYED
        deadline = made.next_deadline()
        for _ in range(50):  # time that is over asks for nothing more
            if deadline is None or deadline > driven.now:
                break
            made.tick(driven.now)
            deadline = made.next_deadline()
        assert deadline is None or deadline > driven.now


@given(st.binary(max_size=200))
def test_any_bytes_name_an_agent_or_none(data: bytes) -> None:
    try:
        assert named_ufrag(data) is None or data
    except WireError:
        pass


def test_a_candidate_as_text_is_taken() -> None:
    made, _ = begun(remotes=[decode_candidate("candidate:1 1 UDP 1 20.0.0.7 9 typ srflx raddr 0.0.0.0 rport 0")])
    assert len(made.pairs) == 1
