"""What a node keeps of the network across restarts: the records it holds for others, and where to look first."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.table import RoutingTable
from kodectl.errors import EnvironmentFault
from kodectl.node.lookups import enode_of
from kodectl.node.persistence import Store, StoredSeed
from kodectl.node.values import Values
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import parse_enode

RECORDS_EVERY_S = 1.0
"""A killed node loses at most the writes of this time; the other 15 holders have them."""
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

    def load(self) -> list[Contact]:
        """Gives the records back to `values`, and returns the seeds. Waits. Raises EnvironmentFault."""
        self._values.load(self._runtime.in_thread(self._store.load_records))
        seeds = self._runtime.in_thread(self._store.load_seeds)
        enodes = [parse_enode(seed.enode) for seed in seeds[:MAX_SEEDS]]
        return [Contact(enode.node_id, enode.host, enode.udp, enode.tcp) for enode in enodes]

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

    def _try(self, save: Callable[[], None]) -> None:
        try:
            save()
        except EnvironmentFault as error:
            self._warn("store", error.message)
        else:
            self._warn("store", None)

    def _save_records(self) -> None:
        changed, removed = self._values.store.take_changes()
        if not changed and not removed:
            return
        try:
            self._runtime.in_thread(self._store.save_records, changed, removed)
        except EnvironmentFault:
            self._values.store.put_back(changed)
            raise

    def _save_seeds(self) -> None:
        contacts = self._table.contacts()[:MAX_SEEDS]
        # An empty table is no reason to forget where the network was.
        if contacts:
            now = self._runtime.unix_time()
            seeds = [StoredSeed(str(enode_of(contact)), now) for contact in contacts]
            self._runtime.in_thread(self._store.save_seeds, seeds)
