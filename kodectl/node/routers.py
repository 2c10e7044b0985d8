"""Which routers answer the protocols for mapping ports, all asked side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kodectl.core.mapping import Gateway, Method
from kodectl.core.nat_observations import GatewayEvidence
from kodectl.errors import KodectlError
from kodectl.runtime.base import Runtime, TimedOut

ANSWER_LIMIT_S = 2.0
"""They are one hop away. By then NAT-PMP and PCP have asked four times, and UPnP twice."""
END_LIMIT_S = 0.1
"""For tasks that are no longer waited for; they end by limits of their own."""

Finders = dict[Method, Callable[[], Gateway]]


class RouterAnswer(NamedTuple):
    """`found` None: no router speaks the protocol, for the reason `trouble` (an error's code)."""

    method: Method
    found: GatewayEvidence | None
    trouble: str | None


class Routers:
    """Asks from its making on."""

    def __init__(self, runtime: Runtime, finders: Finders) -> None:
        self._runtime = runtime
        self._finders = finders
        self._scope = runtime.scope("routers")
        self._answers = runtime.mailbox(len(finders))
        self._limit = runtime.now() + ANSWER_LIMIT_S
        for method, find in finders.items():
            self._scope.spawn(method.value, self._look_for, method, find)

    def _look_for(self, method: Method, find: Callable[[], Gateway]) -> None:
        try:
            gateway = find()
            found = GatewayEvidence(method, gateway.address, gateway.name, gateway.external_ip())
        except KodectlError as error:
            self._answers.put(RouterAnswer(method, None, error.code))
        else:
            self._answers.put(RouterAnswer(method, found, None))

    def wait(self, ends: float) -> tuple[RouterAnswer, ...]:
        """One for each protocol, in the order of the finders. Those that are silent for too long have none."""
        answers: dict[Method, RouterAnswer] = {}
        limit = min(self._limit, ends)
        while len(answers) < len(self._finders):
            try:
                answer = self._answers.get(max(0.0, limit - self._runtime.now()))
            except TimedOut:
                break
            answers[answer.method] = answer
        return tuple(answers.get(method) or RouterAnswer(method, None, "no_answer") for method in self._finders)

    def close(self) -> None:
        self._scope.close()
        self._scope.join(END_LIMIT_S)
