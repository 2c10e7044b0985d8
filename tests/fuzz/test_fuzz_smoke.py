"""Every target of the fuzzer over its seeds, its kept inputs and some mutations of them: no fuzzer, the same inputs each time."""

from __future__ import annotations

import pytest
from fuzz.kept_lines import kept
from fuzz.mutation import mutations
from fuzz.target import Target
from fuzz.targets import TARGETS

MUTATIONS = 400
SLOW_MUTATIONS = 100
SLOW = ("discovery_sessions", "http_framing", "ice_agent", "noise", "turn_server")
"""Those with keys or sockets, of some 0.5 ms each."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_any_bytes_give_a_value_or_the_documented_error(target: Target) -> None:
    inputs = [*target.seeds, *kept(target.name)]
    count = SLOW_MUTATIONS if target.name in SLOW else MUTATIONS
    for data in (b"", *inputs, *mutations(inputs, count, seed=16)):
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise
