"""The crawl against worlds of tables: it finds who lives, at its rate, in spite of liars, and goes on where it was."""

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core import crawl as crawl_module
from kodectl.core import hearsay
from kodectl.core.crawl import AT_ONCE, Ask, Crawl, CrawlTerms, Seen, Silent, Verdict
from kodectl.core.table import K, RoutingTable
from kodectl.sim.dht import public_ip
from kodectl.wire.contacts import Contact

OWN = b"\xff" * 32
FAST = CrawlTerms(max_nodes=10_000, rate=1e6, handshake=False)
STEP_S = 0.01


@cache
def tables(count: int, seed: int) -> dict[bytes, RoutingTable]:
    """Nodes that know each other as they would after a while: their tables, filled in random order."""
    rng = random.Random(seed)
    everybody = [Contact(rng.randbytes(32), public_ip(number), 30301, 30303) for number in range(count)]
    found = {}
    for contact in everybody:
        table = found[contact.node_id] = RoutingTable(contact.node_id)
        for other in rng.sample(everybody, count):
            table.heard(other, 0.0)
    return found


def contacts_of(world: dict[bytes, RoutingTable]) -> dict[bytes, Contact]:
    return {contact.node_id: contact for table in world.values() for contact in table.contacts()}


class Net:
    """Answers the questions of a crawl, in random order; `lies` answers FIND for some."""

    def __init__(self, count=120, seed=1, dead=(), lies=None):
        self.world = tables(count, seed)
        self.contacts = contacts_of(self.world)
        self.rng = random.Random(seed)
        self.dead = set(dead)
        self.lies = lies or {}
        self.now = 0.0
        self.asked = []
        self.most_under_way = 0

    @property
    def live(self):
        return set(self.world) - self.dead

    def crawl(self, terms=FAST, told=(), stop_after=None):
        """Runs a crawl that was told `told` before; its news, or the first `stop_after` of them."""
        crawl = self.last = Crawl(OWN, terms, random.Random(7))
        for item in told:
            remember(crawl, item)
        crawl.begin_with(next(self.contacts[node_id] for node_id in sorted(self.live - set(self.lies))))
        under_way, news = [], []
        while True:
            questions = crawl.questions(self.now)
            self.asked += [(self.now, question) for question in questions]
            under_way += questions
            self.most_under_way = max(self.most_under_way, len(under_way))
            if crawl.over:
                break
            if under_way:
                self.answer(crawl, under_way.pop(self.rng.randrange(len(under_way))))
            else:
                self.now = max(self.now + 1e-9, crawl.next_deadline(self.now))
            news += crawl.news()
            if stop_after is not None and len(news) >= stop_after:
                return news[:stop_after]
        assert not under_way
        if not crawl.is_full:
            crawl.conclude()
        return news + crawl.news()

    def answer(self, crawl, question):
        node_id = question.contact.node_id
        table = self.world.get(node_id)
        if table is None or node_id in self.dead or question.contact.address != self.contacts[node_id].address:
            crawl.failed(question.ask, node_id, "timeout")
        elif question.ask is Ask.PING:
            crawl.pinged(node_id, 30303, 0.1)
        elif question.ask is Ask.DIAL:
            crawl.dialled(node_id, "client/1", "net", None)
        else:
            answer = self.lies[node_id](question) if node_id in self.lies else table.closest(question.target)
            crawl.told(node_id, answer, answer, 0.05)


def remember(crawl, item):
    match item:
        case Seen(contact, source):
            crawl.remember_seen(contact, source)
        case Silent(node_id, address, reason):
            crawl.remember_silent(node_id, address, reason)
        case Verdict():
            crawl.remember_verdict(item.contact, item.reachable)


def verdicts(news):
    found = [item for item in news if isinstance(item, Verdict)]
    assert len({verdict.contact.node_id for verdict in found}) == len(found), "a node is told twice"
    return {verdict.contact.node_id: verdict for verdict in found}


def reachable(news):
    return {node_id for node_id, verdict in verdicts(news).items() if verdict.reachable}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 3), dead_share=st.sampled_from([0.0, 0.2, 0.5]))
def test_everybody_alive_is_found_and_everybody_named_is_judged(seed, dead_share):
    net = Net(seed=seed)
    net.dead = set(random.Random(seed).sample(sorted(net.world), int(120 * dead_share)))
    found = verdicts(net.crawl())
    assert {node_id for node_id, verdict in found.items() if verdict.reachable} == net.live
    assert {found[node_id].reason for node_id in found if node_id in net.dead} <= {"timeout"}
    assert net.most_under_way <= AT_ONCE


def test_the_whole_table_of_a_node_is_drawn_out():
    net = Net(count=400)
    found = verdicts(net.crawl())
    for node_id, verdict in found.items():
        assert verdict.drawn
        assert verdict.told == len(net.world[node_id])
    finds = sum(question.ask is Ask.FIND for _, question in net.asked)
    assert finds / 400 < 8, "no more questions than there are buckets in use"


def test_the_rate_is_kept():
    net = Net(count=60)
    net.crawl(CrawlTerms(max_nodes=100, rate=20.0, handshake=True))
    times = [time for time, _ in net.asked]
    for start in range(0, len(times) - 40, 7):
        assert times[start + 40] - times[start] >= 38 / 20.0 - 1e-6


def test_handshakes_are_asked_of_each_that_answers_and_few_at_once():
    net = Net(count=60)
    found = verdicts(net.crawl(CrawlTerms(max_nodes=100, rate=1e6, handshake=True)))
    assert {(verdict.client, verdict.network, verdict.dial) for verdict in found.values()} == {
        ("client/1", "net", None)
    }
    dials = [question for _, question in net.asked if question.ask is Ask.DIAL]
    assert len(dials) == len({question.contact.node_id for question in dials}) == 60


def test_it_ends_at_the_number_of_nodes_that_was_asked_for_and_finishes_what_it_began():
    net = Net()
    found = verdicts(net.crawl(CrawlTerms(max_nodes=30, rate=1e6, handshake=False)))
    assert len(found) == 30
    assert all(verdict.drawn for verdict in found.values())
    assert net.last.is_full
    assert net.last.waiting


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=6), dead=st.booleans(), seed=st.integers(0, 2**16))
def test_wherever_it_is_interrupted_it_goes_on_and_tells_nothing_twice(cuts, dead, seed):
    net = Net(count=50, seed=2)
    net.rng = random.Random(seed)
    net.dead = set(sorted(net.world)[::4]) if dead else set()
    told: list = []
    for cut in cuts:
        told += net.crawl(told=told, stop_after=cut)
    told += net.crawl(told=told)
    assert reachable(told) == net.live
    silent = [(item.node_id, item.address) for item in told if isinstance(item, Silent)]
    assert len(set(silent)) == len(silent), "what was not there before is not asked again"
    assert not [item for item in net.crawl(told=told) if not isinstance(item, Seen)]


# -- liars -------------------------------------------------------------------------------------------------------------


def invented(rng, question, ip=None):
    """Ids that fit the question, so that another question follows."""

    def make():
        address = ip or f"{rng.randrange(40, 200)}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}.7"
        return Contact(question.target[:3] + rng.randbytes(29), address, rng.randrange(1024, 65_536), 0)

    return [make() for _ in range(K)]


def with_liars(count, lie, seed=1):
    net = Net(seed=seed)
    liars = random.Random(seed).sample(sorted(net.world), count)
    net.lies = dict.fromkeys(liars, lie)
    return net


def test_ids_out_of_nothing_do_not_run_the_crawl_and_hide_nobody():
    rng = random.Random(5)
    net = with_liars(12, lambda question: invented(rng, question))
    assert reachable(net.crawl()) >= net.live
    pings = sum(question.ask is Ask.PING for _, question in net.asked)
    # Each liar makes up 320, and is believed until 32 do not answer; two more for each honest node that he named first.
    assert pings <= 3 * 120 + 12 * hearsay.MAX_FAILED_OF_SOURCE
    assert net.last.unasked()["doubted_source"] > 1000


def test_a_victim_s_network_is_not_asked_for_all_that_is_made_up_there():
    rng = random.Random(5)
    net = with_liars(4, lambda question: invented(rng, question, ip=f"198.50.7.{rng.randrange(1, 255)}"))
    assert reachable(net.crawl()) >= net.live
    at_victim = [question for _, question in net.asked if question.contact.ip.startswith("198.50.7.")]
    assert len(at_victim) <= hearsay.MAX_FAILED_OF_SUBNET


def test_false_ids_at_true_addresses_and_true_ids_at_false_ones_hide_nobody():
    rng = random.Random(9)
    net = Net()
    everybody = list(net.contacts.values())

    def lie(question):
        victims = rng.sample(everybody, K)
        moved = [Contact(one.node_id, "198.51.7.9", rng.randrange(1024, 65_536), 0) for one in victims[: K // 2]]
        taken = [Contact(rng.randbytes(32), one.ip, one.address[1], 0) for one in victims[K // 2 :]]
        return moved + taken

    net.lies = dict.fromkeys(rng.sample(sorted(net.world), 20), lie)
    found = net.crawl()
    assert reachable(found) >= net.live
    assert {verdict.contact.address for verdict in verdicts(found).values() if verdict.reachable} == {
        contact.address for contact in everybody
    }


def test_hearsay_is_bounded_whatever_is_named(monkeypatch):
    monkeypatch.setattr(crawl_module, "MIN_HEARSAY", 200)
    rng = random.Random(5)
    net = with_liars(60, lambda question: invented(rng, question))
    net.crawl(CrawlTerms(max_nodes=25, rate=1e6, handshake=False))
    assert len(net.last._hearsay.nodes) <= 200
    assert net.last.unasked()["no_room"]


def test_one_rented_network_gets_no_more_than_its_share_of_questions():
    net = Net(count=20)
    liar, rng = sorted(net.world)[5], random.Random(4)
    farm = [Contact(rng.randbytes(32), f"203.5.6.{number % 250 + 1}", 2000 + number, 0) for number in range(600)]
    net.contacts |= {contact.node_id: contact for contact in farm}
    net.world = net.world | {contact.node_id: RoutingTable(contact.node_id) for contact in farm}
    net.lies = dict.fromkeys([liar, *(contact.node_id for contact in farm)], lambda question: rng.sample(farm, K))
    found = reachable(net.crawl())
    assert len(found & {contact.node_id for contact in farm}) <= hearsay.MAX_OF_SUBNET
    assert net.last.unasked()["crowded_network"]


@pytest.mark.parametrize("ask", [Ask.PING, Ask.FIND])
def test_who_answers_once_counts_and_who_never_does_not(ask):
    crawl = Crawl(OWN, FAST, random.Random(1))
    contact = Contact(b"a" * 32, "20.1.1.1", 1, 2)
    crawl.begin_with(contact)
    (question,) = crawl.questions(0.0)
    if ask is Ask.FIND:
        crawl.pinged(contact.node_id, 2, 0.1)
        (question,) = crawl.questions(0.0)
    crawl.failed(question.ask, contact.node_id, "timeout")
    assert crawl.questions(0.0) == []
    assert crawl.over
    crawl.conclude()
    (verdict,) = verdicts(crawl.news()).values()
    assert (verdict.reachable, verdict.drawn) == (ask is Ask.FIND, False)


def test_who_has_answered_is_unfinished_until_there_is_nothing_more_to_ask():
    crawl = Crawl(OWN, CrawlTerms(max_nodes=9, rate=1e6, handshake=True), random.Random(1))
    contact = Contact(b"a" * 32, "20.1.1.1", 1, 2)
    crawl.begin_with(contact)
    seen = []
    for _ in range(3):
        seen.append(crawl.unfinished)
        (question,) = crawl.questions(0.0)
        match question.ask:
            case Ask.PING:
                crawl.pinged(contact.node_id, 2, 0.1)
            case Ask.FIND:
                crawl.told(contact.node_id, [], [], 0.1)
            case Ask.DIAL:
                crawl.dialled(contact.node_id, None, None, "timeout")
    assert [*seen, crawl.unfinished] == [0, 1, 1, 0]


def test_it_does_not_ask_itself():
    crawl = Crawl(OWN, FAST, random.Random(1))
    crawl.begin_with(Contact(OWN, "20.1.1.1", 1, 2))
    assert crawl.questions(0.0) == []
    assert crawl.over
