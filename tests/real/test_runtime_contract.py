"""What every runtime promises, asked of both: gevent on loopback, and the simulated network."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
import pytest

from kodectl.errors import EnvironmentFault, NegativeAnswer
from kodectl.runtime.base import Address, ConnectFailed, Runtime, Stopped, Stream, StreamClosed, TimedOut
from kodectl.runtime.green import GreenRuntime
from kodectl.sim.world import World

LIMIT_S = 20.0
"""No procedure here comes near it, unless something hangs."""


class Stage(Protocol):
    """Two hosts and something that runs a procedure as a task."""

    here: Runtime
    there: Runtime
    ip: str
    far_ip: str

    def run(self, procedure: Callable[[], Any]) -> Any: ...
    def faults(self) -> int: ...


class GreenStage:
    def __init__(self) -> None:
        self.here = self.there = GreenRuntime()
        self.ip = self.far_ip = "127.0.0.1"

    def run(self, procedure: Callable[[], Any]) -> Any:
        with gevent.Timeout(LIMIT_S):
            return procedure()

    def faults(self) -> int:
        return sum(self.here.faults.counts.values())

    def close(self) -> None:
        self.here.close()


class SimStage:
    def __init__(self) -> None:
        self._world = World("contract", strict=False)
        self.ip, self.far_ip = "10.0.0.1", "10.0.0.2"
        self.here, self.there = self._world.host(self.ip), self._world.host(self.far_ip)

    def run(self, procedure: Callable[[], Any]) -> Any:
        return self._world.call(self.here, procedure, limit_s=LIMIT_S)

    def faults(self) -> int:
        return len(self._world.callback_faults)

    def close(self) -> None:
        self._world.close()


@pytest.fixture(params=[GreenStage, SimStage], ids=["gevent", "simulated"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = request.param()
    yield stage
    stage.close()


def ignore(*_: object) -> None:
    pass


def connected(stage: Stage) -> tuple[Stream, Stream]:
    """A stream from here to there: both ends."""
    accepted = stage.there.mailbox(1)
    listener = stage.there.listen((stage.far_ip, 0), accepted.put)
    near = stage.here.connect(listener.local, 5.0)
    far = accepted.get(5.0)
    listener.close()
    return near, far


def write_for_ever(stream: Stream) -> None:
    while True:
        stream.write(bytes(65_536))


class TestDatagrams:
    def test_arrive_with_their_sender_and_can_be_answered(self, stage: Stage) -> None:
        def procedure() -> None:
            answers = stage.here.mailbox(1)
            near = stage.here.open_datagram((stage.ip, 0), lambda data, sender: answers.put((data, sender)))
            far = stage.there.open_datagram((stage.far_ip, 0), lambda data, sender: far.send(data.upper(), sender))
            near.send(b"hello", far.local)
            assert answers.get(5.0) == (b"HELLO", far.local)
            near.close()
            far.close()

        stage.run(procedure)

    @pytest.mark.parametrize(
        "sizes",
        [
            [],
            [5],
            [1200] * 3,
            [1200] * 200,
            [1200, 1200, 7],
            [7, 1200, 1200, 40, 40, 1200],
            [0, 0, 3, 0],
            [65_000, 9, 9],
        ],
    )
    def test_many_arrive_as_they_were_and_in_order(self, stage: Stage, sizes: list[int]) -> None:
        def procedure() -> None:
            arrived = stage.there.mailbox(300)
            near = stage.here.open_datagram((stage.ip, 0), ignore)
            far = stage.there.open_datagram((stage.far_ip, 0), lambda data, sender: arrived.put((data, sender)))
            sent = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
            near.send_many(sent, far.local)
            seen = [arrived.get(5.0) for _ in sent]
            assert {sender[1] for _, sender in seen} <= {near.local[1]}
            if stage.ip == stage.far_ip:  # the simulated way has jitter, and packets overtake each other
                assert [data for data, _ in seen] == sent
            assert sorted(data for data, _ in seen) == sorted(sent)
            near.close()
            near.send_many(sent, far.local)
            far.close()

        stage.run(procedure)

    def test_what_cannot_be_sent_is_lost_without_a_word(self, stage: Stage) -> None:
        def procedure() -> None:
            near = stage.here.open_datagram((stage.ip, 0), ignore)
            free = stage.there.open_datagram((stage.far_ip, 0), ignore)
            free.close()
            targets: list[Address] = [free.local, ("not an address", 1), ("example.invalid", 1), (stage.far_ip, 70000)]
            for target in targets:
                near.send(b"lost", target)
                near.send_many([b"lost", b"too", b"and this"], target)
            near.send(bytes(70_000), (stage.far_ip, 9))
            near.close()
            near.send(b"after the close", free.local)

        stage.run(procedure)

    def test_a_callback_that_raises_ends_nothing(self, stage: Stage) -> None:
        def procedure() -> None:
            heard = stage.there.mailbox(8)

            def receive(data: bytes, sender: Address) -> None:
                if data == b"bad":
                    raise ValueError("from the callback")
                heard.put(data)

            near = stage.here.open_datagram((stage.ip, 0), ignore)
            far = stage.there.open_datagram((stage.far_ip, 0), receive)
            near.send(b"bad", far.local)
            near.send(b"good", far.local)
            assert heard.get(5.0) == b"good"
            near.close()
            far.close()

        stage.run(procedure)
        assert stage.faults() == 1

    def test_a_callback_must_not_wait(self, stage: Stage) -> None:
        def procedure() -> None:
            done = stage.here.event()
            scope = stage.here.scope("waited on")
            stage.here.call_later(0.0, lambda: scope.sleep(1.0))
            stage.here.call_later(0.01, done.set)
            assert done.wait(5.0)

        stage.run(procedure)
        assert stage.faults() == 1

    def test_nothing_arrives_after_the_close(self, stage: Stage) -> None:
        def procedure() -> None:
            heard = stage.there.mailbox(8)

            def receive(data: bytes, sender: Address) -> None:
                heard.put(data)
                far.close()

            near = stage.here.open_datagram((stage.ip, 0), ignore)
            far = stage.there.open_datagram((stage.far_ip, 0), receive)
            for number in range(4):
                near.send(bytes([number]), far.local)
            heard.get(5.0)
            with pytest.raises(TimedOut):
                heard.get(0.2)
            near.close()
            far.close()

        stage.run(procedure)

    def test_a_port_belongs_to_one_socket(self, stage: Stage) -> None:
        first = stage.here.open_datagram((stage.ip, 0), ignore)
        with pytest.raises(EnvironmentFault, match="in use") as refused:
            stage.here.open_datagram(first.local, ignore)
        assert refused.value.code == "port_in_use"
        first.close()
        stage.here.open_datagram(first.local, ignore).close()

    def test_a_foreign_address_cannot_be_bound(self, stage: Stage) -> None:
        for bind in (stage.here.open_datagram, stage.here.listen):
            with pytest.raises(EnvironmentFault) as refused:
                bind(("192.0.2.1", 0), ignore)
            assert refused.value.code == "address_not_available"


class TestStreams:
    def test_bytes_arrive_in_order_whatever_the_pieces(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            data = stage.here.random_bytes(1_000_000)
            scope = stage.here.scope("writer")
            scope.spawn("write", near.write, data)
            sizes = [1, 2, 0, 65_535, 200_000, 17, 131_072]
            sizes.append(len(data) - sum(sizes))
            assert b"".join(far.read_exactly(size) for size in sizes) == data
            far.write(b"answer")
            assert near.read_exactly(6) == b"answer"
            assert scope.join(5.0) == []
            near.close()
            far.close()

        stage.run(procedure)

    def test_both_ends_know_each_other(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            assert (near.local, near.remote) == (far.remote, far.local)
            assert near.local[0] == stage.ip
            near.close()
            far.close()

        stage.run(procedure)

    def test_what_was_written_before_the_close_can_still_be_read(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            near.write(b"last words")
            near.close()
            assert far.read_exactly(4) == b"last"
            with pytest.raises(StreamClosed):
                far.read_exactly(7)
            far.close()

        stage.run(procedure)

    def test_last_words_survive_unread_input(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            far.write(bytes(100_000))
            near.read_exactly(1)
            near.write(bytes(200_000))
            near.close()
            far.read_exactly(200_000)
            far.close()

        stage.run(procedure)

    def test_writes_fail_after_the_other_side_closed(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            far.close()
            with pytest.raises(StreamClosed):
                write_for_ever(near)
            near.close()

        stage.run(procedure)

    def test_close_wakes_the_reader(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            ends = stage.here.mailbox(1)

            def read() -> None:
                try:
                    near.read_exactly(1)
                except StreamClosed as closed:
                    ends.put(closed)

            scope = stage.here.scope("reader")
            scope.spawn("read", read)
            scope.sleep(0.01)
            near.close()
            assert isinstance(ends.get(5.0), StreamClosed)
            with pytest.raises(StreamClosed):
                near.read_exactly(1)
            near.close()
            assert scope.join(5.0) == []
            far.close()

        stage.run(procedure)

    def test_a_writer_waits_for_the_reader_and_close_wakes_it(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            ends = stage.here.mailbox(1)

            def write() -> None:
                try:
                    near.write(bytes(64 * 1024 * 1024))
                except StreamClosed as closed:
                    ends.put(closed)

            scope = stage.here.scope("writer")
            scope.spawn("write", write)
            with pytest.raises(TimedOut):
                ends.get(0.5)
            near.close()
            assert isinstance(ends.get(5.0), StreamClosed)
            with pytest.raises(StreamClosed):
                near.write(b"more")
            assert scope.join(5.0) == []
            far.close()

        stage.run(procedure)

    def test_a_waiting_writer_goes_on_when_the_reader_reads(self, stage: Stage) -> None:
        def procedure() -> None:
            near, far = connected(stage)
            scope = stage.here.scope("writer")
            scope.spawn("write", near.write, bytes(16 * 1024 * 1024))
            assert scope.join(0.2) == ["write"]
            far.read_exactly(16 * 1024 * 1024)
            assert scope.join(5.0) == []
            near.close()
            far.close()

        stage.run(procedure)

    def test_a_port_without_listener_refuses(self, stage: Stage) -> None:
        def procedure() -> None:
            listener = stage.there.listen((stage.far_ip, 0), ignore)
            listener.close()
            with pytest.raises(ConnectFailed) as failed:
                stage.here.connect(listener.local, 5.0)
            assert failed.value.reason == "refused"

        stage.run(procedure)

    def test_a_listening_port_is_taken(self, stage: Stage) -> None:
        first = stage.here.listen((stage.ip, 0), ignore)
        with pytest.raises(EnvironmentFault, match="in use") as refused:
            stage.here.listen(first.local, ignore)
        assert refused.value.code == "port_in_use"
        first.close()

    def test_a_reset_ends_both_ends_at_once_and_their_ports_can_meet_again(self, stage: Stage) -> None:
        def procedure() -> None:
            accepted = stage.there.mailbox(2)
            far_listener = stage.there.listen((stage.far_ip, 0), accepted.put)
            listener = stage.here.listen((stage.ip, 0), ignore)
            near = stage.here.connect(far_listener.local, 5.0, listener.local[1])
            far = accepted.get(5.0)
            near.write(b"unread")
            stage.here.call_later(0.05, near.reset)
            with pytest.raises(StreamClosed):
                near.read_exactly(1)
            with pytest.raises(StreamClosed, match="reset"):
                far.read_exactly(7)
            near.reset()
            far.close()
            again = stage.here.connect(far_listener.local, 5.0, listener.local[1])
            accepted.get(5.0).close()
            for closable in (again, listener, far_listener):
                closable.close()

        stage.run(procedure)

    def test_a_dial_leaves_from_the_port_that_listens(self, stage: Stage) -> None:
        def procedure() -> None:
            accepted = stage.there.mailbox(1)
            far_listener = stage.there.listen((stage.far_ip, 0), accepted.put)
            listener = stage.here.listen((stage.ip, 0), ignore)
            near = stage.here.connect(far_listener.local, 5.0, listener.local[1])
            far = accepted.get(5.0)
            assert near.local == far.remote == listener.local
            far.write(b"hello")
            assert near.read_exactly(5) == b"hello"
            with pytest.raises(EnvironmentFault, match="in use"):
                stage.here.listen(listener.local, ignore)
            for closable in (near, far, listener, far_listener):
                closable.close()

        stage.run(procedure)

    def test_an_accept_callback_that_raises_costs_one_connection(self, stage: Stage) -> None:
        def procedure() -> None:
            accepted = stage.there.mailbox(4)
            seen = []

            def accept(stream: Stream) -> None:
                seen.append(stream)
                if len(seen) == 1:
                    raise ValueError("from the callback")
                accepted.put(stream)

            listener = stage.there.listen((stage.far_ip, 0), accept)
            first = stage.here.connect(listener.local, 5.0)
            with pytest.raises(StreamClosed):
                first.read_exactly(1)
            second = stage.here.connect(listener.local, 5.0)
            accepted.get(5.0).close()
            for closable in (first, second, listener):
                closable.close()

        stage.run(procedure)
        assert stage.faults() == 1


class TestScopes:
    def test_the_first_failure_closes_the_scope_and_join_raises_it(self, stage: Stage) -> None:
        def procedure() -> None:
            scope = stage.here.scope("owner")
            unwound = []

            def sleep() -> None:
                try:
                    scope.sleep(1_000.0)
                finally:
                    unwound.append(True)

            def fail(error: Exception) -> None:
                raise error

            scope.spawn("sleeper", sleep)
            scope.spawn("failing", fail, KeyError("first"))
            scope.spawn("failing too", fail, ValueError("second"))
            with pytest.raises(KeyError, match="first"):
                scope.join(5.0)
            assert scope.closed
            assert unwound == [True]

        stage.run(procedure)

    def test_what_is_to_be_ended_with_the_scope_is_told_once(self, stage: Stage) -> None:
        def procedure() -> None:
            scope = stage.here.scope("owner")
            told = []
            scope.on_close(lambda: told.append("first"))
            scope.on_close(lambda: told.append("cancelled")).cancel()
            assert told == []
            scope.close()
            scope.close()
            scope.on_close(lambda: told.append("late"))
            assert told == ["first", "late"]

        stage.run(procedure)

    def test_a_failure_before_the_join_is_not_missed(self, stage: Stage) -> None:
        def procedure() -> None:
            scope = stage.here.scope("owner")
            scope.spawn("failing", lambda: 1 / 0)
            stage.here.scope("other").sleep(0.01)
            with pytest.raises(ZeroDivisionError):
                scope.join()

        stage.run(procedure)

    def test_close_wakes_sleepers_at_once_and_they_end_quietly(self, stage: Stage) -> None:
        def procedure() -> None:
            scope = stage.here.scope("owner")
            for number in range(3):
                scope.spawn(f"sleeper {number}", scope.sleep, 1_000.0)
            stage.here.call_later(0.01, scope.close)
            assert scope.join(5.0) == []
            with pytest.raises(Stopped):
                scope.sleep(0.0)
            with pytest.raises(Stopped):
                scope.spawn("late", ignore)

        stage.run(procedure)

    def test_join_names_what_is_left_at_its_limit(self, stage: Stage) -> None:
        def procedure() -> None:
            scope = stage.here.scope("owner")
            hook = stage.here.event()
            scope.spawn("stuck", hook.wait)
            scope.spawn("quick", ignore)
            scope.close()
            assert scope.join(0.05) == ["stuck"]
            hook.set()
            assert scope.join(5.0) == []

        stage.run(procedure)

    def test_thousands_of_short_tasks_leave_nothing_behind(self, stage: Stage) -> None:
        class Load:
            pass

        def procedure() -> list[weakref.ref[Load]]:
            scope = stage.here.scope("busy")
            kept = []
            for number in range(3_000):
                load = Load()
                kept.append(weakref.ref(load))
                scope.spawn(f"task {number}", ignore, load)
                if number % 100 == 0:
                    scope.sleep(0.0)
            del load
            assert scope.join(5.0) == []
            return kept

        kept = stage.run(procedure)
        gc.collect()
        assert [ref for ref in kept if ref() is not None] == []


class TestWaiting:
    def test_a_mailbox_is_bounded_and_in_order(self, stage: Stage) -> None:
        mailbox = stage.here.mailbox(2)
        assert [mailbox.put(number) for number in range(3)] == [True, True, False]
        assert len(mailbox) == 2
        assert [mailbox.get(), mailbox.get()] == [0, 1]

    def test_a_mailbox_wakes_one_reader_for_each_item(self, stage: Stage) -> None:
        def procedure() -> None:
            mailbox, taken = stage.here.mailbox(10), []
            scope = stage.here.scope("readers")
            for name in ("a", "b", "c"):
                scope.spawn(name, lambda name=name: taken.append((name, mailbox.get())))
            scope.sleep(0.01)
            mailbox.put(1)
            mailbox.put(2)
            assert scope.join(0.05) == ["c"]
            mailbox.put(3)
            assert scope.join(5.0) == []
            assert taken == [("a", 1), ("b", 2), ("c", 3)]

        stage.run(procedure)

    def test_a_mailbox_gives_up_at_the_limit_and_at_its_close(self, stage: Stage) -> None:
        def procedure() -> None:
            mailbox = stage.here.mailbox(2)
            with pytest.raises(TimedOut):
                mailbox.get(0.02)
            stage.here.call_later(0.02, mailbox.close)
            with pytest.raises(Stopped):
                mailbox.get(5.0)
            assert mailbox.put("late") is False

        stage.run(procedure)

    def test_a_closed_mailbox_gives_out_what_it_holds(self, stage: Stage) -> None:
        mailbox = stage.here.mailbox(2)
        mailbox.put("kept")
        mailbox.close()
        assert mailbox.get() == "kept"
        with pytest.raises(Stopped):
            mailbox.get()

    def test_an_event_tells_whether_it_was_set(self, stage: Stage) -> None:
        def procedure() -> None:
            event = stage.here.event()
            assert event.wait(0.01) is False
            stage.here.call_later(0.01, event.set)
            assert event.wait(5.0) is True
            assert event.wait() is True
            event.clear()
            assert not event.is_set()
            assert event.wait(0.0) is False

        stage.run(procedure)

    def test_timers_fire_in_the_order_of_their_times(self, stage: Stage) -> None:
        def procedure() -> None:
            fired = []
            done = stage.here.event()
            stage.here.call_later(0.06, done.set)
            stage.here.call_later(0.04, lambda: fired.append("second"))
            stage.here.call_later(0.02, lambda: fired.append("first"))
            cancelled = stage.here.call_later(0.03, lambda: fired.append("never"))
            cancelled.cancel()
            cancelled.cancel()
            began = stage.here.now()
            assert done.wait(5.0)
            assert fired == ["first", "second"]
            assert stage.here.now() - began >= 0.0599
            cancelled.cancel()

        stage.run(procedure)


class TestElsewhere:
    def test_a_numeric_address_resolves_to_itself(self, stage: Stage) -> None:
        def procedure() -> None:
            assert stage.here.resolve("192.0.2.7", 1.0) == ["192.0.2.7"]
            assert stage.here.resolve("2001:db8::1", 1.0) == ["2001:db8::1"]

        stage.run(procedure)

    @pytest.mark.parametrize("name", ["no-such-host.invalid", "", "a..b", "x" * 300, "zero\0byte"])
    def test_a_name_that_is_none_does_not_resolve(self, stage: Stage, name: str) -> None:
        def procedure() -> None:
            with pytest.raises(NegativeAnswer) as refused:
                stage.here.resolve(name, 0.5)
            assert refused.value.code == "name_not_resolved"

        stage.run(procedure)

    def test_work_off_the_hub_gives_its_value_or_its_own_error(self, stage: Stage) -> None:
        class Broken(Exception):
            pass

        error = Broken("as it was")

        def work(fail: bool) -> int:
            if fail:
                raise error
            return 42

        def procedure() -> None:
            assert stage.here.in_thread(work, False) == 42
            with pytest.raises(Broken) as raised:
                stage.here.in_thread(work, True)
            assert raised.value is error

        stage.run(procedure)
