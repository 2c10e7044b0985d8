"""What commands that act without a running node share: a runtime of their own, and the terms of the errand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kodectl.node.errand import Terms
from kodectl.runtime.base import Runtime
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.enode import parse_enode


@contextmanager
def world() -> Iterator[Runtime]:
    runtime = GreenRuntime()
    try:
        yield runtime
    finally:
        runtime.close()


def terms_of(bootstrap: Sequence[str], network: str, timeout_s: float, deadline_s: float) -> Terms:
    return Terms(
        bootstrap=tuple(parse_enode(text) for text in bootstrap),
        network=network,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
    )
