"""The picture of `node top`, what keys do to it, and what looks do: as values, without a terminal or a node."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from kodectl.cli.node_top_frame import frame
from kodectl.cli.node_top_look import BucketSizeView, Look, RatesView, TopView, rates_of, verdict_of
from kodectl.cli.node_top_peers import age
from kodectl.cli.node_top_plots import STEP_S, bars, rate_of
from kodectl.cli.node_top_state import MAX_EVENTS_KEPT, MAX_SAMPLES, SORTS, Key, begin, failed, looked, pressed
from kodectl.cli.node_top_terminal import KEYS, STYLES, keys_of
from kodectl.cli.node_top_text import ASCII, UNICODE, one_line
from kodectl.node.history_views import SampleView
from kodectl.node.reports import PEER_SORTS
from kodectl.node.views import UNKNOWN_NAT, EventView, ListenerView, PeerView, StatusView


def peer(number, **changed):
    digits = f"{number:02x}" * 32
    fields = {
        "id": digits,
        "enode": f"enode://{digits}@203.0.113.{number % 250}:30303",
        "client": "kodectl/0.1.0",
        "direction": "inbound" if number % 2 else "outbound",
        "path": "direct",
        "transport": "tcp",
        "addr": f"203.0.113.{number % 250}:30303",
        "ip": f"203.0.113.{number % 250}",
        "port": 30303,
        "since": f"2026-01-02T03:{number % 60:02}:05.000Z",
        "connected_s": 100.0 + number,
        "latency_ms": 10.0 * number,
        "bytes_sent": 1000 * number,
        "bytes_received": 500,
        "messages_sent": 3,
        "messages_received": 4,
        "trust": 0.5,
        "priority": "low",
        "static": False,
    }
    return PeerView(**fields | changed)


STATUS = StatusView(
    id="ab" * 32,
    enode="enode://...",
    client="kodectl/0.1.0",
    network="kodechain",
    state="ready",
    pid=1,
    started="2026-01-02T03:04:05.000Z",
    uptime_s=55.0,
    listeners=ListenerView("0.0.0.0:30303", "0.0.0.0:30301", ["127.0.0.1:8545"]),
    peers=5,
    max_peers=50,
    inbound=3,
    outbound=2,
    table_size=33,
    records=0,
    dht_mode="server",
    lan=True,
    nat=msgspec.structs.replace(UNKNOWN_NAT, state="direct", advice="nothing to do"),
    warnings=[],
)
BUCKETS = [BucketSizeView(index, 16 if index < 2 else 1 if index == 2 else 0, 0) for index in range(20)]


def event(seq, type_="peer_connected", **data):
    return EventView(seq, "2026-01-02T03:04:05.000Z", type_, "peer", data)


def top_view(peers=5, events=(), status=STATUS, **changed_peer):
    found = [peer(number, **changed_peer) for number in range(1, peers + 1)]
    status = msgspec.structs.replace(status, peers=peers)
    return TopView(verdict_of(status), status, RatesView(), 12.0, 0.5, found, BUCKETS, list(events))


def sample(at_s, count=0):
    return SampleView(at_s, 1, 1, 0, count, 2 * count, count, 0, 12.0, 0.5)


def state_of(**options):
    state = begin(Look(top_view(**options), [sample(100.0)]))
    for second in range(1, 30):
        state = looked(state, Look(top_view(**options), [sample(100.0 + second, 1000 * second)]))
    return state


def text_of(lines):
    return ["".join(span.text for span in line) for line in lines]


def screen(state, width=80, height=24, glyphs=UNICODE):
    return "\n".join(text_of(frame(state, width, height, glyphs).lines))


FOREIGN = st.text(max_size=40) | st.just("漢字漢字漢字漢字漢字漢字漢字") | st.just("\x1b[2J\x1b]0;title\x07é́́🙂‍🙂")


@example(80, 24, 50, "x", False, True)
@example(1, 1, 0, "", True, False)
@given(
    width=st.integers(1, 230),
    height=st.integers(1, 90),
    peers=st.integers(0, 60),
    foreign=FOREIGN,
    helping=st.booleans(),
    gone=st.booleans(),
)
def test_every_frame_fits_its_terminal_whatever_peers_call_themselves(width, height, peers, foreign, helping, gone):
    events = [event(1, client=foreign, reason=foreign), event(2, foreign[:5], message=foreign)]
    status = msgspec.structs.replace(STATUS, warnings=[foreign] if foreign else [], network=foreign)
    state = state_of(peers=peers, events=events, status=status, client=foreign, addr=foreign)
    if helping:
        state = pressed(state, Key.HELP, 3)
    if gone:
        state = failed(state, foreign)
    for glyphs in (UNICODE, ASCII):
        lines = frame(state, width, height, glyphs).lines
        assert len(lines) == height
        for line in text_of(lines):
            assert cell_len(line) <= width
            assert not line.endswith(" ")
            assert not any(char < " " or "\x7f" <= char < "\xa0" for char in line)
        assert {span.style for line in lines for span in line} <= set(STYLES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand \x1b[2J", "two lines and \\x1b[2J"),
        ("\U0001f469\u200d\U0001f467 family", "\U0001f469\U0001f467 family"),
        ("\U0001f1e6\U0001f1f9 flag, \U0001f44d\U0001f3fd thumb", " flag, \U0001f44d thumb"),
        ("e\u0301 is \u00e9, q\u0301 is no letter", "\u00e9 is \u00e9, q is no letter"),
        ("half \ud800 a pair", "half  a pair"),
        ("\u202eright\u2066 to left", "\\u202eright\\u2066 to left"),
    ],
)
def test_what_somebody_calls_himself_has_a_width_that_all_terminals_agree_on(text, shown):
    assert one_line(text) == shown


def test_without_a_terminal_every_peer_is_in_the_frame():
    lines = text_of(frame(state_of(peers=50), 80, None).lines)
    assert sum(" 203.0.113." in line for line in lines) == 50


def test_a_small_terminal_keeps_the_verdict_and_peers_longest():
    state = state_of(peers=5, events=[event(1)])
    for height, shown in (
        (24, {"5 peers", "received", "buckets", "nat ", "advice", "address", "peer connected", "quit"}),
        (15, {"5 peers", "received", "nat ", "address", "quit"}),
        (11, {"5 peers", "received", "address", "quit"}),
        (6, {"5 peers", "address", "quit"}),
        (3, {"5 peers", "kodechain"}),
        (2, {"5 peers"}),
    ):
        picture = screen(state, 80, height)
        assert {word for word in shown if word not in picture} == set(), height
    assert screen(state, 80, 11).count(" 203.0.113.") == 3
    assert "kodechain" in screen(state, 20, 1)


def test_warnings_stand_below_the_verdict():
    status = msgspec.structs.replace(STATUS, warnings=[f"warning {number}" for number in range(9)])
    state = state_of(peers=50, status=status)
    lines = screen(state).split("\n")
    assert lines[1].startswith("50 peers, ")
    assert "kodectl doctor" in lines[1]
    assert lines[2:5] == ["warning 0", "warning 1", ""]
    assert screen(state, 120, 60).count("warning ") == 5
    assert len(text_of(frame(state, 80, None).lines)) > 50


def test_a_large_terminal_shows_more():
    picture = screen(state_of(peers=5), 200, 60)
    assert {word for word in ("most ", "client", "priority", "19", "0.0.0.0:30301 udp") if word not in picture} == set()
    assert "priority" not in screen(state_of(peers=5))
    events = [event(number) for number in range(40)]
    few, many = (screen(state_of(peers=peers, events=events), 200, 60) for peers in (5, 50))
    assert few.count("peer connected") > 15
    assert few.count(" 203.0.113.") == 5
    assert many.count("peer connected") == 10
    assert many.count(" 203.0.113.") > 15


@pytest.mark.parametrize("sort", SORTS)
def test_the_column_of_the_order_is_marked_and_kept_in_the_narrowest_terminal(sort):
    state = state_of(peers=5)
    while state.sort != sort:
        state = pressed(state, Key.SORT, 3)
    for width in (80, 24):
        assert f"{sort}{UNICODE.sorted_by}" in screen(state, width)
    peers = sorted(state.shown.view.peers, key=PEER_SORTS[sort])
    lines = [line for line in screen(state).split("\n") if " 203.0.113." in line]
    assert [line[:2] for line in lines] == [one.id[:2] for one in peers]


def test_an_address_gets_what_room_there_is():
    def line(width):
        state = state_of(peers=1, addr="[2001:db8:1111:2222:3333:4444:5555:6666]:30303")
        return next(line for line in screen(state, width).split("\n") if "2001" in line)

    assert "[2001:db8:1111:2222:3333:4444:5555:6666]:30303 " in line(200)
    assert "[2001:db8:1111:2222:3…  " in line(80)
    assert "[2001:db8:11…  " in line(34)


def test_scrolling_ends_at_both_ends_and_moves_at_once_when_turned():
    state = state_of(peers=50)
    rows = frame(state, 80, 24).rows
    assert 5 <= rows <= 12
    assert f" 1-{rows} of 50 peers" in screen(state)
    for _ in range(60):
        state = pressed(state, Key.DOWN, rows)
    assert f" {50 - rows + 1}-50 of 50 peers" in screen(state)
    state = pressed(state, Key.UP, rows)
    assert f" {50 - rows}-49 of 50 peers" in screen(state)
    assert pressed(pressed(state, Key.FIRST, rows), Key.UP, rows).offset == 0
    assert pressed(state, Key.LAST, rows).offset == 50 - rows
    # With most of them gone, the last screenful.
    fewer = looked(pressed(state, Key.LAST, rows), Look(top_view(peers=rows), []))
    assert screen(fewer).count(" 203.0.113.") == rows


def test_paused_it_keeps_the_picture_and_still_sorts_and_scrolls():
    state = pressed(state_of(peers=5), Key.PAUSE, 3)
    state = looked(state, Look(top_view(peers=9), []))
    assert "paused" in screen(state)
    assert screen(state).count(" 203.0.113.") == 5
    assert screen(pressed(state, Key.SORT, 3)) != screen(state)
    assert "9 peers" in screen(pressed(state, Key.PAUSE, 3))


def test_a_node_that_is_gone_is_said_first_and_the_rest_fades_until_it_is_back():
    state = failed(state_of(), "no node runs at X; trying again")
    lines = frame(state, 80, 24).lines
    assert lines[1][0].text == "no node runs at X; trying again"
    assert {span.style for line in lines[3:-1] for span in line} == {"quiet"}
    assert "no answer" in screen(state)
    back = looked(state, Look(top_view(), [sample(1.0), sample(3.0)]))
    assert "trying" not in screen(back)
    assert [one.at_s for one in back.latest.samples] == [1.0, 3.0], "it was started anew, and counts from zero"


def test_what_is_kept_is_bounded():
    state = begin(Look(top_view(), []))
    for second in range(1, 2 * MAX_SAMPLES):
        state = looked(state, Look(top_view(events=[event(second)]), [sample(float(second))]))
    assert len(state.latest.samples) == MAX_SAMPLES
    assert len(state.latest.events) == MAX_EVENTS_KEPT
    assert state.latest.events[-1].seq == 2 * MAX_SAMPLES - 1


def test_bars_stand_in_their_step_and_stay_as_they_were():
    counts = rate_of(lambda one: one.bytes_sent)
    # A hundred a second, and from the tenth step on three hundred.
    samples = [sample(float(second), 100 * second + 200 * max(0, second - 40)) for second in range(0, 81, 2)]
    assert counts(samples, 20) == [100.0] * 10 + [300.0] * 10
    assert counts(samples[:-1], 20) == counts(samples, 20), "a step that has begun has a place"
    assert counts(samples[:-2], 20) == [None, *counts(samples, 20)[:-1]]
    assert counts([], 3) == counts(samples[:1], 3) == [None] * 3, "before it was looked at, nothing is known"
    rare = [sample(0.0, 0), sample(5 * STEP_S, 1000)]
    assert counts(rare, 5) == [50.0] * 5, "one look fills the steps since the one before"


def test_bars_use_every_level_and_no_more():
    assert bars([0.0, 50.0, 100.0, None], 1.0, 1, UNICODE) == ["▁▅█ "]
    assert bars([0.0, 100.0], 1000.0, 1, UNICODE) == ["▁▂"], "next to nothing looks like it"
    assert bars([100.0, 0.0, 50.0], 1.0, 3, UNICODE) == ["█  ", "█ ▅", "█▁█"]


def test_rates_are_those_of_the_last_two_samples():
    assert rates_of([]) == rates_of([sample(5.0)]) == RatesView()
    assert rates_of([sample(1.0, 5), sample(5.0, 100), sample(7.0, 300)]) == RatesView(100.0, 200.0, 100.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, "well", "5 peers, strangers reach it"),
        ({"peers": 1}, "well", "1 peer, strangers reach it"),
        ({"peers": 0}, "trouble", "no peers"),
        ({"state": "starting"}, "attention", "the node is starting"),
        ({"state": "stopping", "peers": 0}, "attention", "the node is leaving"),
        ({"warnings": ["the clock is wrong"]}, "attention", "5 peers, strangers reach it"),
        (
            {"nat": msgspec.structs.replace(UNKNOWN_NAT, state="turn_relay")},
            "attention",
            "5 peers, reached through relays",
        ),
    ],
)
def test_the_verdict(changes, level, text):
    verdict = verdict_of(msgspec.structs.replace(STATUS, **changes))
    assert (verdict.level, verdict.text[: len(text)]) == (level, text)


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"q", [Key.QUIT]),
        (b"\x1b[A\x1bOB", [Key.UP, Key.DOWN]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", [Key.PAGE_UP, Key.PAGE_DOWN, Key.FIRST, Key.LAST]),
        (b"\x1b", [Key.CLOSE]),
        (b"\x1b[15;2~j", [Key.DOWN]),
        (b"\x1b[", []),
        (b"xyz\xff\x00", []),
    ],
)
def test_keys(typed, keys):
    assert list(keys_of(typed)) == keys


@given(st.binary(max_size=300))
def test_any_bytes_are_keys_or_nothing(typed):
    assert len(list(keys_of(typed))) <= len(typed)
    assert Key.QUIT in KEYS.values()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (312, "5m12s"), (3600, "1h00m"), (90_000, "1d01h"), (100 * 86_400, "100d")],
)
def test_ages_fit_in_six_columns(seconds, text):
    assert age(seconds) == text
    assert len(text) <= 6
