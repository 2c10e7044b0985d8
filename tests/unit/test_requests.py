"""Requests under way: matching, retransmission, timeouts."""

from kodectl.core import requests as requests_module
from kodectl.core.requests import ATTEMPTS, BACKOFF, FIRST_TIMEOUT_S, MAX_TIMEOUT_S, MIN_TIMEOUT_S, Request, Requests
from kodectl.core.sessions import ANY_ID

NODE, WHERE = b"n" * 32, ("192.0.2.1", 1)


def make(requests: Requests, node_id: bytes = NODE) -> Request:
    return Request(requests.new_id(), node_id, WHERE, 2, b"m", lambda *_: None, lambda _: None)


def test_only_the_asked_node_at_the_asked_address_answers_once():
    requests = Requests(0)
    request = make(requests)
    requests.begin(request, 0.0)
    assert requests.match(b"o" * 32, WHERE, request.request_id, 2, 0.1) is None
    assert requests.match(NODE, ("192.0.2.1", 2), request.request_id, 2, 0.1) is None
    assert requests.match(NODE, WHERE, request.request_id + 1, 2, 0.1) is None
    assert requests.match(NODE, WHERE, request.request_id, 4, 0.1) is None
    assert requests.match(NODE, WHERE, request.request_id, 2, 0.1) is request
    assert requests.match(NODE, WHERE, request.request_id, 2, 0.1) is None


def test_an_error_answers_anything_and_an_unknown_id_matches_anyone():
    requests = Requests(0)
    request = make(requests, ANY_ID)
    requests.begin(request, 0.0)
    assert requests.match(NODE, WHERE, request.request_id, 0, 0.1) is request


def test_three_attempts_with_growing_pauses():
    requests = Requests(0)
    request = make(requests)
    requests.begin(request, 0.0)
    times, now = [], 0.0
    while (deadline := requests.next_deadline()) is not None:
        times.append(round(deadline - now, 6))
        now = deadline
        due = requests.due(now)
    assert times == [round(FIRST_TIMEOUT_S * BACKOFF**n, 6) for n in range(ATTEMPTS)]
    assert due.given_up == [request]
    assert len(requests) == 0


def test_timeout_follows_the_round_trip():
    requests = Requests(0)
    assert requests.timeout_for(WHERE) == FIRST_TIMEOUT_S
    for _ in range(50):
        requests.measured(WHERE, 0.1)
    assert MIN_TIMEOUT_S <= requests.timeout_for(WHERE) < 0.3
    for _ in range(50):
        requests.measured(WHERE, 30.0)
    assert requests.timeout_for(WHERE) == MAX_TIMEOUT_S


def test_requests_and_estimates_are_bounded(monkeypatch):
    monkeypatch.setattr(requests_module, "MAX_REQUESTS", 3)
    monkeypatch.setattr(requests_module, "MAX_ESTIMATES", 3)
    requests = Requests(0)
    assert [requests.begin(make(requests), 0.0) for _ in range(4)] == [True, True, True, False]
    for port in range(9):
        requests.measured(("192.0.2.1", port), 0.1)
    assert len(requests._round_trips) == 3


def test_ids_wrap_and_skip_those_under_way():
    requests = Requests(0xFFFFFFFE)
    first = make(requests)
    requests.begin(first, 0.0)
    assert first.request_id == 0xFFFFFFFF
    requests._next_id = 0xFFFFFFFE
    assert requests.new_id() == 0
