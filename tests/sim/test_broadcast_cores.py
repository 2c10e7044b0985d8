"""Many gossip cores on virtual time: what arrives where, in how many copies, and how long it takes."""

import hashlib
import random

import pytest
from gossip_campaign import SCENARIOS
from gossip_net import Member, Net, copies_per_node, counter, lacking, regular_graph, spread

from kodectl.core.gossip_effects import Distrust, Relay, SendHave


@pytest.mark.parametrize(("size", "messages"), [(10, 200), (50, 100), (1000, 10)])
def test_everyone_gets_every_message_in_few_copies(size, messages):
    net = Net(size, degree=8, seed=1, loss=0.05)
    ids = spread(net, messages)
    net.run(10)
    assert lacking(net, ids) == 0
    assert copies_per_node(net, messages) <= 3.5
    # And not by handing every message to everybody's every question.
    assert counter(net, "pulled") < 0.2 * size * messages


def test_a_message_is_everywhere_within_a_second_where_nothing_is_lost():
    net = Net(200, degree=8, seed=2)
    published_at = net.now
    [message_id] = spread(net, 1)
    net.run(5)
    assert max(member.delivered[message_id] for member in net.members) - published_at < 1.0


def test_flood_goes_over_every_link_but_back():
    net = Net(50, degree=8, seed=3)
    ids = spread(net, 20, flood=True)
    net.run(2)
    links = sum(len(member.links) for member in net.members) / 2
    assert lacking(net, ids) == 0
    # Both ways over links whose ends hear of it at the same time, one way over the tree of first arrivals.
    assert links < counter(net, "eager_copies") / len(ids) <= 2 * links


@pytest.mark.parametrize("messages", [2000])
def test_links_that_break_and_return_lose_nothing(messages):
    net = Net(10, degree=4, seed=4)
    pairs = regular_graph(10, 4, random.Random(4))
    ids = set()
    for number in range(messages):
        ids.add(net.publish(net.rng.choice(net.members)))
        net.run(0.005)
        if number % 100 == 50:
            broken = [(net.members[one], net.members[other]) for one, other in net.rng.sample(pairs, 1)]
            for one, other in broken:
                net.cut(one, other)
        if number % 100 == 90:
            for one, other in broken:
                net.join(one, other)
    net.run(20)
    assert lacking(net, ids) == 0
    assert counter(net, "pulled") > 0


def test_two_halves_that_meet_again_complete_each_other():
    net = Net(40, degree=6, seed=5)
    left, right = net.members[:20], net.members[20:]
    for member in left:
        for peer in [peer for peer, _link in member.links.values() if peer in right]:
            net.cut(member, peer)
    ids = set(spread(net, 300, seconds_between=0.2))
    assert lacking(net, ids) > 0
    net.join(left[3], right[3])
    net.run(20)
    assert lacking(net, ids) == 0


def test_more_than_fits_into_announcements_comes_over_one_link():
    """20,000 messages missed: more than are announced for one digest, more than may be missing at a time."""
    net = Net(2, degree=0, seed=6)
    one, other = net.members
    net.cut(one, other)
    ids = set()
    for _ in range(100):
        ids.update(net.publish(one, size=20) for _ in range(200))
        net.run(1.0)
    net.join(one, other)
    net.run(60)
    assert lacking(net, ids) == 0


def test_a_third_of_the_nodes_crashes_and_the_rest_is_complete():
    net = Net(200, degree=8, seed=7, loss=0.05)
    ids = set(spread(net, 20, seconds_between=0.02))
    for member in net.rng.sample(net.members, 60):
        net.crash(member)
    alive = [member for member in net.members if member.alive]
    # What died with the only nodes that had it is not a message of the network.
    survived = {message_id for message_id in ids if any(message_id in member.delivered for member in alive)}
    survived.update(spread(net, 20, seconds_between=0.02))
    net.run(60)
    assert len(survived) > 30
    assert lacking(net, survived) == 0


def test_a_liar_holds_up_nobody_and_is_told_on():
    """A node whose announcements are all it ever sends."""
    net = Net(20, degree=6, seed=8)
    liar = net.members[0]
    honest_perform, told_on = net.perform, set()

    def perform(member, effects):
        if member is liar:
            effects = [effect for effect in effects if not isinstance(effect, Relay)]
        told_on.update(effect.peer for effect in effects if isinstance(effect, Distrust))
        honest_perform(member, effects)

    def announce_what_nobody_has(step):
        for peer, link in liar.links.values():
            ids = tuple(hashlib.sha256(b"%d/%d" % (step, number)).digest() for number in range(100))
            net.receive(peer, liar.node_id, link, SendHave(liar.node_id, ids))

    net.perform = perform
    ids = set()
    for step in range(10):
        announce_what_nobody_has(step)
        ids.update(spread(net, 5) if step < 5 else ())
        net.run(5)
    ids = {message_id for message_id in ids if sum(message_id in member.delivered for member in net.members) > 1}
    assert lacking(net, ids) == 0
    assert told_on == {liar.node_id}


@pytest.mark.parametrize(
    ("size", "seed"), [(50, 1), *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
def test_those_who_announce_everything_and_hand_on_nothing_hold_up_nobody(size, seed):
    """Three in ten take what comes, tell of it at once, and are asked in vain."""
    net = Net(size, degree=8, seed=seed, loss=0.05)
    holes = set(net.rng.sample(net.members, size * 3 // 10))
    honest_perform = net.perform

    def perform(member, effects):
        if member in holes:
            effects = [effect for effect in effects if not isinstance(effect, Relay)]
        honest_perform(member, effects)

    net.perform = perform
    honest = [member for member in net.members if member not in holes]
    published = {}
    for _ in range(20):
        published[net.publish(net.rng.choice(honest))] = net.now
        net.run(0.1)
    net.run(120)
    delays = sorted(member.delivered[which] - at for member in honest for which, at in published.items())
    assert delays[len(delays) * 99 // 100] < 5.0


@pytest.mark.parametrize("name", ["lossy", "laggards", "stalls", "eclipse"])
def test_bad_company_takes_nothing_away_and_nobody_is_wronged(name):
    play, size = SCENARIOS[name]
    found = play(size, 1)
    assert (found["missing"], found["wronged"]) == (0, 0)


def test_one_honest_peer_is_enough_to_have_everything_soon():
    play, size = SCENARIOS["eclipse"]
    assert play(size, 1)["last_s"] < 6.0


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 90 * 24 * 3600.0])
def test_clocks_that_are_set_lose_nothing_and_repeat_nothing(jump_s):
    net = Net(20, degree=6, seed=9)
    steady = net.members[:15]
    ids = set()

    def publish_some():
        for _ in range(20):
            ids.add(net.publish(net.rng.choice(steady)))
            net.run(0.1)

    publish_some()
    for member in net.members[15:]:
        member.clock_error_s = jump_s
    publish_some()
    net.run(120)
    for member in net.members[15:]:
        member.clock_error_s = 0.0
    publish_some()
    net.run(30)
    assert lacking(net, ids) == 0


def test_a_node_that_comes_late_gets_what_still_lives():
    net = Net(10, degree=4, seed=10)
    ids = set(spread(net, 50))
    late = Member(b"late".ljust(32), random.Random(10))
    net.members.append(late)
    net.join(late, net.members[0])
    net.run(10)
    assert lacking(net, ids) == 0


def test_one_seed_is_one_run():
    def run(seed):
        net = Net(30, degree=6, seed=seed, loss=0.05)
        spread(net, 30)
        net.run(10)
        return [(sorted(member.delivered.items()), member.copies, member.core.counters()) for member in net.members]

    assert run(11) == run(11)
    assert run(11) != run(12)
