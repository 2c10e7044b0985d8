"""The process that UPnP is done in: whatever a router does to it, the node goes on, and it is gone afterwards.

The router is a script on loopback, and is not searched for: nothing is multicast.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_igd import Answer, ScriptedIgd, endless, fault, http, silence, trickle

from kodectl.core.mapping import MappingRefused, Method, PortMapping, Transport, Wish
from kodectl.errors import NegativeAnswer, WireError
from kodectl.runtime import upnp
from kodectl.runtime import upnp_calls as calls
from kodectl.runtime.base import LocalNetwork
from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.upnp import UpnpGateway
from kodectl.runtime.upnp_worker import MEMORY_LIMIT

REPOSITORY = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
HOST = "192.168.1.7"
OK = b"HTTP/1.1 200 OK\r\n"


class Machine(GreenRuntime):
    """A machine at HOST, whose clock can be put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.source = HOST
        self.forward_s = 0.0

    def now(self) -> float:
        return super().now() + self.forward_s

    def local_network(self) -> LocalNetwork:
        return LocalNetwork((self.source,), self.source, "192.168.1.1", None, None)


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()
    assert workers(os.getpid()) == []


@pytest.fixture
def router() -> Iterator[ScriptedIgd]:
    router = ScriptedIgd(LOOPBACK)
    yield router
    router.close()


@pytest.fixture
def gateway(machine: Machine, router: ScriptedIgd) -> UpnpGateway:
    return UpnpGateway(machine, calls.Found(router.service, "A router", 1_000), HOST)


def workers(pid: int) -> list[psutil.Process]:
    """UPnP processes that this one has, zombies too."""
    return [child for child in psutil.Process(pid).children() if child.status() == "zombie" or _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    return "kodectl.runtime.upnp_worker" in process.cmdline()


TCP = Wish(Transport.TCP, 30303, 30303)


def test_a_port_is_mapped_verified_listed_and_removed(gateway: UpnpGateway, router: ScriptedIgd) -> None:
    mapping = gateway.add(TCP)
    assert mapping == PortMapping(
        Method.UPNP, Transport.TCP, (HOST, 30303), ("20.9.9.9", 30303), 3600, LOOPBACK, "kodectl"
    )
    assert gateway.verify(mapping)
    assert gateway.mappings() == [mapping]
    gateway.remove(mapping)
    assert not gateway.verify(mapping)
    assert gateway.mappings() == []
    gateway.remove(mapping)


def test_a_router_without_an_address_maps_all_the_same(gateway: UpnpGateway, router: ScriptedIgd) -> None:
    router.external_ip = ""
    assert gateway.add(TCP).external == ("0.0.0.0", 30303)
    assert gateway.external_ip() is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (402, "mapping_refused"),
        (501, "mapping_refused"),
        (606, "mapping_not_authorised"),
        (718, "mapping_conflict"),
        (725, "mapping_permanent_only"),
        (728, "gateway_full"),
        (729, "mapping_conflict"),
        (401, "mapping_unsupported"),
        (899, "mapping_refused"),
    ],
)
def test_a_refusal_becomes_advice(gateway: UpnpGateway, router: ScriptedIgd, number: int, code: str) -> None:
    router.script["AddPortMapping"] = fault(number)
    with pytest.raises(MappingRefused) as refused:
        gateway.add(TCP)
    assert refused.value.code == code
    assert refused.value.number == (None if number == 899 else number)
    assert refused.value.hint
    assert "30303/tcp" in refused.value.message


def test_the_mapping_of_another_is_not_removed(gateway: UpnpGateway, router: ScriptedIgd) -> None:
    mapping = gateway.add(TCP)
    router.occupy(30303, "tcp", "192.168.1.8", 30303)
    assert not gateway.verify(mapping)
    with pytest.raises(MappingRefused) as refused:
        gateway.remove(mapping)
    assert refused.value.code == "mapping_conflict"


def test_a_machine_that_has_moved_looks_for_its_router_again(gateway: UpnpGateway, machine: Machine) -> None:
    machine.source = "10.0.0.5"
    with pytest.raises(NegativeAnswer) as moved:
        gateway.add(TCP)
    assert moved.value.code == "no_gateway"


def test_a_restart_shows_in_the_uptime(gateway: UpnpGateway, machine: Machine, router: ScriptedIgd) -> None:
    def later(seconds: float, uptime_s: object) -> bool:
        machine.forward_s += seconds
        router.uptime_s = uptime_s
        return gateway.has_restarted()

    assert not later(100, 1_100)
    assert later(100, 20)
    assert not later(100, 120)
    assert later(1_000, 900), "it has been up for longer than before, and for less time than has passed"
    assert not later(100, 900), "the same again is no uptime"
    assert not later(100, ""), "nor is nothing"
    assert not later(100, 0)


def test_one_look_is_one_call(gateway: UpnpGateway, router: ScriptedIgd) -> None:
    gateway.has_restarted()
    assert gateway.external_ip() == "20.9.9.9"
    assert [name for name, _ in router.actions] == ["GetExternalIPAddress", "GetStatusInfo"]


# --- routers that hang ---


@pytest.mark.parametrize("answer", [silence, trickle(OK + b"\r\n")], ids=["silence", "one byte at a time"])
def test_a_router_that_hangs_holds_up_nobody(
    gateway: UpnpGateway, router: ScriptedIgd, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upnp, "CALL_LIMIT_S", 0.7)
    router.script["GetExternalIPAddress"] = answer
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.001)
            ticks += 1

    ticking = gevent.spawn(tick)
    with pytest.raises(NegativeAnswer) as silent:
        gateway.external_ip()
    ticking.kill()
    assert silent.value.code == "no_gateway"
    assert ticks > 50


def test_side_by_side_routers_that_hang_are_waited_for_together(
    gateway: UpnpGateway, router: ScriptedIgd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upnp, "CALL_LIMIT_S", 0.7)
    monkeypatch.setattr(upnp, "STATE_FRESH_S", -1)
    router.script["GetExternalIPAddress"] = silence
    most = 0

    def ask() -> None:
        nonlocal most
        gevent.spawn_later(0.3, look)
        with pytest.raises(NegativeAnswer):
            gateway.external_ip()

    def look() -> None:
        nonlocal most
        most = max(most, len(workers(os.getpid())))

    gevent.joinall([gevent.spawn(ask) for _ in range(3)], raise_error=True)
    assert most == 3


# --- routers that send too much ---

GREEDY = {
    "no end": endless(OK + b"\r\n"),
    "no end of elements": endless(OK + b"\r\n<a>", b"<b>c</b>" * 8_000),
    "ten megabytes": http(b" " * 10_000_000),
    "two gigabytes announced": endless(OK + b"Content-Length: 2147483647\r\n\r\n"),
    "four gigabytes in a chunk": endless(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"),
    "nested": http(b"<a>" * 1_000_000),
}
MEASURE = """
import resource, subprocess, sys
worker = [sys.executable, "-P", "-m", "kodectl.runtime.upnp_worker"]
done = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
done.stdin.write(sys.stdin.buffer.readline())
done.stdin.flush()
answer = done.stdout.read()
done.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, answer.decode())
"""
"""In a small process of its own: a child counts what its parent had when it was forked."""


@pytest.mark.parametrize("answer", GREEDY.values(), ids=GREEDY)
def test_what_a_router_sends_does_not_fill_the_memory(router: ScriptedIgd, answer: Answer) -> None:
    router.script["GetExternalIPAddress"] = answer
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=calls.pack(calls.Status(router.service)),
        capture_output=True,
        cwd=REPOSITORY,
        check=True,
    )
    most, _, told = measured.stdout.decode().partition(" ")
    assert int(most) < MEMORY_LIMIT
    assert '"Silent"' in told or '"Malformed"' in told or told == "\n"


@pytest.mark.parametrize(
    "answer", [endless(OK, b"X: y\r\n" * 9_000), endless(OK + b"X: ")], ids=["headers", "a header"]
)
def test_what_costs_time_is_ended(
    gateway: UpnpGateway, router: ScriptedIgd, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upnp, "CALL_LIMIT_S", 0.7)
    router.script["GetExternalIPAddress"] = answer
    with pytest.raises(NegativeAnswer):
        gateway.external_ip()


# --- workers that were led astray ---


@pytest.mark.parametrize(
    ("program", "trouble"),
    [
        ("print('garbage')", WireError),
        ("pass", WireError),
        ("while True: print('x' * 10_000)", WireError),
        ("import os; os.kill(os.getpid(), 11)", WireError),
        ("import os; os.close(0); print('x', flush=True); os.close(1)", WireError),
        ("print('[' * 100_000)", WireError),
        ('print(\'{"type":"State","external_ip":7,"uptime_s":1}\')', WireError),
        ('print(\'{"type":"Listed","entries":[]}\')', WireError),
        ("import time; time.sleep(60)", NegativeAnswer),
    ],
)
def test_a_worker_is_not_believed(
    gateway: UpnpGateway, program: str, trouble: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upnp, "WORKER", ("-c", program))
    monkeypatch.setattr(upnp, "CALL_LIMIT_S", 2.0)
    with pytest.raises(trouble), gevent.Timeout(20.0):
        gateway.external_ip()


def test_a_machine_that_starts_no_process_has_no_gateway(gateway: UpnpGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(NegativeAnswer, match="none can be started"):
            gateway.external_ip()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@given(st.binary() | st.sampled_from(["State", "Refused"]).map(lambda tag: f'{{"type":"{tag}","number":1}}'.encode()))
def test_any_bytes_of_a_worker_are_an_answer_or_refused(data: bytes) -> None:
    try:
        answer = calls.unpack_answer(data, calls.State)
    except WireError:
        return
    assert isinstance(answer, calls.State | calls.Trouble)


def test_nothing_of_the_current_directory_is_imported(
    gateway: UpnpGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("socket", "msgspec", "miniupnpc", "kodectl"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not from here')")
    monkeypatch.chdir(tmp_path)
    assert gateway.external_ip() == "20.9.9.9"


# --- the end of a worker ---

CALLER = """
import sys
from kodectl.runtime import upnp_calls as calls
from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.upnp import UpnpGateway
from kodectl.wire.upnp import Service, Url
service = Service("urn:schemas-upnp-org:service:WANIPConnection:1", Url("127.0.0.1", int(sys.argv[1]), "/ctl"))
print(UpnpGateway(GreenRuntime(), calls.Found(service, "", None), "127.0.0.1").external_ip())
"""


def caller(router: ScriptedIgd, program: str = CALLER) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, str(router.server.port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)


def test_it_works_from_a_patched_process(router: ScriptedIgd) -> None:
    process = caller(router, "from gevent import monkey\nmonkey.patch_all()\n" + CALLER)
    assert process.communicate() == (b"20.9.9.9\n", None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_does_not_outlive_its_caller(
    router: ScriptedIgd, number: signal.Signals, eventually: Callable[[Callable[[], object]], object]
) -> None:
    router.script["GetExternalIPAddress"] = trickle(OK + b"\r\n")
    process = caller(router)
    eventually(lambda: router.server.connections)
    (worker,) = workers(process.pid)
    process.send_signal(number)
    process.wait()
    eventually(lambda: not worker.is_running() or worker.status() == "zombie")
    process.communicate()


def test_a_worker_hears_no_ctrl_c_of_its_caller(router: ScriptedIgd, eventually: Callable[..., object]) -> None:
    router.script["GetExternalIPAddress"] = silence
    process = caller(router)
    eventually(lambda: router.server.connections)
    (worker,) = workers(process.pid)
    assert os.getpgid(worker.pid) != os.getpgid(process.pid)
    process.kill()
    process.communicate()


def test_a_worker_without_a_caller_has_limits_of_its_own(
    router: ScriptedIgd, eventually: Callable[..., object]
) -> None:
    """Which hold even where its stdin stays open."""
    router.script["GetExternalIPAddress"] = silence
    command = [sys.executable, "-m", "kodectl.runtime.upnp_worker"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert worker.stdin is not None
    worker.stdin.write(calls.pack(calls.Status(router.service)))
    worker.stdin.flush()
    eventually(lambda: router.server.connections)
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert f"Max address space         {MEMORY_LIMIT}" in limits
    assert "Max core file size        0" in limits
    worker.send_signal(signal.SIGALRM)
    assert worker.wait() == -signal.SIGALRM, "its alarm ends it"
    worker.communicate()
