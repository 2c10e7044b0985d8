"""The lookup against worlds of tables: it finds the closest, in loose rounds, and ends."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core import lookup as lookup_module
from kodectl.core.distance import distance
from kodectl.core.lookup import ALPHA, MAX_ALPHA, MAX_CANDIDATES, MAX_PLACES, MAX_QUESTIONS, Lookup
from kodectl.wire.contacts import Contact

OWN = b"\xff" * 32


def make_contacts(count: int, rng: random.Random) -> list[Contact]:
    return [Contact(rng.randbytes(32), f"10.1.{n >> 8}.{n & 255}", 1, 1) for n in range(count)]


def closest_of(contacts: list[Contact], target: bytes, count: int = 16) -> list[Contact]:
    return sorted(contacts, key=lambda contact: distance(contact.node_id, target))[:count]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), dead_share=st.sampled_from([0.0, 0.3]))
def test_ends_with_the_closest_living_of_all_it_heard_of(seed, dead_share):
    rng = random.Random(seed)
    everybody = make_contacts(300, rng)
    dead = set(rng.sample([contact.node_id for contact in everybody], int(300 * dead_share)))
    knows = {
        contact.node_id: closest_of(everybody, contact.node_id, 40) + rng.sample(everybody, 40) for contact in everybody
    }
    target = rng.randbytes(32)
    seeds = rng.sample(everybody, 8)
    known = {contact.node_id: contact for contact in seeds}
    lookup = Lookup(target, OWN, seeds)
    under_way: list[Contact] = []
    while True:
        under_way += lookup.questions()
        if lookup.over:
            break
        contact = under_way.pop(rng.randrange(len(under_way)))
        if contact.node_id in dead:
            lookup.slow(contact)
            lookup.failed(contact)
        else:
            told = closest_of(knows[contact.node_id], target)
            known.update((one.node_id, one) for one in told)
            lookup.answered(contact, told)
    alive = [contact for node_id, contact in known.items() if node_id not in dead]
    assert lookup.closest() == closest_of(alive, target)
    assert lookup.questions_asked < 150


def test_asks_alpha_at_once_and_each_once():
    contacts = make_contacts(10, random.Random(1))
    lookup = Lookup(bytes(32), OWN, contacts)
    first = lookup.questions()
    assert first == closest_of(contacts, bytes(32))[:ALPHA]
    assert lookup.questions() == []
    lookup.answered(first[0], [])
    assert len(lookup.questions()) == 1


def test_a_slow_answer_frees_its_place_and_still_counts():
    contacts = make_contacts(10, random.Random(2))
    lookup = Lookup(bytes(32), OWN, contacts)
    slow = lookup.questions()[0]
    lookup.slow(slow)
    lookup.slow(slow)
    assert len(lookup.questions()) == 2, "its own place, and one more"
    lookup.answered(slow, [])
    assert slow in lookup.closest()


def test_the_more_are_slow_the_more_are_asked_at_once_up_to_a_limit():
    lookup = Lookup(bytes(32), OWN, make_contacts(100, random.Random(2)), k=100)
    under_way = set()
    for _ in range(30):
        under_way.update(lookup.questions())
        lookup.slow(under_way.pop())
    lookup.questions()
    assert len(under_way | set(lookup.questions())) <= MAX_ALPHA
    assert len(under_way) == MAX_ALPHA - 1


def test_no_more_are_asked_at_once_than_answers_are_wanted():
    lookup = Lookup(bytes(32), OWN, make_contacts(100, random.Random(2)), alpha=6)
    six = lookup.questions()
    lookup.answered(six[0], [])
    lookup.want(5)
    assert lookup.questions() == []
    lookup.answered(six[1], [])  # without what is looked for
    assert len(lookup.questions()) == 1
    for one in six[2:]:
        lookup.slow(one)  # and may not come at all
    assert len(lookup.questions()) == 4


def test_other_paths_are_asked_while_those_who_may_be_made_up_are_slow():
    """The closest are all of one liar's making; giving them up takes seconds each."""
    target = bytes(32)
    liar, honest = Contact((1 << 220).to_bytes(32), "90.1.1.1", 1, 1), make_contacts(3, random.Random(2))
    made_up = [Contact((number + 1).to_bytes(32), f"91.1.{number}.1", 1, 1) for number in range(16)]
    nearer = Contact((1 << 200).to_bytes(32), "92.1.1.1", 1, 1)
    lookup = Lookup(target, OWN, [liar, *honest], k=8)
    under_way = lookup.questions()
    while under_way:
        one = under_way.pop(0)
        if one in made_up:
            lookup.slow(one)
        else:
            lookup.answered(one, made_up if one == liar else [nearer])
        under_way += lookup.questions()
    assert not lookup.over, "eight are still waited for"
    assert nearer in lookup.closest()


def test_who_was_slow_and_answers_is_no_corpse_of_its_network():
    """Four without an answer in one /24 leave out the rest of it, not the four who are merely slow."""
    target = bytes(32)
    beside = [Contact((number + 1).to_bytes(32), f"91.1.1.{number}", 1, 1) for number in range(12)]
    lookup = Lookup(target, OWN, make_contacts(1, random.Random(2)), k=16)
    [seed] = lookup.questions()
    lookup.answered(seed, beside)
    slow = lookup.questions()
    for one in slow[:3]:
        lookup.slow(one)
    for one in slow[:3]:
        lookup.answered(one, [])
    more = lookup.questions()
    for one in more[:3]:
        lookup.slow(one)
    assert lookup.questions(), "three do not speak for all"
    lookup.slow(more[3])
    assert lookup.questions() == [], "four do"


def test_stops_when_the_target_answers():
    contacts = make_contacts(40, random.Random(3))
    target = contacts[0].node_id
    lookup = Lookup(target, OWN, contacts[1:5], stop_at_target=True)
    asked = lookup.questions()
    lookup.answered(asked[0], [contacts[0]])
    assert contacts[0] in lookup.questions()
    assert not lookup.found
    lookup.answered(contacts[0], [])
    assert lookup.found
    assert lookup.over


def test_without_seeds_it_is_over_at_once():
    lookup = Lookup(bytes(32), OWN, [])
    assert lookup.questions() == []
    assert lookup.over
    assert lookup.closest() == []


def test_liars_who_always_know_somebody_closer_are_bounded(monkeypatch):
    monkeypatch.setattr(lookup_module, "MAX_BEFORE_PATHS", 25)
    monkeypatch.setattr(lookup_module, "MAX_QUESTIONS", 40)
    rng = random.Random(4)
    lookup = Lookup(bytes(32), OWN, make_contacts(3, rng))
    under_way = lookup.questions()
    level = 250
    while not lookup.over:
        contact = under_way.pop()
        level -= 1 if level > 20 else 0
        news = [Contact(rng.getrandbits(level).to_bytes(32), "10.9.9.9", 1, 1) for _ in range(16)]
        lookup.answered(contact, news)
        under_way += lookup.questions()
    assert lookup.questions_asked == 40


def test_candidates_are_bounded_and_the_farthest_go():
    rng = random.Random(9)
    crowd = make_contacts(MAX_CANDIDATES + 300, rng)
    lookup = Lookup(bytes(32), OWN, crowd[:1])
    (first,) = lookup.questions()
    lookup.answered(first, crowd[1:])
    assert len(lookup._candidates) == len(lookup._by_place) == lookup._places.total() == MAX_CANDIDATES
    kept = [candidate.contact for candidate in lookup._candidates if candidate.contact != first]
    assert kept[: MAX_CANDIDATES - 1] == closest_of(crowd[1:], bytes(32), MAX_CANDIDATES)[: len(kept)]


def ask_everybody(lookup: Lookup, answers: Callable[[Contact], list[Contact] | None]) -> list[Contact]:
    """Until it is over. `answers`: what somebody says, or None if nobody is there. Returns who was asked."""
    asked: list[Contact] = []
    under_way = lookup.questions()
    while not lookup.over:
        contact = under_way.pop(0)
        asked.append(contact)
        told = answers(contact)
        if told is None:
            lookup.failed(contact)
        else:
            lookup.answered(contact, told)
        under_way += lookup.questions()
    return asked


@pytest.mark.parametrize("liars", [1, 5])
def test_a_lie_about_where_a_node_is_does_not_hide_it(liars):
    rng = random.Random(10)
    target, *seeds = make_contacts(9, rng)

    def answers(contact):
        if contact in seeds[:liars]:
            return [Contact(target.node_id, f"20.{rng.randrange(250)}.1.1", 1, 1)]
        return [target] if contact in seeds else [] if contact == target else None

    lookup = Lookup(target.node_id, OWN, seeds, stop_at_target=True)
    ask_everybody(lookup, answers)
    assert lookup.found
    assert lookup.closest()[0] == target


def test_places_of_one_node_are_bounded():
    (seed,) = make_contacts(1, random.Random(11))
    places = [Contact(bytes(32), f"20.{number}.1.1", 1, 1) for number in range(100)]
    lookup = Lookup(bytes(32), OWN, [seed], stop_at_target=True)
    asked = ask_everybody(lookup, lambda contact: places if contact == seed else None)
    assert len(asked) == 1 + MAX_PLACES


def test_another_tcp_port_is_no_other_place():
    (seed,) = make_contacts(1, random.Random(11))
    ports = [Contact(bytes(32), "20.1.1.1", 1, number) for number in range(50)]
    lookup = Lookup(bytes(32), OWN, [seed], stop_at_target=True)
    assert len(ask_everybody(lookup, lambda contact: ports if contact == seed else None)) == 2


def test_two_networks_full_of_ids_next_to_a_key_are_a_quarter_of_the_closest():
    rng = random.Random(12)
    honest = [Contact(rng.randbytes(32), f"20.{number}.0.1", 1, 1) for number in range(60)]
    ground = [Contact(rng.getrandbits(200).to_bytes(32), f"30.0.{n % 2}.{n}", 1, 1) for n in range(60)]

    def answers(contact):
        return closest_of(ground if contact in ground else [*honest, *ground[:2]], bytes(32))

    lookup = Lookup(bytes(32), OWN, rng.sample(honest, 16))
    ask_everybody(lookup, answers)
    closest = lookup.closest()
    assert len(closest) == 16
    assert sum(contact in honest for contact in closest) >= 12
    assert closest == closest_of(closest, bytes(32))


def test_where_all_are_of_one_network_nobody_is_one_too_many():
    crowd = [Contact(random.Random(n).randbytes(32), f"20.0.0.{n}", 1, 1) for n in range(30)]
    lookup = Lookup(bytes(32), OWN, crowd)
    ask_everybody(lookup, lambda contact: [])
    assert len(lookup.closest()) == 16


def test_corpses_beside_the_target_do_not_hide_it():
    rng = random.Random(13)
    seed, *_ = make_contacts(1, rng)
    target = Contact(rng.randbytes(32), "20.1.2.9", 1, 1)
    close = target.number
    corpses = [Contact((close ^ 1 + n).to_bytes(32), f"20.1.2.{100 + n}", 1, 1) for n in range(16)]
    nearby = Contact((close ^ 1 << 200).to_bytes(32), "20.9.9.9", 1, 1)

    def answers(contact):
        return (
            [*corpses, nearby]
            if contact == seed
            else [target]
            if contact == nearby
            else []
            if contact == target
            else None
        )

    lookup = Lookup(target.node_id, OWN, [seed], stop_at_target=True)
    ask_everybody(lookup, answers)
    assert lookup.found


@pytest.mark.parametrize("is_fresh", [False, True], ids=["a circle", "a farm of fresh ids"])
def test_a_path_that_liars_lead_leaves_the_other_paths_theirs(is_fresh):
    """They are nearer than anybody honest, from as many networks as they like, and all of them answer."""
    rng = random.Random(14)
    target = Contact(bytes(32), "20.0.0.1", 1, 1)
    seeds = [Contact(rng.randbytes(32), f"20.{number}.0.1", 1, 1) for number in range(1, 17)]
    seeds.sort(key=lambda contact: contact.number)
    knows_it = Contact((1 << 250).to_bytes(32), "20.99.0.1", 1, 1)

    def farm(level):
        return [Contact(rng.getrandbits(level).to_bytes(32), f"30.{rng.randrange(250)}.{n}.1", 1, 1) for n in range(16)]

    circle = farm(200)

    def answers(contact):
        if contact == target:
            return []
        if contact == knows_it:
            return [target]
        if contact in seeds and contact != seeds[0]:
            return [knows_it] if contact == seeds[5] else []
        return farm(max(8, contact.number.bit_length() - 1)) if is_fresh else circle

    lookup = Lookup(target.node_id, OWN, seeds, stop_at_target=True)
    asked = ask_everybody(lookup, answers)
    assert lookup.found
    assert len(asked) <= MAX_QUESTIONS


def test_made_up_nodes_at_one_place_are_soon_left_alone():
    rng = random.Random(6)
    victims = [Contact(rng.getrandbits(200).to_bytes(32), f"20.1.2.{n}", 1, 1) for n in range(60)]
    honest = make_contacts(20, rng)
    lookup = Lookup(bytes(32), OWN, honest)
    under_way, asked = lookup.questions(), []
    while not lookup.over:
        contact = under_way.pop(0)
        asked.append(contact)
        if contact in victims:
            lookup.failed(contact)
        else:
            lookup.answered(contact, victims[:16])
            victims = victims[16:] + victims[:16]
        under_way += lookup.questions()
    assert sum(contact in victims for contact in asked) <= 4 + ALPHA
    assert lookup.closest() == closest_of(honest, bytes(32))


def test_corpses_on_a_private_network_are_no_reason_to_stop():
    corpses, alive = make_contacts(20, random.Random(7)), make_contacts(4, random.Random(8))
    lookup = Lookup(bytes(32), OWN, corpses + alive)
    under_way = lookup.questions()
    while not lookup.over:
        contact = under_way.pop()
        if contact in alive:
            lookup.answered(contact, [])
        else:
            lookup.failed(contact)
        under_way += lookup.questions()
    assert lookup.closest() == closest_of(alive, bytes(32))


def test_own_id_is_never_asked():
    lookup = Lookup(OWN, OWN, [Contact(OWN, "10.0.0.1", 1, 1)])
    assert lookup.questions() == []


def test_unasked_answers_are_ignored():
    contacts = make_contacts(5, random.Random(5))
    lookup = Lookup(bytes(32), OWN, contacts[:1])
    assert lookup.answered(contacts[4], contacts) == 0
    asked = lookup.questions()[0]
    assert lookup.answered(asked, contacts) == 4
    assert lookup.answered(asked, contacts) == 0
