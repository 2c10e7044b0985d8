"""The gevent runtime on loopback: fairness, exhaustion, addresses, and who holds a port."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest

from kodectl.errors import EnvironmentFault, NegativeAnswer
from kodectl.runtime import names
from kodectl.runtime.base import ConnectFailed, Stopped, Stream
from kodectl.runtime.binding import bind_datagram
from kodectl.runtime.datagrams import DRAIN_LIMIT, NOT_CUT
from kodectl.runtime.faults import MAX_KINDS, OTHER_KIND, CallbackFaults
from kodectl.runtime.green import GreenRuntime

HOST = "127.0.0.1"
LIMIT_S = 20.0


@pytest.fixture
def runtime() -> Iterator[GreenRuntime]:
    runtime = GreenRuntime()
    with gevent.Timeout(LIMIT_S):
        yield runtime
    runtime.close()


def ignore(*_: object) -> None:
    pass


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != 99


@contextlib.contextmanager
def no_descriptor_left(but: int = 0) -> Iterator[None]:
    """The process may open that many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_descriptor = os.dup(0)
    os.close(next_descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor + but, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


class TestFairness:
    def test_flooded_sockets_take_turns_with_each_other_and_with_timers(self, runtime: GreenRuntime) -> None:
        heard: list[str] = []
        done = runtime.event()

        def tick() -> None:
            heard.append("tick")
            if len(heard) < 6 * DRAIN_LIMIT:
                runtime.call_later(0.0, tick)
            else:
                done.set()

        nodes = [runtime.open_datagram((HOST, 0), lambda *_, name=name: heard.append(name)) for name in "ab"]
        for node in nodes:
            for _ in range(3 * DRAIN_LIMIT):
                node.send(b"flood", node.local)
        runtime.call_later(0.0, tick)
        assert done.wait(5.0)
        assert {"a", "b", "tick"} <= set(heard[: 2 * DRAIN_LIMIT + 1])
        assert heard.count("tick") >= 3
        for node in nodes:
            node.close()

    def test_a_fast_sender_leaves_turns_to_others(self, runtime: GreenRuntime) -> None:
        """All that the reader will ever want is there before it starts, and yet it does not read in one go."""
        near, far = socket_pair(runtime)
        size = 1_000_000
        far.sendall(bytes(size))
        turns: list[int] = []
        unread = [size]

        def tick() -> None:
            turns.append(unread[0])
            if unread[0]:
                runtime.call_later(0.0, tick)

        runtime.call_later(0.0, tick)
        while unread[0]:
            near.read_exactly(1_000)
            unread[0] -= 1_000
        assert len([left for left in turns if 0 < left < size]) >= 3
        near.close()
        far.close()


def socket_pair(runtime: GreenRuntime, receive_buffer: int | None = None) -> tuple[Stream, socket.socket]:
    """A stream of the runtime, and a plain blocking socket at its other end."""
    accepted = runtime.mailbox(1)
    listener = runtime.listen((HOST, 0), accepted.put)
    far = socket.socket()
    if receive_buffer is not None:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    far.connect(listener.local)
    near = accepted.get(5.0)
    listener.close()
    return near, far


class TestStreams:
    def test_last_words_get_through_although_input_was_left_unread(self, runtime: GreenRuntime) -> None:
        near, far = socket_pair(runtime, receive_buffer=4_096)
        far.sendall(b"never read")
        near.write(bytes(100_000))  # most of it still waits in this side's kernel
        near.close()
        far.settimeout(5.0)
        got = 0
        while chunk := far.recv(65_536):
            got += len(chunk)
        assert got == 100_000
        far.close()

    def test_small_writes_go_out_at_once(self, runtime: GreenRuntime) -> None:
        near, far = socket_pair(runtime)
        assert near._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        near.close()
        far.close()

    def test_a_reset_ends_the_stream(self, runtime: GreenRuntime) -> None:
        near, far = socket_pair(runtime)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        with pytest.raises(Exception, match="reset") as ended:
            near.read_exactly(1)
        assert type(ended.value).__name__ == "StreamClosed"
        near.close()

    def test_a_silent_port_times_out(self, runtime: GreenRuntime) -> None:
        with socket.socket() as deaf, socket.socket() as first:
            deaf.bind((HOST, 0))
            deaf.listen(0)
            first.connect(deaf.getsockname())  # the only one that the queue takes
            with pytest.raises(ConnectFailed) as failed:
                runtime.connect(deaf.getsockname(), 0.1)
        assert failed.value.reason == "timeout"

    @pytest.mark.parametrize(("wildcard", "host"), [("0.0.0.0", HOST), ("::", HOST), ("::", "::1")])
    def test_the_port_of_a_wildcard_listener_dials(self, runtime: GreenRuntime, wildcard: str, host: str) -> None:
        accepted: list[Stream] = []
        listener = runtime.listen((wildcard, 0), ignore)
        far = runtime.listen((host, 0), accepted.append)
        near = runtime.connect(far.local, 1.0, listener.local[1])
        gevent.sleep(0.05)
        assert accepted[0].remote == (host, listener.local[1])
        with pytest.raises(ConnectFailed, match="unreachable"):  # these ends are connected
            runtime.connect(far.local, 1.0, listener.local[1])
        for closable in (near, *accepted, listener, far):
            closable.close()

    def test_a_port_that_another_program_holds_dials_nobody(self, runtime: GreenRuntime) -> None:
        with socket.socket() as other:
            other.bind((HOST, 0))
            other.listen()
            with pytest.raises(ConnectFailed, match="unreachable"):
                runtime.connect((HOST, 9), 1.0, other.getsockname()[1])

    @pytest.mark.parametrize("remote", [("255.255.255.255", 9), ("example.invalid", 9), (HOST, 70_000)])
    def test_what_is_no_address_of_a_host_is_unreachable(self, runtime: GreenRuntime, remote: tuple[str, int]) -> None:
        with pytest.raises(ConnectFailed) as failed:
            runtime.connect(remote, 1.0)
        assert failed.value.reason == "unreachable"

    def test_accepting_goes_on_after_descriptors_ran_out(self, runtime: GreenRuntime) -> None:
        accepted = runtime.mailbox(10)
        listener = runtime.listen((HOST, 0), accepted.put)
        clients = [socket.create_connection(listener.local) for _ in range(3)]
        with no_descriptor_left(but=1):
            streams = [accepted.get(5.0)]
            assert not len(accepted)
            assert runtime.faults.counts == {"accept: OSError": 1}
        streams += [accepted.get(5.0), accepted.get(5.0)]
        for closable in (*clients, *streams, listener):
            closable.close()

    def test_without_descriptors_the_network_is_what_it_was(self, runtime: GreenRuntime) -> None:
        before = runtime.local_network()
        with no_descriptor_left():
            assert runtime.local_network() == before
            with pytest.raises(EnvironmentFault, match="cannot look at this machine's addresses") as caught:
                GreenRuntime().local_network()
        assert caught.value.code == "too_many_open_files"


@needs_ipv6
class TestDualStack:
    def test_datagrams_of_both_families(self, runtime: GreenRuntime) -> None:
        answers = runtime.mailbox(2)
        node = runtime.open_datagram(("::", 0), lambda data, sender: node.send(b"answer", sender))
        for host in (HOST, "::1"):
            asker = runtime.open_datagram((host, 0), lambda data, sender: answers.put(sender))
            asker.send(b"question", (host, node.local[1]))
            assert answers.get(5.0) == (host, node.local[1])
            asker.close()
        node.close()

    def test_ipv4_senders_are_shown_as_ipv4(self, runtime: GreenRuntime) -> None:
        senders = runtime.mailbox(2)
        node = runtime.open_datagram(("::", 0), lambda data, sender: senders.put(sender))
        asker = runtime.open_datagram((HOST, 0), ignore)
        asker.send(b"question", (HOST, node.local[1]))
        assert senders.get(5.0) == asker.local
        asker.close()
        node.close()

    def test_streams_of_both_families(self, runtime: GreenRuntime) -> None:
        accepted = runtime.mailbox(2)
        listener = runtime.listen(("::", 0), accepted.put)
        for host in (HOST, "::1"):
            near = runtime.connect((host, listener.local[1]), 5.0)
            far = accepted.get(5.0)
            assert (far.remote, far.local) == (near.local, near.remote)
            near.close()
            far.close()
        listener.close()

    def test_one_port_for_both_families(self, runtime: GreenRuntime) -> None:
        node = runtime.open_datagram(("::", 0), ignore)
        for host in (HOST, "0.0.0.0", "::1", "::"):
            with pytest.raises(EnvironmentFault):
                runtime.open_datagram((host, node.local[1]), ignore)
        node.close()


class TestRows:
    """Rows of datagrams in one send, and a kernel that cannot cut them."""

    @pytest.mark.parametrize("refusal", NOT_CUT)
    def test_where_rows_are_not_cut_they_go_one_by_one(self, runtime: GreenRuntime, refusal: int) -> None:
        class BareDevice:
            """The socket, over a device that makes no checksums: none such is at hand."""

            asked = 0

            def sendmsg(self, *_: object) -> int:
                self.asked += 1
                raise OSError(refusal, os.strerror(refusal))

        arrived = runtime.mailbox(100)
        far = runtime.open_datagram(("127.0.0.1", 0), lambda data, _: arrived.put(data))
        near = runtime.open_datagram(("127.0.0.1", 0), ignore)
        kernel = BareDevice()
        near._sock, kept = kernel, near._sock  # type: ignore[assignment]
        sent = [bytes([number]) * 1_000 for number in range(20)]
        near.send_many(sent[:10], far.local)
        near.send_many(sent[10:], far.local)
        assert [arrived.get(5.0) for _ in sent] == sent
        assert kernel.asked == 1
        near._sock = kept
        near.close()
        far.close()

    def test_an_unreachable_address_does_not_end_rows_for_the_others(self, runtime: GreenRuntime) -> None:
        near = runtime.open_datagram(("127.0.0.1", 0), ignore)
        near.send_many([bytes(1_000)] * 3, ("192.0.2.1", 9))  # from loopback there is no way
        assert near._cuts
        assert near.lost == 3
        near.close()


class TestPorts:
    @pytest.mark.parametrize(("first", "second"), [(HOST, "0.0.0.0"), ("0.0.0.0", HOST), ("0.0.0.0", "0.0.0.0")])
    def test_a_wildcard_and_one_of_its_addresses_share_no_port(
        self, runtime: GreenRuntime, first: str, second: str
    ) -> None:
        node = runtime.open_datagram((first, 0), ignore)
        with pytest.raises(EnvironmentFault) as refused:
            runtime.open_datagram((second, node.local[1]), ignore)
        assert refused.value.code == "port_in_use"
        node.close()

    def test_of_many_that_start_at_once_one_gets_the_port(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chosen:
            chosen.bind((HOST, 0))
            local = ("0.0.0.0", chosen.getsockname()[1])
        won: list[object] = []
        gate = threading.Barrier(6)

        def start() -> None:
            gate.wait()
            for _ in range(20):
                try:
                    won.append(bind_datagram(local))
                except EnvironmentFault:
                    continue

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].close()

    @pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
    def test_the_holder_of_a_port_is_named(self, runtime: GreenRuntime, kind: socket.SocketKind) -> None:
        script = (
            "import socket, sys; s = socket.socket(type=int(sys.argv[1])); s.bind(('127.0.0.1', 0));"
            "s.type == socket.SOCK_STREAM and s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", script, str(int(kind))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            port = int(holder.stdout.readline())
            opener = runtime.open_datagram if kind == socket.SOCK_DGRAM else runtime.listen
            with pytest.raises(
                EnvironmentFault, match=rf"port {port} is in use by process {holder.pid} \(\w+"
            ) as refused:
                opener((HOST, port), ignore)
            assert refused.value.hint
            assert holder.stdin is not None
            holder.stdin.close()

    def test_this_process_is_named_too(self, runtime: GreenRuntime) -> None:
        node = runtime.open_datagram((HOST, 0), ignore)
        with pytest.raises(EnvironmentFault, match=f"this very process \\({os.getpid()}\\)"):
            runtime.open_datagram(node.local, ignore)
        node.close()


def test_faults_are_counted_by_kind_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    faults = CallbackFaults()
    for _ in range(3):
        faults.report("datagram", ValueError("x"))
    faults.report("timer", ValueError("x"))
    assert faults.counts == {"datagram: ValueError": 3, "timer: ValueError": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "datagram: ValueError (1 so far)",
        "timer: ValueError (1 so far)",
    ]


def test_kinds_of_faults_are_bounded() -> None:
    faults = CallbackFaults()
    for number in range(2 * MAX_KINDS):
        faults.report(f"place {number}", ValueError("x"))
    assert len(faults.counts) == MAX_KINDS + 1
    assert faults.counts[OTHER_KIND] == MAX_KINDS


def test_a_task_that_fails_is_logged_with_its_name(runtime: GreenRuntime, caplog: pytest.LogCaptureFixture) -> None:
    scope = runtime.scope("owner")
    scope.spawn("failing", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scope.join(5.0)
    assert [record.getMessage() for record in caplog.records] == ["task owner/failing failed"]


def test_names_resolve_by_the_system(runtime: GreenRuntime) -> None:
    assert HOST in runtime.resolve("localhost", 5.0)


def test_a_runtime_closes_while_a_name_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    server = threading.Event()
    monkeypatch.setattr(names, "getaddrinfo", lambda *_: server.wait(LIMIT_S) and [])
    runtime = GreenRuntime()
    with pytest.raises(NegativeAnswer, match="no answer within"):
        runtime.resolve("silent.invalid", 0.05)
    with gevent.Timeout(LIMIT_S / 2):
        runtime.close()
    server.set()


def test_nobody_waits_for_a_name_when_the_scope_has_closed(
    runtime: GreenRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that wait for a thread to ask with."""
    answer = threading.Event()
    monkeypatch.setattr(names, "_look_up", lambda host: answer.wait(60.0))
    scope = runtime.scope("asking")
    for number in range(names.RESOLVER_THREADS + 2):
        scope.spawn(f"ask {number}", runtime.resolve, f"silent{number}.invalid", 60.0, scope)
    runtime.scope("other").sleep(0.05)
    scope.close()
    assert scope.join(5.0) == []
    answer.set()


def test_an_unresolved_name_is_told_without_numbers(runtime: GreenRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(names, "getaddrinfo", fail)
    with pytest.raises(NegativeAnswer, match=r"does not resolve: Name or service not known$"):
        runtime.resolve("nobody.invalid", 5.0)


def test_a_dial_ends_with_its_scope(runtime: GreenRuntime) -> None:
    """At once, and its two ends are free again. A full backlog answers nobody, and knows no refusal."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as waiting:
        place = deaf.getsockname()[:2]
        waiting.enter_context(socket.create_connection(place))
        scope = runtime.scope("dial")
        outcome = runtime.mailbox(1)

        def dial() -> None:
            try:
                runtime.connect(place, 3_600.0, None, scope)
            except (ConnectFailed, Stopped) as error:
                outcome.put(error)

        runtime.scope("dialler").spawn("dial", dial)
        gevent.idle()
        scope.close()
        assert isinstance(outcome.get(5.0), Stopped)
        with pytest.raises(Stopped):
            runtime.connect(place, 3_600.0, None, scope)
