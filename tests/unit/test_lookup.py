"""The lookup against worlds of tables: it finds the closest, in loose rounds, and ends."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core import lookup as lookup_module
from kodectl.core.distance import distance
from kodectl.core.lookup import ALPHA, MAX_CANDIDATES, Lookup
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
            lookup.slow(contact.node_id)
            lookup.failed(contact.node_id)
        else:
            told = closest_of(knows[contact.node_id], target)
            known.update((one.node_id, one) for one in told)
            lookup.answered(contact.node_id, told)
    alive = [contact for node_id, contact in known.items() if node_id not in dead]
    assert lookup.closest() == closest_of(alive, target)
    assert lookup.questions_asked < 150


def test_asks_alpha_at_once_and_each_once():
    contacts = make_contacts(10, random.Random(1))
    lookup = Lookup(bytes(32), OWN, contacts)
    first = lookup.questions()
    assert first == closest_of(contacts, bytes(32))[:ALPHA]
    assert lookup.questions() == []
    lookup.answered(first[0].node_id, [])
    assert len(lookup.questions()) == 1


def test_a_slow_answer_frees_its_place_and_still_counts():
    contacts = make_contacts(10, random.Random(2))
    lookup = Lookup(bytes(32), OWN, contacts)
    slow = lookup.questions()[0]
    lookup.slow(slow.node_id)
    lookup.slow(slow.node_id)
    assert len(lookup.questions()) == 1
    lookup.answered(slow.node_id, [])
    assert slow in lookup.closest()


def test_stops_when_the_target_answers():
    contacts = make_contacts(40, random.Random(3))
    target = contacts[0].node_id
    lookup = Lookup(target, OWN, contacts[1:5], stop_at_target=True)
    asked = lookup.questions()
    lookup.answered(asked[0].node_id, [contacts[0]])
    assert contacts[0] in lookup.questions()
    assert not lookup.found
    lookup.answered(target, [])
    assert lookup.found
    assert lookup.over


def test_without_seeds_it_is_over_at_once():
    lookup = Lookup(bytes(32), OWN, [])
    assert lookup.questions() == []
    assert lookup.over
    assert lookup.closest() == []


def test_liars_who_always_know_somebody_closer_are_bounded(monkeypatch):
    monkeypatch.setattr(lookup_module, "MAX_QUESTIONS", 40)
    rng = random.Random(4)
    lookup = Lookup(bytes(32), OWN, make_contacts(3, rng))
    under_way = lookup.questions()
    level = 250
    while not lookup.over:
        contact = under_way.pop()
        level -= 1 if level > 20 else 0
        news = [Contact(rng.getrandbits(level).to_bytes(32), "10.9.9.9", 1, 1) for _ in range(16)]
        lookup.answered(contact.node_id, news)
        under_way += lookup.questions()
    assert lookup.questions_asked == 40


def test_candidates_are_bounded_and_the_farthest_go():
    rng = random.Random(9)
    crowd = make_contacts(MAX_CANDIDATES + 300, rng)
    lookup = Lookup(bytes(32), OWN, crowd)
    assert len(lookup._candidates) == len(lookup._by_id) == MAX_CANDIDATES
    assert [candidate.contact for candidate in lookup._candidates] == closest_of(crowd, bytes(32), MAX_CANDIDATES)


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
            lookup.failed(contact.node_id)
        else:
            lookup.answered(contact.node_id, victims[:16])
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
            lookup.answered(contact.node_id, [])
        else:
            lookup.failed(contact.node_id)
        under_way += lookup.questions()
    assert lookup.closest() == closest_of(alive, bytes(32))


def test_own_id_is_never_asked():
    lookup = Lookup(OWN, OWN, [Contact(OWN, "10.0.0.1", 1, 1)])
    assert lookup.questions() == []


def test_unasked_answers_are_ignored():
    contacts = make_contacts(5, random.Random(5))
    lookup = Lookup(bytes(32), OWN, contacts[:1])
    assert lookup.answered(contacts[4].node_id, contacts) == 0
    asked = lookup.questions()[0]
    assert lookup.answered(asked.node_id, contacts) == 4
    assert lookup.answered(asked.node_id, contacts) == 0
