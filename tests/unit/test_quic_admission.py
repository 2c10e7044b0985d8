"""What a stranger's first packet gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.quic_admission import (
    CONNECTION_BURST,
    MAX_CONNECTIONS,
    MAX_HALF_OPEN,
    NETWORK_ANSWER_BURST,
    NETWORK_CONNECTION_BURST,
    RETRY_ABOVE,
    TOKEN_LIFE_MS,
    Admission,
    Admit,
    Decision,
    Refer,
    Retry,
)
from kodectl.core.quic_paths import Path
from kodectl.wire.quic import CONNECTION_ID_SIZE, MIN_INITIAL

SECRET = b"s" * 32


def initial(destination: bytes = b"chosen-1", token: bytes = b"", version: int = 1) -> bytes:
    ids = bytes([len(destination)]) + destination + b"\x08" + b"source-1"
    head = b"\xc0" + version.to_bytes(4) + ids + (0x4000 | len(token)).to_bytes(2) + token
    return head.ljust(MIN_INITIAL, b"\0")


def path(ip: str = "50.0.0.1", port: int = 1, via: str = "") -> Path:
    return Path(("20.0.0.1", 30301), (ip, port), via)


def decide(
    admission: Admission,
    data: bytes,
    source: Path | None = None,
    now: float = 100.0,
    half_open: int = 0,
    total: int = 0,
) -> Decision:
    return admission.decide(data, source or path(), now, half_open=half_open, connections=total)


def retry(admission: Admission, now: float = 100.0) -> Retry:
    answer = decide(admission, initial(), now=now, half_open=RETRY_ABOVE)
    assert isinstance(answer, Retry)
    return answer


class TestBounds:
    def test_while_few_are_under_way_each_is_let_in_at_once(self) -> None:
        admission = Admission(SECRET)
        assert decide(admission, initial(), half_open=RETRY_ABOVE - 1) == Admit(b"chosen-1", None)
        assert isinstance(decide(admission, initial(), half_open=RETRY_ABOVE), Retry)

    def test_full_is_full_with_a_token_too(self) -> None:
        admission = Admission(SECRET)
        offer = retry(admission)
        returning = initial(offer.new_id, offer.token)
        assert decide(admission, returning, half_open=MAX_HALF_OPEN) is None
        assert decide(admission, returning, total=MAX_CONNECTIONS) is None
        assert admission.counters["full"] == 2
        assert isinstance(decide(admission, returning, half_open=MAX_HALF_OPEN - 1), Admit)

    def test_one_network_cannot_use_up_what_all_have(self) -> None:
        admission = Admission(SECRET)
        crowd = [decide(admission, initial(), path(f"50.0.0.{number}")) for number in range(200)]
        assert sum(isinstance(answer, Admit) for answer in crowd) == NETWORK_CONNECTION_BURST
        assert isinstance(decide(admission, initial(), path("50.0.1.1")), Admit)

    def test_all_networks_together_have_a_limit(self) -> None:
        admission = Admission(SECRET)
        crowd = [decide(admission, initial(), path(f"50.{number // 250}.{number % 250}.1")) for number in range(500)]
        assert sum(isinstance(answer, Admit) for answer in crowd) == CONNECTION_BURST
        assert admission.counters["over_rate"] == 500 - CONNECTION_BURST

    def test_answers_have_a_limit_of_their_own(self) -> None:
        admission = Admission(SECRET)
        answers = [decide(admission, initial(), half_open=RETRY_ABOVE) for _ in range(500)]
        assert sum(isinstance(answer, Retry) for answer in answers) == NETWORK_ANSWER_BURST


class TestTokens:
    def test_who_comes_back_with_it_is_let_in(self) -> None:
        admission = Admission(SECRET)
        offer = retry(admission)
        assert len(offer.new_id) == CONNECTION_ID_SIZE
        returned = decide(admission, initial(offer.new_id, offer.token), half_open=RETRY_ABOVE)
        assert returned == Admit(b"chosen-1", offer.new_id)

    @pytest.mark.parametrize("source", [path("50.0.0.2"), path(port=2), path(via="relay")])
    def test_it_holds_for_one_path(self, source: Path) -> None:
        admission = Admission(SECRET)
        offer = retry(admission)
        assert isinstance(decide(admission, initial(offer.new_id, offer.token), source, half_open=RETRY_ABOVE), Retry)

    def test_it_holds_for_the_id_that_came_with_it(self) -> None:
        admission = Admission(SECRET)
        returning = initial(b"another1", retry(admission).token)
        assert isinstance(decide(admission, returning, half_open=RETRY_ABOVE), Retry)

    def test_it_holds_for_a_time(self) -> None:
        admission = Admission(SECRET)
        offer = retry(admission)
        returning = initial(offer.new_id, offer.token)
        end = 100.0 + TOKEN_LIFE_MS / 1000
        assert isinstance(decide(admission, returning, now=end, half_open=RETRY_ABOVE), Admit)
        assert isinstance(decide(admission, returning, now=end + 0.01, half_open=RETRY_ABOVE), Retry)

    def test_it_is_of_one_endpoint(self) -> None:
        offer = retry(Admission(SECRET))
        other = Admission(b"o" * 32)
        assert isinstance(decide(other, initial(offer.new_id, offer.token), half_open=RETRY_ABOVE), Retry)

    @given(st.binary(max_size=60))
    def test_no_other_bytes_are_one(self, token: bytes) -> None:
        assert isinstance(decide(Admission(SECRET), initial(token=token), half_open=RETRY_ABOVE), Retry)


def test_another_version_is_referred_to_ours() -> None:
    answer = decide(Admission(SECRET), initial(version=0x6B3343CF))
    assert isinstance(answer, Refer)
    assert len(answer.data) < 60


@given(st.binary(max_size=100), st.booleans(), st.integers(0, 100))
def test_any_bytes_get_a_decision(data: bytes, long: bool, half_open: int) -> None:
    packet = (b"\xc0\0\0\0\1" * long + data).ljust(MIN_INITIAL, b"\x07")
    answer = decide(Admission(SECRET), packet, half_open=half_open)
    assert answer is None or isinstance(answer, Admit | Retry | Refer)
    if isinstance(answer, Admit):
        assert half_open < RETRY_ABOVE
