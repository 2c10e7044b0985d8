"""What a peer that has the passwords makes an agent send by wrong answers, and what copies of right ones do."""

from __future__ import annotations

import random

import pytest

from kodectl.core.ice.agent import PACING_S, TRIGGERED_BURST, Agent
from kodectl.core.ice.allowance import CHECK_BURST, CHECKS_PER_S, Allowance
from kodectl.core.ice.checks import Credentials, Peer, Role, pack_request
from kodectl.core.ice.effects import Effect, Transmit
from kodectl.core.ice.local import host
from kodectl.core.ice.requests import ROLE_CONFLICT, answer, refusal
from kodectl.wire.candidates import Address, Candidate, CandidateType
from kodectl.wire.stun import MessageClass, decode

OURS, THEIRS = Credentials("ours", "o" * 22), Credentials("them", "t" * 22)
THERE: Address = ("20.0.0.2", 5000)
ROUND_TRIP_S = 0.001
SECONDS = 20.0


class Socket:
    address: Address = ("20.0.0.1", 4000)


BASE = Socket()


class Attacked:
    """An agent, and how many requests it has sent so far."""

    def __init__(self, allowance: Allowance | None = None, *, is_controlling: bool = True, remotes: int = 1) -> None:
        rng = random.Random(3)
        self.agent = Agent(
            is_controlling=is_controlling,
            credentials=OURS,
            tie_breaker=1 << 62,
            random_bytes=rng.randbytes,
            rng=rng,
            keeps_paths=True,
            may_check=allowance.may_check if allowance is not None else lambda ip, now: True,
        )
        self.now = 0.0
        self.requests: list[Transmit] = []
        self.replies = 0
        self._note(self.agent.add_local(host(BASE, 65_535), 0.0))
        named = [
            Candidate(f"f{number}", 1, "udp", 2**30 + number, (THERE[0], 5000 + number), CandidateType.HOST)
            for number in range(remotes)
        ]
        self._note(self.agent.set_remote(THEIRS, named, 0.0))

    def _note(self, effects: list[Effect]) -> list[Transmit]:
        sent = [effect for effect in effects if isinstance(effect, Transmit)]
        asked = [one for one in sent if decode(one.data).kind is MessageClass.REQUEST]
        self.requests += asked
        self.replies += len(sent) - len(asked)
        return asked

    def receive(self, data: bytes, sender: Address = THERE) -> list[Transmit]:
        return self._note(self.agent.receive(BASE, data, sender, self.now))

    def tick(self) -> list[Transmit]:
        return self._note(self.agent.tick(self.now))


@pytest.mark.parametrize("has_allowance", [True, False])
def test_roles_that_are_never_right_do_not_make_a_loop(has_allowance: bool) -> None:
    """Each refusal changes the role and asks again, at once while the bucket has room."""
    attacked = Attacked(Allowance() if has_allowance else None)
    waiting = list(attacked.requests)
    while attacked.now < SECONDS:
        attacked.now += ROUND_TRIP_S
        answered, waiting = waiting, attacked.tick()
        for request in answered:
            waiting += attacked.receive(refusal(decode(request.data), ROLE_CONFLICT, "", THEIRS), request.address)
    paced = TRIGGERED_BURST + 2 * SECONDS / PACING_S
    allowed = CHECK_BURST + CHECKS_PER_S * SECONDS + 1
    assert 20 < len(attacked.requests) <= (allowed if has_allowance else paced)


def test_requests_that_turn_the_roles_to_and_fro_are_answered_once_each() -> None:
    attacked = Attacked(Allowance(), remotes=64)
    for number in range(1_000):
        attacked.now += ROUND_TRIP_S
        role = Role(number % 2 == 0, 2**64 - 1 if number % 4 < 2 else 0)
        attacked.receive(pack_request(number.to_bytes(12), Peer.of(OURS, THEIRS), role, 1, nominates=False))
        attacked.tick()
    assert attacked.replies == 1_000
    assert len(attacked.requests) <= CHECK_BURST + CHECKS_PER_S * attacked.now + 1


def test_an_answer_that_comes_a_second_time_changes_nothing() -> None:
    attacked = Attacked()
    (check,) = attacked.requests
    good = answer(decode(check.data), BASE.address, THEIRS)
    attacked.receive(good)
    path, pairs = attacked.agent.path, len(attacked.agent.pairs)
    assert path is not None
    before = len(attacked.requests)
    for number in range(1_000):
        attacked.receive(good, (THERE[0], 1024 + number))
        attacked.receive(good)
    assert attacked.agent.path is path
    assert len(attacked.agent.pairs) == pairs
    assert len(attacked.requests) == before


def test_a_copy_of_an_answer_from_elsewhere_does_not_take_the_place_of_the_answer() -> None:
    """Somebody who sees it can have one there sooner."""
    attacked = Attacked()
    (check,) = attacked.requests
    good = answer(decode(check.data), BASE.address, THEIRS)
    attacked.receive(good, ("30.0.0.1", 1))
    assert attacked.agent.path is None
    attacked.receive(good)
    assert attacked.agent.path is not None
