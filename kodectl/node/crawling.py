"""Crawling the network from here: `core.crawl` decides, this asks, and hands over what comes of it as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from typing import NamedTuple, Protocol

import msgspec

from kodectl.core.crawl import AT_ONCE, Ask, Crawl, CrawlTerms, News, Question, Seen, Silent, Verdict
from kodectl.core.exchange import is_worth_telling, reach_of
from kodectl.core.identity import Identity
from kodectl.core.requests import Notice
from kodectl.core.session import Address, Session
from kodectl.core.table import K
from kodectl.errors import KodectlError, PeerFault, WireError
from kodectl.node.crawl_views import (
    ClientCount,
    CrawledNode,
    CrawlView,
    Ended,
    NetworkCount,
    SeenLine,
    SilentLine,
    StateLine,
)
from kodectl.node.discovery import read_answer
from kodectl.node.errand import Errand, Terms, errand, milliseconds
from kodectl.node.handshake import LinkClosed
from kodectl.node.lookups import enode_of
from kodectl.runtime.base import ConnectFailed, Runtime, Stopped, TimedOut
from kodectl.wire import rpc
from kodectl.wire.addresses import address_text
from kodectl.wire.contacts import ID_SIZE, Contact, is_unicast, unpack_contacts
from kodectl.wire.enode import MAX_PORT, Enode, parse_enode
from kodectl.wire.suite import RealSuite

SYNC_EVERY_S = 1.0
"""What a crawl that loses power may lose."""
PROGRESS_EVERY_S = 0.5
RATE_STEP_S = 0.005
"""Waiting for less than that would be one turn of the loop for each question."""


class Notebook(Protocol):
    """Where a crawl writes down what it must know when it goes on: the state file."""

    def append(self, line: StateLine) -> None: ...

    def sync(self) -> None:
        """Runs in a thread."""
        ...


class Progress(NamedTuple):
    reached: int
    silent: int
    waiting: int
    questions: int


class Census:
    """Counts the verdicts, of this run and of those before."""

    def __init__(self) -> None:
        self.reachable = self.unreachable = self.unnamed = 0
        self.clients: Counter[str] = Counter()
        self.networks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def count(self, node: CrawledNode) -> None:
        if not node.reachable:
            self.unreachable += 1
            self.reasons[node.reason or "timeout"] += 1
            return
        self.reachable += 1
        self.networks[network_text(node.ip)] += 1
        if node.client is None:
            self.unnamed += 1
        else:
            self.clients[node.client] += 1


class Crawler:
    """One run of a crawl. `report` hears of each node as soon as its verdict is there, after the notebook has it; it may wait.

    `run` may be left by an exception at any moment; `summary` is right nevertheless."""

    def __init__(
        self,
        runtime: Runtime,
        terms: Terms,
        crawl_terms: CrawlTerms,
        *,
        notebook: Notebook,
        report: Callable[[CrawledNode], None],
        progress: Callable[[Progress], None],
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._crawl_terms = crawl_terms
        self._notebook = notebook
        self._report = report
        self._progress = progress
        self._seed = runtime.random_bytes(32)
        self._core = Crawl(Identity(RealSuite(), self._seed).node_id, crawl_terms, runtime.rng)
        self._census = Census()
        self._reports = runtime.mailbox(2 * AT_ONCE + len(terms.bootstrap))
        self._bootstraps_left = len(terms.bootstrap)
        self._troubles: list[str] = []
        self._remembered = 0
        self._began = self._sync_at = self._progress_at = runtime.now()

    def remember(self, line: StateLine) -> None:
        """A line of an earlier run, in the order in which they were written. Raises WireError for what no crawl writes."""
        match line:
            case SeenLine():
                contact = Contact(_id(line.id), *_place(line.ip, line.udp), _port(line.tcp))
                self._core.remember_seen(contact, None if line.by is None else _id(line.by))
            case SilentLine():
                self._core.remember_silent(_id(line.id), _place(line.ip, line.udp), line.reason)
            case CrawledNode():
                contact = Contact(_id(line.id), *_place(line.ip, line.port), parse_enode(line.enode).tcp)
                self._core.remember_verdict(contact, line.reachable)
                self._census.count(line)
                self._remembered += 1

    def run(self) -> Ended:
        """Until nobody is left to be asked, or a limit is reached. Raises what the notebook and `report` raise."""
        left_s = self._terms.deadline_s - (self._runtime.now() - self._began)
        terms = msgspec.structs.replace(self._terms, deadline_s=max(0.0, left_s))
        with errand(self._runtime, terms, self._seed) as this:
            # The table of an errand is for lookups; here its own questions would go beside the rate.
            this.discovery.on_heard = this.discovery.on_failed = _ignore
            for enode in self._terms.bootstrap:
                this.scope.spawn(f"bootstrap {enode.host}", self._ask_bootstrap, this, enode)
            ended = self._loop(this)
        if ended == "complete":
            self._core.conclude()
        self._hand_over()
        self._notebook.sync()
        return ended

    def _loop(self, this: Errand) -> Ended:
        while True:
            for question in self._core.questions(self._runtime.now()):
                self._ask(this, question)
            if self._core.over and not self._bootstraps_left:
                return self._why_over()
            report = self._next_report(this)
            # The end of an errand closes its socket, and what was under way comes back as refused.
            if this.late or not this.left_s():
                return "deadline"
            if report is not None:
                report()
            self._hand_over()
            self._look_around()

    def _why_over(self) -> Ended:
        if not self._core.is_full:
            return "complete"
        return "max_nodes" if self._core.reached >= self._crawl_terms.max_nodes else "too_many_silent"

    def _next_report(self, this: Errand) -> Callable[[], None] | None:
        """What to do about whatever comes back next; None when it is time to ask, or to look around."""
        now = self._runtime.now()
        wait_s = min(PROGRESS_EVERY_S, this.left_s())
        next_question = self._core.next_deadline(now)
        if next_question is not None:
            wait_s = min(wait_s, max(RATE_STEP_S, next_question - now))
        try:
            report: Callable[[], None] = self._reports.get(wait_s)
        except TimedOut:
            return None
        return report

    def _look_around(self) -> None:
        now = self._runtime.now()
        if now >= self._sync_at:
            self._runtime.in_thread(self._notebook.sync)
            self._sync_at = now + SYNC_EVERY_S
        if now >= self._progress_at:
            core = self._core
            self._progress(Progress(core.reached, core.silent, core.waiting, core.questions_asked))
            self._progress_at = now + PROGRESS_EVERY_S

    # -- questions and what comes back: the callbacks run in the hub, and leave to the loop what is to be done -----------------

    def _ask_bootstrap(self, this: Errand, enode: Enode) -> None:
        trouble = found = None
        try:
            address = (this.resolve(enode.host), enode.udp)
            answer = this.discovery.ask(enode.node_id, address, this.kademlia.ping_body(), this.limit_s())
            found = Contact(answer.session.node_id, *address, answer.body.tcp_port)
        except Stopped:
            trouble = "no answer before the deadline"
        except KodectlError as error:
            trouble = str(error)
        self._reports.put(partial(self._take_bootstrap, enode, found, trouble))

    def _take_bootstrap(self, enode: Enode, found: Contact | None, trouble: str | None) -> None:
        self._bootstraps_left -= 1
        if found is not None:
            self._core.begin_with(found)
        else:
            self._troubles.append(f"{enode.host}:{enode.udp}: {trouble}")

    def _ask(self, this: Errand, question: Question) -> None:
        contact = question.contact
        if question.ask is Ask.DIAL:
            this.scope.spawn(f"dial {contact.ip}", self._dial, this, contact)
            return
        ping = question.ask is Ask.PING
        this.discovery.request(
            contact.node_id,
            contact.address,
            this.kademlia.ping_body() if ping else rpc.FindNode(question.target),
            partial(self._answered, question),
            partial(self._noticed, question),
        )

    def _answered(self, question: Question, session: Session, kind: int, packed: bytes, rtt_s: float) -> None:
        self._reports.put(partial(self._take_answer, question, session.address[0], kind, packed, rtt_s))

    def _take_answer(self, question: Question, ip: str, kind: int, packed: bytes, rtt_s: float) -> None:
        node_id = question.contact.node_id
        try:
            answer = read_answer(kind, packed)
            contacts = unpack_contacts(answer.contacts, K) if question.ask is Ask.FIND else []
        except PeerFault as error:
            self._core.failed(question.ask, node_id, error.code)
            return
        if question.ask is Ask.PING:
            self._core.pinged(node_id, answer.tcp_port, rtt_s)
            return
        reach = reach_of(ip)
        worth = [contact for contact in contacts if is_worth_telling(contact.ip, reach)]
        self._core.told(node_id, contacts, worth, rtt_s)

    def _noticed(self, question: Question, notice: Notice | PeerFault) -> None:
        if notice is Notice.SLOW:
            return
        reason = notice.value if isinstance(notice, Notice) else notice.code
        self._reports.put(partial(self._core.failed, question.ask, question.contact.node_id, reason))

    def _dial(self, this: Errand, contact: Contact) -> None:
        client = network = reason = None
        try:
            hello, reason, _ = this.handshake(enode_of(contact), (contact.ip, contact.tcp_port))
            if hello is not None:
                client, network = hello.client, hello.network
        except ConnectFailed as error:
            reason = error.reason
        except TimedOut:
            reason = "timeout"
        except (PeerFault, LinkClosed) as error:
            reason = error.code
        except Stopped:
            return  # nobody waits for it
        self._reports.put(partial(self._core.dialled, contact.node_id, client, network, reason))

    # -- what comes of it ------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        for news in self._core.news():
            line = self._line_of(news)
            self._notebook.append(line)
            if isinstance(line, CrawledNode):
                self._census.count(line)
                self._report(line)

    def _line_of(self, news: News) -> StateLine:
        match news:
            case Seen(contact, source):
                ip, udp = contact.address
                by = None if source is None else source.hex()
                return SeenLine(contact.node_id.hex(), ip, udp, contact.tcp_port, by)
            case Silent(node_id, (ip, udp), reason):
                return SilentLine(node_id.hex(), ip, udp, reason)
        return self._node_line(news)

    def _node_line(self, verdict: Verdict) -> CrawledNode:
        ip, udp = verdict.contact.address
        dialled = self._crawl_terms.handshake and verdict.reachable
        return CrawledNode(
            id=verdict.contact.node_id.hex(),
            enode=str(enode_of(verdict.contact)),
            addr=address_text(ip, udp),
            ip=ip,
            port=udp,
            reachable=verdict.reachable,
            reason=verdict.reason,
            rtt_ms=None if verdict.rtt_s is None else milliseconds(verdict.rtt_s),
            sources=verdict.sources,
            told=verdict.told,
            drawn=verdict.drawn,
            client=verdict.client,
            network=verdict.network,
            handshake=(verdict.dial or "ok") if dialled else None,
            elsewhere=[address_text(*address) for address in verdict.elsewhere],
        )

    def summary(self, ended: Ended) -> CrawlView:
        census, core = self._census, self._core
        silent, unasked = core.reasons(), core.unasked()
        unreachable = census.unreachable + silent.total()
        return CrawlView(
            ended=ended,
            found=census.reachable + unreachable,
            reachable=census.reachable,
            unreachable=unreachable,
            unasked=unasked.total(),
            waiting=core.waiting,
            unfinished=core.unfinished,
            conflicts=core.conflicts(),
            questions=core.questions_asked,
            elapsed_s=round(self._runtime.now() - self._began, 3),
            remembered=self._remembered,
            clients_unknown=census.unnamed,
            by_client=[ClientCount(client, count) for client, count in census.clients.most_common()],
            by_network=[NetworkCount(network, count) for network, count in census.networks.most_common()],
            by_reason=dict((census.reasons + silent).most_common()),
            unasked_by_reason=dict(unasked.most_common()),
            bootstrap_troubles=self._troubles,
        )


def network_text(ip: str) -> str:
    size = 64 if ":" in ip else 24
    return str(ip_network(f"{ip.partition('%')[0]}/{size}", strict=False))


def _id(text: str) -> bytes:
    try:
        node_id = bytes.fromhex(text)
    except ValueError:
        node_id = b""
    if len(node_id) != ID_SIZE:
        raise WireError(f"no node id: {text[:80]!r}")
    return node_id


def _place(ip: str, port: int) -> Address:
    if not is_unicast(ip):
        raise WireError(f"no address of one host: {ip[:80]!r}")
    return ip, _port(port)


def _port(number: int) -> int:
    if not 0 <= number <= MAX_PORT:
        raise WireError(f"no port: {number}")
    return number


def _ignore(*_: object) -> None:
    pass
