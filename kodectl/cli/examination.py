"""What `kodectl doctor` does: finds out what there is to examine, and has the checks run.

A node that runs is asked through its API. Where none runs, a stand-in joins the network for some seconds, on the ports and with
the configuration that `node run` would have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gevent

from kodectl.api.files import SOCKET_FILE, TOKEN_FILE
from kodectl.cli import machine_checks
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.cli.configuration import parse_host_port
from kodectl.cli.gateways import gateway_finders
from kodectl.cli.machine_checks import Place
from kodectl.cli.mending import given_to, whole, with_restart
from kodectl.core.diagnosis import Finding, State, diagnose
from kodectl.core.identity import Identity
from kodectl.errors import KodectlError
from kodectl.node.checks.at_work import check_node
from kodectl.node.checks.here import check_addresses, check_clock, check_dns
from kodectl.node.checks.joining import check_bootstrap, check_dials, check_table, check_udp_egress
from kodectl.node.checks.machine import Machine
from kodectl.node.checks.outside import (
    check_advertised_address,
    check_cgnat,
    check_inbound_tcp,
    check_inbound_udp,
    check_nat_class,
    check_port_mapping,
)
from kodectl.node.doctor import Check, examine
from kodectl.node.doctor_views import DoctorView, Examined, ExaminedView, doctor_view
from kodectl.node.patient import Chart, Patient, chart_of, stand_in
from kodectl.node.views import BootstrapView, StatsView, StatusView
from kodectl.runtime.base import Runtime
from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.threads import Threads
from kodectl.store.datadir import LOCK_FILE, is_held
from kodectl.wire.suite import RealSuite

log = logging.getLogger(__name__)

LOOK_AT_NODE_EVERY_S = 1.0
LOOK_AT_STAND_IN_EVERY_S = 0.1
"""No more than a few method calls."""
LEAVE_S = 3.0
"""Of the deadline: for a stand-in to say goodbye and to give its mappings back."""
LEAST_S = 1.0
QUICK_LIMIT_S = 6.0
"""For checks of this machine; a disk that takes longer hangs."""
SLOW_LIMIT_S = 15.0
"""For checks that wait for the network; each has shorter limits of its own."""
OF_ITS_OWN = ("nat", "bootstrap", "stun", "turn", "network")
"""Settings that only its command line tells of a node that runs."""
OF_OTHERS = ("not_authorised", "socket_not_yours")
LOOPBACKS = ("127.0.0.1", "::1", "localhost")
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

MACHINE_CHECKS: dict[str, Callable[[Place], Finding]] = {
    "disk": machine_checks.check_disk,
    "key_file": machine_checks.check_key_file,
    "fd_limit": machine_checks.check_fd_limit,
    "api_exposure": machine_checks.check_api_exposure,
}
NODE_CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "node": check_node,
    "addresses": check_addresses,
    "dns": check_dns,
    "bootstrap": check_bootstrap,
    "advertised_address": check_advertised_address,
    "port_mapping": check_port_mapping,
    "table": check_table,
    "dials": check_dials,
}
MACHINE_AND_NODE: dict[str, Callable[[Patient, Machine], Finding]] = {
    "clock": check_clock,
    "udp_egress": check_udp_egress,
    "cgnat": check_cgnat,
    "nat_class": check_nat_class,
    "inbound_udp": check_inbound_udp,
    "inbound_tcp": check_inbound_tcp,
}


class Found(NamedTuple):
    """What runs in the data directory. `status` None with a `trouble`: something does, and does not tell."""

    client: NodeClient
    status: StatusView | None
    trouble: KodectlError | None
    holder: int | None
    """The process that holds the data directory, by its lock."""


class Examination:
    """`names`: the checks to run. `config`: what is to be said of the configuration."""

    def __init__(
        self,
        place: Place,
        names: Sequence[str],
        config: Finding,
        *,
        timeout_s: float,
        ends_s: float,
        is_given: bool,
        given: Mapping[str, Any],
        config_path: str | None,
    ) -> None:
        """`ends_s`: seconds for all. `is_given`: the data directory was named, so that the API's address alone tells nothing.
        `given`, by key, and `config_path` came as options, and belong to the commands that are told."""
        self._place = place
        self._names = names
        self._config = config
        self._timeout_s = timeout_s
        self._ends_s = ends_s
        self._is_given = is_given
        self._given_here = given
        self._config_path = config_path

    def run(self, report: Callable[[Examined], None]) -> DoctorView:
        runtime = GreenRuntime()
        threads = Threads(len(MACHINE_CHECKS) + 2, gevent.get_hub())
        began = runtime.now()
        try:
            found = self._look_for_node(runtime)
            place = self._place
            its_own: Mapping[str, Any] = {}
            if found.status is not None:
                its_own, its_path = given_to(found.status.pid)
                place = as_it_runs(place, found.status, its_own)
                self._config_path = self._config_path or its_path
            ports = self._ports(runtime, place, found)
            checks = [self._given("config", self._config), *self._machine_checks(threads, place, found)]
            if ports is not None:
                checks.append(self._given("ports", ports))
            with self._patient(runtime, place, found) as patient:
                if patient is not None:
                    checks += self._node_checks(patient, found, runtime.in_thread(machine_checks.machine))
                complete = self._completion(found, its_own)
                chosen = [_with_command(check, complete) for check in checks if check.name in self._names]
                left_s = max(LEAST_S, self._ends_s - (runtime.now() - began) - LEAVE_S)
                examined = examine(runtime, chosen, left_s, report)
            diagnosis = diagnose(one.finding for one in examined)
            return doctor_view(examined, diagnosis, self._examined(found, patient), runtime.now() - began)
        finally:
            threads.end()
            runtime.close()

    # -- what there is -------------------------------------------------------------------------------------------------

    def _look_for_node(self, runtime: Runtime) -> Found:
        client = NodeClient(self._endpoint(), self._timeout_s)
        holder = holder_of(self._place.datadir)
        try:
            return Found(client, runtime.in_thread(client.get, "/api/network/status", StatusView), None, holder)
        except KodectlError as error:
            # Where nobody holds the data directory, who answers wrongly or not at all is no node of it: `ports` names him.
            is_node = holder is not None or error.code in OF_OTHERS
            return Found(client, None, error if is_node else None, holder)

    def _endpoint(self) -> Endpoint:
        """The data directory's socket, else the API's address, on this machine: another's would have other checks."""
        path = self._place.datadir / SOCKET_FILE
        host, port = self._place.api
        host = WILDCARDS.get(host, host)
        if self._is_given or path.exists() or not port or host not in LOOPBACKS:
            return Endpoint(unix=path)
        token = self._place.datadir / TOKEN_FILE
        return Endpoint(host=host, port=port, token_file=token if token.exists() else None)

    def _ports(self, runtime: Runtime, place: Place, found: Found) -> Finding | None:
        """Before a stand-in takes them."""
        if found.status is not None:
            listeners = found.status.listeners
            return machine_checks.ports_held(place, listeners.tcp, listeners.udp, listeners.api)
        if found.trouble is not None:
            return Finding("ports", State.SKIPPED, "the node that runs here and does not answer has them")
        wanted = "ports" in self._names or self._needs_patient()
        return runtime.in_thread(machine_checks.check_ports, place) if wanted else None

    @contextmanager
    def _patient(self, runtime: Runtime, place: Place, found: Found) -> Iterator[Patient | None]:
        """None where no check needs one."""
        if not self._needs_patient():
            yield None
            return
        scope = runtime.scope("patient")
        if found.status is not None:
            read = partial(runtime.in_thread, chart_by, found.client)
            patient = Patient(runtime, place.settings, read, LOOK_AT_NODE_EVERY_S, is_running=True)
            leave: Callable[[], object] = found.client.close
        else:
            identity = Identity(RealSuite(), runtime.random_bytes(32))
            node = stand_in(runtime, place.settings, identity, gateway_finders(runtime))
            patient = Patient(
                runtime, place.settings, partial(chart_of, node), LOOK_AT_STAND_IN_EVERY_S, is_running=False
            )
            leave = node.stop
        scope.spawn("look", patient.run, scope)
        try:
            yield patient
        finally:
            scope.close()
            leave()

    def _needs_patient(self) -> bool:
        return any(name in self._names for name in (*NODE_CHECKS, *MACHINE_AND_NODE))

    def _examined(self, found: Found, patient: Patient | None) -> ExaminedView:
        status = found.status
        return ExaminedView(
            running=None if patient is None and status is None else status is not None,
            id=status.id if status is not None else None,
            pid=status.pid if status is not None else found.holder,
            datadir=str(self._place.datadir),
        )

    # -- the checks ----------------------------------------------------------------------------------------------------

    def _completion(self, found: Found, its_own: Mapping[str, Any]) -> Callable[[str], str]:
        """Of commands: a node that runs is to run again as it does, one that does not as the doctor was told."""
        given = {**its_own, **{key: value for key, value in self._given_here.items() if value not in (None, ())}}
        if found.status is None:
            return lambda command: whole(command, given, self._config_path)
        return lambda command: whole(with_restart(command), given, self._config_path)

    def _given(self, name: str, finding: Finding) -> Check:
        return Check(name, lambda: finding, QUICK_LIMIT_S)

    def _machine_checks(self, threads: Threads, place: Place, found: Found) -> list[Check]:
        checks = {name: partial(in_thread, threads, check, place) for name, check in MACHINE_CHECKS.items()}
        if found.trouble is not None and found.trouble.code == "socket_not_yours":
            seen = "another user's: what is there is for that user to see"
            checks |= {name: partial(Finding, name, State.SKIPPED, seen) for name in ("disk", "key_file")}
        return [Check(name, check, QUICK_LIMIT_S) for name, check in checks.items()]

    def _node_checks(self, patient: Patient, found: Found, machine: Machine) -> list[Check]:
        plain = {name: partial(check, patient) for name, check in NODE_CHECKS.items()}
        with_machine = {name: partial(check, patient, machine) for name, check in MACHINE_AND_NODE.items()}
        if found.trouble is not None:
            plain["node"] = partial(not_answering, found, self._place.datadir)
        return [Check(name, check, SLOW_LIMIT_S) for name, check in (plain | with_machine).items()]


def _with_command(check: Check, complete: Callable[[str], str]) -> Check:
    def examined() -> Finding:
        finding = check.examine()
        return finding if finding.command is None else finding._replace(command=complete(finding.command))

    return check._replace(examine=examined)


def as_it_runs(place: Place, status: StatusView, its_own: Mapping[str, Any]) -> Place:
    """A node that runs listens where it does and was told what it was, whatever is configured now."""
    host, tcp_port = parse_host_port(status.listeners.tcp)
    udp_port = parse_host_port(status.listeners.udp)[1]
    settings = replace(
        place.settings,
        listen_host=host,
        tcp_port=tcp_port,
        udp_port=udp_port,
        max_peers=status.max_peers,
        **{key: its_own[key] for key in OF_ITS_OWN if key in its_own},
    )
    api = next((parse_host_port(text) for text in status.listeners.api if not text.startswith("unix:")), place.api)
    return place._replace(settings=settings, api=api, pid=status.pid, node_id=status.id)


def in_thread(threads: Threads, check: Callable[[Place], Finding], place: Place) -> Finding:
    """Not the runtime's: a disk that hangs must not keep the node's API from being read."""
    finding, error = threads.spawn(_outcome, check, place).get()
    if finding is None:
        raise error
    return finding


def _outcome(check: Callable[[Place], Finding], place: Place) -> tuple[Finding | None, Exception | None]:
    """A failure is a value: the pool would print what is raised."""
    try:
        return check(place), None
    except Exception as error:
        return None, error


def chart_by(client: NodeClient) -> Chart:
    return Chart(
        client.get("/api/network/status", StatusView),
        client.get("/api/network/bootstrap", BootstrapView),
        client.get("/api/network/stats", StatsView),
    )


def holder_of(datadir: Path) -> int | None:
    """The process that has the data directory; 0 where that cannot be read."""
    if not is_held(datadir):
        return None
    try:
        return int((datadir / LOCK_FILE).read_bytes()[:20] or b"0")
    except (OSError, ValueError):
        return 0


def owner_of(datadir: Path) -> str:
    """Who it belongs to, as far as that is known."""
    try:
        return datadir.owner()
    except (OSError, KeyError):
        return "USER"


def not_answering(found: Found, datadir: Path) -> Finding:
    trouble = found.trouble
    assert trouble is not None
    details: dict[str, object] = {"pid": found.holder}
    if trouble.code in OF_OTHERS:
        mend = "run the doctor as the user of the node"
        why = "what the node knows can only be asked by its own user"
        command = f"sudo -u {owner_of(datadir)} kodectl doctor"
        return Finding("node", State.FAILED, trouble.message, trouble.code, why, mend, command, details)
    process = f"process {found.holder}" if found.holder else "a process"
    return Finding(
        "node",
        State.FAILED,
        f"{process} holds the data directory and does not answer: {trouble.message}",
        "node_not_answering",
        "a node that does not answer its API does not answer its peers either",
        "look into its log; it is stopped by force if need be, and started again",
        f"kill {found.holder}; kodectl node run" if found.holder else "kodectl node stop",
        details,
    )
