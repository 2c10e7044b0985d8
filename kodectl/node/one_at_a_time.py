"""Work that waits, and of which one is done at a time."""

from __future__ import annotations

from kodectl.runtime.base import Mailbox, Runtime


class OneAtATime:
    """`with` waits until no other task is inside."""

    def __init__(self, runtime: Runtime) -> None:
        self._free: Mailbox[None] = runtime.mailbox(1)
        self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *error: object) -> None:
        self._free.put(None)
