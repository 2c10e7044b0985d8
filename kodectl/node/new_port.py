"""A TCP port that no box has seen before, for a punch after one that came to nothing."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.runtime.base import Address, Connection, Runtime


class NewPort:
    """A port of this machine that is listened on until `close`, and where others see it."""

    def __init__(self, runtime: Runtime, see: Callable[[int], Address | None]) -> None:
        """Waits. Raises EnvironmentFault."""
        self.claims: Callable[[Connection], bool] = lambda stream: False
        self._listener = runtime.listen(("0.0.0.0", 0), self._arrived)
        self.number = self._listener.local[1]
        try:
            self.seen = see(self.number)
        except BaseException:
            self._listener.close()
            raise

    def _arrived(self, stream: Connection) -> None:
        if not self.claims(stream):
            stream.reset()

    def close(self) -> None:
        self._listener.close()
