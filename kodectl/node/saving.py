"""What a node keeps of the network across restarts: the records it holds for others, and where to look first."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.table import RoutingTable
from kodectl.errors import EnvironmentFault, WireError
from kodectl.node.lookups import enode_of
from kodectl.node.one_at_a_time import OneAtATime
from kodectl.node.persistence import Store, StoredSeed
from kodectl.node.values import Values
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import parse_enode

RECORDS_EVERY_S = 1.0
"""A killed node loses at most the writes of this time by others; the other 15 holders have them. Its own are saved before they
are answered."""
SEEDS_FIRST_S = 3.0
"""A node killed soon after its first start shall find back as well."""
SEEDS_EVERY_S = 30.0
MAX_SEEDS = 200


class Saving:
    """A disk that is full or gone is a warning; what it did not take is tried again. `warn(subject, text)`; None: over."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        values: Values,
        table: RoutingTable,
        scope: Scope,
        warn: Callable[[str, str | None], None],
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._values = values
        self._table = table
        self._scope = scope
        self._warn = warn
        self._records = OneAtATime(runtime)

    def load(self) -> list[Contact]:
        """Gives the records back to `values`, and returns the seeds. Waits. Raises EnvironmentFault."""
        self._values.load(self._runtime.in_thread(self._store.load_records))
        seeds = self._runtime.in_thread(self._store.load_seeds)
        return [contact for seed in seeds[:MAX_SEEDS] if (contact := _contact_of(seed)) is not None]

    def keep_saved(self) -> None:
        """Until the scope closes."""
        seeds_due = self._runtime.now() + SEEDS_FIRST_S
        while True:
            self._scope.sleep(RECORDS_EVERY_S)
            self._try(self._save_records)
            if self._runtime.now() > seeds_due:
                seeds_due = self._runtime.now() + SEEDS_EVERY_S
                self._try(self._save_seeds)

    def save(self) -> None:
        """Waits."""
        self._try(self._save_records)
        self._try(self._save_seeds)

    def save_records(self) -> None:
        """Waits, for another save under way as well: what the store holds by now is on the disk when it returns.

        Raises EnvironmentFault when the disk did not take it; that has been warned of then."""
        try:
            if self._save_records():
                self._warn("store", None)
        except EnvironmentFault as error:
            self._warn("store", error.message)
            raise

    def _try(self, save: Callable[[], bool]) -> None:
        """`save` says whether there was anything to write; only what the disk has taken shows that it is well."""
        try:
            if save():
                self._warn("store", None)
        except EnvironmentFault as error:
            self._warn("store", error.message)

    def _save_records(self) -> bool:
        with self._records:
            changed, removed = self._values.store.take_changes()
            if not changed and not removed:
                return False
            try:
                self._runtime.in_thread(self._store.save_records, changed, removed)
            except EnvironmentFault:
                self._values.store.put_back(changed, removed)
                raise
            return True

    def _save_seeds(self) -> bool:
        # A zone names an interface, which may be another one after a restart.
        contacts = [contact for contact in self._table.contacts() if "%" not in contact.ip][:MAX_SEEDS]
        # An empty table is no reason to forget where the network was.
        if not contacts:
            return False
        now = self._runtime.unix_time()
        seeds = [StoredSeed(str(enode_of(contact)), now) for contact in contacts]
        self._runtime.in_thread(self._store.save_seeds, seeds)
        return True


def _contact_of(seed: StoredSeed) -> Contact | None:
    """None for one that cannot be read: a seed is no reason not to start."""
    try:
        enode = parse_enode(seed.enode)
        return Contact(enode.node_id, enode.host, enode.udp, enode.tcp)
    except WireError:
        return None
