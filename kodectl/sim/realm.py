"""Address spaces: the internet, and one behind each box that translates.

The same address may be there in many realms (192.168.1.2 is behind half of all routers), so what is to be told apart in
the whole world goes by its name: an address of the internet is its own name, others have that of their box before them
(`router/192.168.1.2`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kodectl.errors import LocalMisuse

if TYPE_CHECKING:
    from kodectl.sim.nat import Nat, OuterSide
    from kodectl.sim.network import Host, Path, PathModel

NAME_SEPARATOR = "/"


class Station:
    """Something that has an address in a realm: a host, or the outer side of a box.

    `number` stands for it in the trace. One that is not `alive` has left its place, and takes nothing more."""

    def __init__(self, realm: Realm, ip: str, name: str, number: int) -> None:
        self.realm = realm
        self.ip = ip
        self.name = name
        self.number = number
        self.alive = True
        self.paths: dict[str, Path] = {}
        """The ways found so far, by address."""


class Realm:
    """A network with addresses of its own. What is none of them lies beyond its gateway; the internet has none.

    `model`: how its ways behave where nothing else was said."""

    def __init__(self, name: str, model: PathModel, gateway: Nat | None = None) -> None:
        self.name = name
        self.model = model
        self.gateway = gateway
        self.stations: dict[str, Host | OuterSide] = {}

    def name_of(self, ip: str) -> str:
        return f"{self.name}{NAME_SEPARATOR}{ip}" if self.name else ip

    def require_free(self, ip: str) -> None:
        """Raises LocalMisuse."""
        if ip in self.stations:
            raise LocalMisuse(f"there is a host {self.name_of(ip)} already")


def realm_name(name: str) -> str:
    """The realm of a host by its name; empty: the internet."""
    return name.rpartition(NAME_SEPARATOR)[0]
