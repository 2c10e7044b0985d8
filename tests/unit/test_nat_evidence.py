"""What follows from what servers say: never a wrong class, as long as no more than half of those who answer lie."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kodectl.core.mapping import Method
from kodectl.core.nat import Behavior, NatType, nat_type_of
from kodectl.core.nat_evidence import PortPattern, Why, conclude
from kodectl.core.nat_observations import (
    Address,
    Alternate,
    Aside,
    Claim,
    Evidence,
    FilterTest,
    GatewayEvidence,
    HairpinTest,
    ServerEvidence,
    fits,
    is_kin,
)
from kodectl.core.nat_votes import count
from kodectl.core.silence import CHANCE_LIMIT, Tally, chance_of_silence, is_significant

EI, AD, APD = Behavior
LOCAL_PORT = 40_000
HOST_IP, OUTER_IP = "192.168.1.2", "20.0.0.1"
ENOUGH, NO_LOSS = 30, Tally(30, 0)


# --- silence -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "silent"), [(Tally(13, 0), 13), (Tally(15, 8), 24), (Tally(17, 17), 35)])
def test_silence_means_something_when_enough_is_sent_for_the_loss(control: Tally, silent: int) -> None:
    assert is_significant(control, silent)
    assert not is_significant(control, silent // 2)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_more_silence_is_rarer_and_more_loss_makes_it_likelier(answered: int, lost: int, silent: int) -> None:
    chance = chance_of_silence(Tally(answered, lost), silent)
    assert 0 <= chance <= 1
    assert chance_of_silence(Tally(answered, lost), silent + 1) < chance
    assert chance_of_silence(Tally(answered, lost + 1), silent) >= chance
    assert chance_of_silence(Tally(answered + 1, lost), silent) <= chance


def test_nothing_measured_makes_no_silence_significant() -> None:
    assert not is_significant(Tally(0, 0), 40)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.36, 0.5])
def test_a_lossy_way_is_seldom_taken_for_a_filter(loss: float) -> None:
    """Exactly: the chance that every request of some length is lost, and the controls beside look good enough for it."""
    wrong, tallies = 0.0, {0: 1.0}
    for sent in range(1, 41):
        after: dict[int, float] = {}
        for answered, chance in tallies.items():
            for gained, factor in ((1, 1 - loss), (0, loss)):
                after[answered + gained] = after.get(answered + gained, 0.0) + chance * factor
        decided = [answered for answered in after if is_significant(Tally(answered, sent - answered), sent)]
        wrong += sum(after.pop(answered) for answered in decided) * loss**sent
        tallies = after
    assert wrong < CHANCE_LIMIT * 20


# --- the table of votes --------------------------------------------------------------------------------------------------


def mapped(letters: str) -> Address:
    """`Xp`: address X, port p."""
    return {"X": OUTER_IP, "Y": "20.66.0.1"}[letters[0]], 20_000 + 1000 * (ord(letters[1]) - ord("a"))


def says(number: int, *said: str, aside: int = 0) -> ServerEvidence:
    """A server that has seen these, each from another address of its own. `aside`: how far the other socket's port was."""
    ips = [f"20.{number}.{index}.1" for index in range(len(said))]
    claims = tuple(Claim((ip, 3478), mapped(letters)) for ip, letters in zip(ips, said, strict=True))
    has_other = len(said) > 1
    return ServerEvidence(
        name=f"server {number}",
        address=(ips[0], 3478),
        claims=claims,
        aside=Aside(30_000, (OUTER_IP, claims[0].mapped[1] + (aside or 9_000))),
        alternate=Alternate.VERIFIED if has_other else Alternate.NONE,
        other=(ips[1], 3479) if has_other else None,
    )


SAME, DEPENDS, NOTHING = False, True, None
TABLE = [
    # (what each server says, believed, believed where ports are predictable)
    ([["Xp"]], NOTHING, NOTHING),
    ([["Xp", "Xp"]], SAME, SAME),
    ([["Xp", "Xq"]], DEPENDS, DEPENDS),
    ([["Xp"], ["Xp"]], SAME, NOTHING),
    ([["Xp"], ["Xq"]], NOTHING, NOTHING),
    ([["Xp", "Xp"], ["Xq"]], NOTHING, NOTHING),
    ([["Xp", "Xq"], ["Xr"]], NOTHING, NOTHING),
    ([["Xp", "Xq"], ["Xr", "Xs"]], DEPENDS, DEPENDS),
    ([["Xp", "Xp"], ["Xp", "Xp"]], SAME, SAME),
    ([["Xp", "Xp"], ["Xr", "Xs"]], NOTHING, NOTHING),
    ([["Xp"], ["Xp"], ["Xp"]], SAME, SAME),
    ([["Xp"], ["Xp"], ["Yq"]], SAME, NOTHING),
    ([["Xp"], ["Xq"], ["Xr"]], DEPENDS, DEPENDS),
    ([["Xp", "Xq"], ["Xr"], ["Ys", "Ys"]], DEPENDS, DEPENDS),
    ([["Xp"], ["Xp"], ["Xq"], ["Xr"]], NOTHING, NOTHING),
    ([["Xp"], ["Xp"], ["Xq"], ["Xr"], ["Xs"]], DEPENDS, DEPENDS),
]


@pytest.mark.parametrize(("servers", "believed", "believed_if_predictable"), TABLE)
def test_the_table(servers: list[list[str]], believed: bool | None, believed_if_predictable: bool | None) -> None:
    apart = [says(number, *said) for number, said in enumerate(servers)]
    assert count(apart, LOCAL_PORT).depends is believed
    near = [says(number, *said, aside=3) for number, said in enumerate(servers)]
    assert count(near, LOCAL_PORT).depends is believed_if_predictable


def test_preserved_ports_are_not_predictable_though_they_are_near() -> None:
    servers = [says(number, "Xp", aside=3) for number in (1, 2)]
    port = mapped("Xp")[1]
    kept = [server.__class__(**{**vars(server), "aside": Aside(port + 3, (OUTER_IP, port + 3))}) for server in servers]
    assert count(kept, port).depends is SAME


def test_servers_of_one_network_have_one_voice() -> None:
    first, second = (
        ServerEvidence(f"{n}", (f"20.1.0.{n}", 3478), (Claim((f"20.1.0.{n}", 3478), mapped("Xp")),)) for n in (1, 2)
    )
    assert len(count([first, second], LOCAL_PORT).voices) == 1
    assert count([first, second], LOCAL_PORT).depends is NOTHING


def test_a_server_that_names_another_as_its_second_address_does_not_silence_it() -> None:
    """The liar's other address is the honest one's: it says that they see different ports, and the honest one that its two
    see the same."""
    honest = says(1, "Xp", "Xp")
    liar = ServerEvidence(
        "liar",
        ("20.2.0.1", 3478),
        (Claim(("20.2.0.1", 3478), mapped("Xq")), Claim(("20.1.0.1", 3479), mapped("Xp"))),
        alternate=Alternate.VERIFIED,
        other=("20.1.0.1", 3479),
    )
    for servers in ([honest, liar], [liar, honest]):
        assert count(servers, LOCAL_PORT).depends is NOTHING


# --- lies ----------------------------------------------------------------------------------------------------------------


class Nat(NamedTuple):
    """Ports that are drawn end in 0 of 64, and liars shift by less and invent others: no lie is true by chance. Sequential
    ports can be guessed, and are."""

    mapping: Behavior | None
    filtering: Behavior
    ports: str

    @property
    def nat_type(self) -> NatType | None:
        return nat_type_of(self.mapping is not None, self.mapping or EI, self.filtering)


NATS = [
    Nat(None, EI, "preserved"),
    Nat(None, APD, "preserved"),
    *(Nat(EI, filtering, ports) for filtering in Behavior for ports in ("preserved", "random", "sequential")),
    *(Nat(mapping, APD, ports) for mapping in (AD, APD) for ports in ("random", "sequential")),
    Nat(APD, EI, "random"),
]


class Box:
    """Gives ports as they are asked for."""

    def __init__(self, nat: Nat, rng: random.Random) -> None:
        self._nat = nat
        self._rng = rng
        self._given: dict[object, int] = {}
        self._drawn = iter(rng.sample(range(20, 1000), 100))
        self._next = rng.randrange(20_000, 30_000)
        self._step = rng.choice([1, 2])

    def seen(self, local_port: int, endpoint: Address) -> Address:
        if self._nat.mapping is None:
            return HOST_IP, local_port
        key = (local_port, *({EI: (), AD: endpoint[:1], APD: endpoint}[self._nat.mapping]))
        if key not in self._given:
            self._next += self._step
            ports = {"preserved": local_port, "random": 64 * next(self._drawn), "sequential": self._next}
            self._given[key] = ports[self._nat.ports]
        return OUTER_IP, self._given[key]


Saying = Callable[[Address, Address, random.Random], Address]
"""From where the server was asked, and what it saw, to what it says."""

SAYINGS: dict[str, Saying] = {
    "truth": lambda endpoint, seen, rng: seen,
    "one before": lambda endpoint, seen, rng: (seen[0], seen[1] - 1),
    "two before": lambda endpoint, seen, rng: (seen[0], seen[1] - 2),
    "one after": lambda endpoint, seen, rng: (seen[0], seen[1] + 1),
    "shifted": lambda endpoint, seen, rng: (seen[0], seen[1] + 17),
    "by endpoint": lambda endpoint, seen, rng: (
        seen[0],
        1000 + len(endpoint[0]) + 64 * (sum(map(ord, endpoint[0])) + endpoint[1] % 2) + 5,
    ),
    "one for all": lambda endpoint, seen, rng: (OUTER_IP, 12_345),
    "other address": lambda endpoint, seen, rng: ("20.66.0.1", seen[1]),
    "one other for all": lambda endpoint, seen, rng: ("20.66.0.1", 12_345),
    "invented": lambda endpoint, seen, rng: (seen[0], 64 * rng.randrange(20, 1000) + 7),
    "guessed local": lambda endpoint, seen, rng: (HOST_IP, seen[1]),
}
DOINGS = ("honest", "silent", "from itself", "unfit", "alternate silent", "inconsistent")


class Character(NamedTuple):
    saying: str
    doing: str
    has_two: bool


HONEST = {has_two: Character("truth", "honest", has_two) for has_two in (False, True)}
LIARS = st.builds(Character, st.sampled_from(list(SAYINGS)), st.sampled_from(DOINGS), st.booleans())


def statement(number: int, character: Character, nat: Nat, box: Box, rng: random.Random) -> ServerEvidence:
    first, second = (f"20.{number}.0.1", 3478), (f"20.{number}.1.1", 3479)
    says_ = SAYINGS[character.saying]
    aside_port = 30_000 + 64 * number + 64 * rng.randrange(100)
    aside = Aside(aside_port, says_(first, box.seen(aside_port, first), rng))
    states = {"from itself": Alternate.NONE, "unfit": Alternate.UNFIT, "alternate silent": Alternate.SILENT}
    states["inconsistent"] = Alternate.INCONSISTENT
    alternate = states.get(character.doing, Alternate.VERIFIED) if character.has_two else Alternate.NONE
    endpoints = [first, first, first]
    if alternate is Alternate.VERIFIED:
        endpoints += [second, (second[0], first[1]), (first[0], second[1])]
    claims = tuple(Claim(endpoint, says_(endpoint, box.seen(LOCAL_PORT, endpoint), rng)) for endpoint in endpoints)
    both = port = None
    if alternate is Alternate.VERIFIED:
        keeps = character.doing == "honest"
        kept = None if nat.mapping in (AD, APD) else keeps
        lets_both, lets_port = keeps and nat.filtering is EI, keeps and nat.filtering is not APD
        both = FilterTest(frozenset({second})) if lets_both else FilterTest(frozenset(), ENOUGH, kept)
        port = FilterTest(frozenset({(first[0], second[1])})) if lets_port else FilterTest(frozenset(), ENOUGH, kept)
    return ServerEvidence(
        f"{character}", first, claims, aside, alternate, second if character.has_two else None, NO_LOSS, both, port
    )


def evidence_of(nat: Nat, characters: list[Character], seed: int) -> Evidence:
    rng = random.Random(seed)
    box = Box(nat, rng)
    order = list(enumerate(characters, 1))
    rng.shuffle(order)
    servers = tuple(statement(number, character, nat, box, rng) for number, character in order)
    return Evidence(frozenset({HOST_IP, "127.0.0.1"}), HOST_IP, servers, LOCAL_PORT)


@given(st.sampled_from(NATS), st.lists(st.booleans(), min_size=1, max_size=4), st.data(), st.integers(0, 2**32))
def test_no_class_is_wrong_while_no_more_than_half_lie(
    nat: Nat, honest: list[bool], data: st.DataObject, seed: int
) -> None:
    """Dead servers say nothing, and are not among them: one honest, one dead and one liar are one of each here."""
    liars = data.draw(st.lists(LIARS, max_size=len(honest)))
    found = conclude(evidence_of(nat, [HONEST[has_two] for has_two in honest] + liars, seed))
    assert found.nat_type in (None, nat.nat_type)
    assert found.ip in (None, OUTER_IP if nat.mapping else HOST_IP)
    assert found.is_translated in (None, nat.mapping is not None)
    if nat.mapping not in (AD, APD):  # behind those a server cannot be held to its word, and the class does not need it
        assert found.filtering in (None, nat.filtering)
    assert found.nat_type or "nat_type" in found.why


@given(st.sampled_from(NATS), st.sampled_from([1, 3, 4, 5]), st.integers(0, 2**32))
@example(Nat(EI, EI, "sequential"), 1, 0)
def test_honest_servers_are_believed(nat: Nat, number: int, seed: int) -> None:
    """One with two addresses is enough, and plain ones do not outvote it."""
    if number > 1 and nat.ports == "sequential":
        number = 3
    characters = [HONEST[True]] + [HONEST[False]] * (number - 1)
    found = conclude(evidence_of(nat, characters, seed))
    assert found.nat_type is nat.nat_type
    assert found.mapping is (nat.mapping or EI)
    assert found.filtering is nat.filtering
    assert not found.outliers


@given(st.sampled_from(NATS), LIARS, st.integers(0, 2**32))
def test_one_liar_among_three_with_two_addresses_changes_nothing(nat: Nat, liar: Character, seed: int) -> None:
    found = conclude(evidence_of(nat, [HONEST[True], HONEST[True], liar], seed))
    assert found.nat_type is nat.nat_type


@given(st.lists(st.sampled_from(list(SAYINGS)), min_size=1, max_size=6), st.integers(0, 2**32))
def test_whatever_they_say_something_follows(sayings: list[str], seed: int) -> None:
    characters = [Character(saying, "honest", bool(number % 2)) for number, saying in enumerate(sayings)]
    found = conclude(evidence_of(NATS[3], characters, seed))
    assert found.has_answer
    assert set(found.why) <= {
        "address",
        "port",
        "nat_type",
        "mapping",
        "filtering",
        "port_preserved",
        "port_pattern",
        "hairpin",
        "cgnat",
        "double_nat",
    }


# --- filters -------------------------------------------------------------------------------------------------------------


def cone(
    both: FilterTest, port: FilterTest, number: int = 1, control: Tally = NO_LOSS, **changes: object
) -> ServerEvidence:
    server = says(number, "Xp", "Xp")
    return ServerEvidence(**{**vars(server), "control": control, "changed_both": both, "changed_port": port, **changes})  # type: ignore[arg-type]


def filtering(*servers: ServerEvidence) -> tuple[Behavior | None, Why | None]:
    found = conclude(Evidence(frozenset({HOST_IP}), HOST_IP, servers, LOCAL_PORT))
    return found.filtering, found.why.get("filtering")


SILENT = FilterTest(frozenset(), ENOUGH, True)
FROM_OTHER = FilterTest(frozenset({("20.1.1.1", 3479)}))
FROM_PORT = FilterTest(frozenset({("20.1.0.1", 3479)}))


def test_filtering_by_what_arrives() -> None:
    assert filtering(cone(FROM_OTHER, SILENT)) == (EI, None)
    assert filtering(cone(SILENT, FROM_PORT)) == (AD, None)
    assert filtering(cone(SILENT, SILENT)) == (APD, None)


def test_silence_is_nothing_when_too_much_is_lost() -> None:
    assert filtering(cone(SILENT, SILENT, control=Tally(5, 25))) == (None, Why.PACKET_LOSS)
    assert filtering(cone(FilterTest(frozenset(), 3, True), SILENT)) == (None, Why.PACKET_LOSS)
    assert filtering(cone(FilterTest(frozenset(), 3, True), FROM_PORT)) == (None, Why.PACKET_LOSS)


@pytest.mark.parametrize("kept", [False, None])
def test_silence_is_nothing_from_a_server_that_was_not_seen_to_keep_its_word(kept: bool | None) -> None:
    mute = FilterTest(frozenset(), ENOUGH, kept)
    assert filtering(cone(mute, mute)) == (None, Why.SERVER_DOES_NOT_CHANGE)
    assert filtering(cone(SILENT, mute)) == (None, Why.SERVER_DOES_NOT_CHANGE)


@pytest.mark.parametrize(
    ("alternate", "why"),
    [
        (Alternate.NONE, Why.SERVER_HAS_ONE_ADDRESS),
        (Alternate.UNFIT, Why.SERVER_INCONSISTENT),
        (Alternate.INCONSISTENT, Why.SERVER_INCONSISTENT),
        (Alternate.SILENT, Why.SERVER_ALTERNATE_SILENT),
        (Alternate.NOT_ASKED, Why.NOT_TESTED),
    ],
)
def test_silence_is_nothing_without_another_address(alternate: Alternate, why: Why) -> None:
    assert filtering(cone(SILENT, SILENT, alternate=alternate)) == (None, why)


def test_what_arrives_outweighs_silence() -> None:
    other = FilterTest(frozenset({("20.2.1.1", 3479)}))
    servers = (cone(SILENT, SILENT), cone(other, SILENT, number=2))
    assert filtering(*servers) == (EI, None)
    assert conclude(Evidence(frozenset({HOST_IP}), HOST_IP, servers, LOCAL_PORT)).is_contradicted


def test_an_answer_from_the_server_itself_shows_nothing() -> None:
    itself = FilterTest(frozenset({("20.1.0.1", 3478)}))
    assert filtering(cone(itself, itself))[0] is None


def test_the_silence_of_an_outlier_is_nothing() -> None:
    liar = ServerEvidence(**{**vars(cone(SILENT, SILENT)), "claims": says(1, "Yq", "Yq").claims})
    assert filtering(liar, says(2, "Xp"), says(3, "Xp"), says(4, "Xp")) == (None, Why.SERVERS_DISAGREE)


# --- what else there is --------------------------------------------------------------------------------------------------


def test_udp_is_blocked_only_when_tcp_answers() -> None:
    mute = ServerEvidence("a", ("20.1.0.1", 3478))
    silent = Evidence(frozenset({HOST_IP}), HOST_IP, (mute,), LOCAL_PORT)
    assert conclude(silent).nat_type is None
    assert conclude(silent).why["nat_type"] is Why.NO_SERVER_ANSWERED
    assert conclude(silent._replace(tcp_answers=frozenset({"a"}))).nat_type is NatType.BLOCKED
    answered = silent._replace(servers=(mute, says(2, "Xp")), tcp_answers=frozenset({"a"}))
    assert conclude(answered).nat_type is None


@pytest.mark.parametrize(
    ("ports", "pattern", "step"),
    [
        ([5000, 5003, 5004, 5005], PortPattern.SEQUENTIAL, 1),
        ([5000, 5008, 5010, 5012], PortPattern.SEQUENTIAL, 2),
        ([5012, 5010, 5008, 5000], PortPattern.SEQUENTIAL, -2),
        ([5000, 5004, 5003, 5005], PortPattern.SEQUENTIAL, 1),
        ([5000, 21_000, 64_000, 1_100], PortPattern.RANDOM, None),
        ([5000, 5257, 5001, 5002], PortPattern.RANDOM, None),
        ([5000, 5001, 5001, 5001], None, None),
    ],
)
def test_the_pattern_of_ports(ports: list[int], pattern: PortPattern | None, step: int | None) -> None:
    first, second = "20.1.0.1", "20.1.1.1"
    endpoints = [(first, 3478), (second, 3479), (second, 3478), (first, 3479)]
    claims = tuple(Claim(endpoint, (OUTER_IP, port)) for endpoint, port in zip(endpoints, ports, strict=True))
    if len(set(ports)) == 2:
        claims = claims[:2]
    server = ServerEvidence("a", endpoints[0], claims, alternate=Alternate.VERIFIED, other=endpoints[1])
    found = conclude(Evidence(frozenset({HOST_IP}), HOST_IP, (server,), LOCAL_PORT))
    assert (found.mapping is None, found.nat_type) == (len(claims) == 2, NatType.SYMMETRIC)
    assert (found.port_pattern, found.port_step) == (pattern, step)


def test_three_plain_servers_show_a_symmetric_nat_but_not_of_which_kind() -> None:
    found = conclude(
        Evidence(frozenset({HOST_IP}), HOST_IP, tuple(says(n, f"X{p}") for n, p in enumerate("pqr")), LOCAL_PORT)
    )
    assert (found.nat_type, found.mapping) == (NatType.SYMMETRIC, None)
    assert found.why["mapping"] is Why.PORTS_NOT_COMPARED
    assert (found.ip, found.port, found.why["port"]) == (OUTER_IP, None, Why.MAPPING_VARIES)


def test_two_plain_servers_show_the_mapping_and_no_class() -> None:
    found = conclude(Evidence(frozenset({HOST_IP}), HOST_IP, (says(1, "Xp"), says(2, "Xp")), LOCAL_PORT))
    assert (found.mapping, found.nat_type, found.port) == (EI, None, mapped("Xp")[1])
    assert found.verdict is not None
    assert found.why["nat_type"] is Why.SERVER_HAS_ONE_ADDRESS


def gateway(external_ip: str | None) -> GatewayEvidence:
    return GatewayEvidence(Method.UPNP, "192.168.1.1", "router", external_ip)


@pytest.mark.parametrize(
    ("source_ip", "external_ip", "cgnat", "double_nat"),
    [
        (HOST_IP, OUTER_IP, False, False),
        (HOST_IP, "20.5.5.5", None, True),
        (HOST_IP, "10.3.4.5", None, True),
        (HOST_IP, "100.70.1.1", True, True),
        (HOST_IP, None, None, None),
        ("100.70.1.9", OUTER_IP, True, False),
    ],
)
def test_carriers_and_second_nats(
    source_ip: str, external_ip: str | None, cgnat: bool | None, double_nat: bool | None
) -> None:
    evidence = Evidence(
        frozenset({source_ip}),
        source_ip,
        (says(1, "Xp"),),
        LOCAL_PORT,
        gateways=(gateway(external_ip),),
        gateways_asked=True,
    )
    found = conclude(evidence)
    assert (found.cgnat, found.double_nat) == (cgnat, double_nat)


def test_without_a_router_that_tells_neither_is_known() -> None:
    evidence = Evidence(frozenset({HOST_IP}), HOST_IP, (says(1, "Xp"),), LOCAL_PORT)
    assert conclude(evidence).why["double_nat"] is Why.GATEWAYS_NOT_ASKED
    assert conclude(evidence._replace(gateways_asked=True)).why["cgnat"] is Why.NO_GATEWAY


def test_hairpin() -> None:
    evidence = Evidence(frozenset({HOST_IP}), HOST_IP, (says(1, "Xp", "Xp"),), LOCAL_PORT)
    assert conclude(evidence).why["hairpin"] is Why.NOT_TESTED
    assert conclude(evidence._replace(hairpin=HairpinTest(True, 1))).hairpin is True
    assert conclude(evidence._replace(hairpin=HairpinTest(False, 14))).hairpin is False
    assert conclude(evidence._replace(hairpin=HairpinTest(False, 3))).hairpin is None
    varies = evidence._replace(servers=(says(1, "Xp", "Xq"),), hairpin=HairpinTest(False, 14))
    assert conclude(varies).why["hairpin"] is Why.MAPPING_VARIES


# --- whom a server may name ----------------------------------------------------------------------------------------------

SERVER = ("20.1.0.1", 3478)


@pytest.mark.parametrize(
    ("other", "is_fit"),
    [
        (("20.1.1.1", 3479), True),
        (SERVER, False),
        (("20.1.0.1", 3479), False),
        (("20.1.1.1", 3478), False),
        (("127.0.0.1", 3479), False),
        (("192.168.1.1", 3479), False),
        (("10.0.0.1", 3479), False),
        (("100.64.0.1", 3479), False),
        (("224.0.0.1", 3479), False),
        (("255.255.255.255", 3479), False),
        (("0.0.0.0", 3479), False),
        (("20.1.1.1", 0), False),
        (("2a00::1", 3479), False),
        (("20.0.0.77", 3479), False),
    ],
)
def test_whom_a_server_may_have_asked(other: Address, is_fit: bool) -> None:
    assert fits(other, SERVER, frozenset({"20.0.0.77"})) is is_fit


def test_a_server_of_the_local_network_may_name_its_neighbour() -> None:
    assert fits(("192.168.1.6", 3479), ("192.168.1.5", 3478), frozenset({HOST_IP}))
    assert fits(("127.0.0.2", 3479), ("127.0.0.1", 3478), frozenset({"127.0.0.1"}))


def test_who_knows_of_the_server() -> None:
    other = ("20.1.1.1", 3479)
    assert is_kin(other, other, SERVER, SERVER)
    assert is_kin(other, None, SERVER, SERVER)
    assert is_kin(other, other, ("20.1.1.1", 3478), SERVER), "as coturn has it"
    assert not is_kin(other, other, None, SERVER)
    assert not is_kin(other, other, ("20.5.0.1", 3478), SERVER)
    assert not is_kin(other, SERVER, SERVER, SERVER)
