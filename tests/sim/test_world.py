"""The simulated world: time, the network and what goes wrong with it, crashes, and what it tells about stuck tasks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from kodectl.errors import LocalMisuse, NegativeAnswer
from kodectl.runtime.base import ConnectFailed, Scope, Stopped, Stream, StreamClosed, TimedOut
from kodectl.sim.network import MAX_DATAGRAM, PathModel
from kodectl.sim.runtime import EPOCH, SimRuntime
from kodectl.sim.schedule import MIN_COMPACTION, Livelock, Schedule
from kodectl.sim.streams import WINDOW
from kodectl.sim.world import Deadlock, World

STEADY = PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PORT = 30_301


def ignore(*_: object) -> None:
    pass


class Radio:
    """A socket that keeps what it hears, with the time."""

    def __init__(self, runtime: SimRuntime) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self._runtime = runtime
        self._socket = runtime.open_datagram(("0.0.0.0", PORT), self._hear)

    def _hear(self, data: bytes, sender: tuple[str, int]) -> None:
        self.heard.append((self._runtime.now(), data))

    def say(self, data: bytes, ip: str) -> None:
        self._socket.send(data, (ip, PORT))


def pair(world: World) -> tuple[Radio, Radio]:
    return Radio(world.host(A)), Radio(world.host(B))


def connected(world: World, here: SimRuntime, there: SimRuntime) -> tuple[Stream, Stream]:
    accepted: list[Stream] = []
    there.listen(("0.0.0.0", 30_303), accepted.append)
    stream = world.call(here, here.connect, (there.ip, 30_303), 5.0)
    return stream, accepted[0]


class TestTime:
    def test_the_clock_jumps_when_everything_waits(self) -> None:
        with World(1) as world:
            host = world.host(A)
            scope = host.scope("sleeper")
            woke: list[float] = []

            def sleep() -> None:
                for _ in range(3):
                    scope.sleep(86_400.0)
                    woke.append(host.now())

            world.call(host, sleep, limit_s=1e9)
            assert woke == [86_400.0, 172_800.0, 259_200.0]

    def test_what_is_due_together_happens_in_the_order_it_was_asked_for(self) -> None:
        world, order = World(1), []
        for number in range(10):
            world.at(5.0, lambda number=number: order.append(number))
        world.run(4.9)
        assert order == []
        world.run(5.0)
        assert order == list(range(10))

    def test_run_stops_at_the_given_time(self) -> None:
        world = World(1)
        world.run(12.5)
        assert world.now == 12.5
        world.run_for(2.5)
        assert world.now == 15.0

    def test_run_stops_when_the_condition_holds_or_at_the_limit(self) -> None:
        world = World(1)
        world.host(A).call_later(7.0, lambda: world.host(B))
        assert world.run(lambda: world.now >= 7.0) is True
        assert world.now == 7.0
        world.at(100.0, ignore)
        world.at(1_000.0, ignore)
        assert world.run(lambda: False, limit_s=500.0) is False

    def test_wall_clocks_differ_and_jump(self) -> None:
        world = World(1)
        right, wrong = world.host(A), world.host(B, clock_offset_s=-3_600.0)
        world.run(10.0)
        assert right.unix_time() == EPOCH + 10.0
        assert wrong.unix_time() == EPOCH + 10.0 - 3_600.0
        right.clock_offset_s += 86_400.0
        assert right.unix_time() == EPOCH + 10.0 + 86_400.0
        assert right.now() == 10.0

    def test_cancelled_timers_neither_pile_up_nor_move_the_clock(self) -> None:
        schedule = Schedule()
        schedule.timer(1.0, ignore)
        for _ in range(10 * MIN_COMPACTION + 7):
            schedule.timer(1e6, ignore).cancel()
        assert len(schedule._heap) <= 2 * MIN_COMPACTION
        assert not schedule.empty
        schedule.run()
        assert schedule.now == 1.0
        assert schedule.empty

    def test_a_loop_without_waiting_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kodectl.sim.schedule.MAX_EVENTS_AT_ONCE", 1_000)
        world = World(1)
        host = world.host(A)

        def again() -> None:
            host.call_later(0.0, again)

        again()
        with pytest.raises(Livelock):
            world.run(1.0)


class TestDatagrams:
    def test_take_the_latency_of_their_pair(self) -> None:
        world = World(1, STEADY)
        near, far = pair(world)
        near.say(b"x", B)
        world.run(1.0)
        assert far.heard == [(0.05, b"x")]

    def test_each_pair_has_a_latency_of_its_own_in_both_directions(self) -> None:
        model = PathModel(latency_s=0.05, spread_s=0.03, jitter_s=0.0)

        def delays(seed: int) -> list[float]:
            world = World(seed, model)
            radios = {ip: Radio(world.host(ip)) for ip in (A, B, C)}
            taken = []
            for source, target in ((A, B), (B, A), (A, C), (C, A), (B, C)):
                began = world.now
                radios[source].say(b"x", target)
                world.run_for(1.0)
                taken.append(round(radios[target].heard[-1][0] - began, 9))
            return taken

        first = delays(1)
        assert first == delays(1)
        assert first != delays(2)
        assert (first[0], first[2]) == (first[1], first[3])
        assert len(set(first)) == 3
        assert all(0.02 <= delay <= 0.08 for delay in first)

    def test_are_lost_doubled_and_overtaken_as_often_as_asked(self) -> None:
        count = 4_000
        model = PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0, loss=0.1, duplication=0.2, reordering=0.3)
        world = World(1, model)
        near, far = pair(world)
        for number in range(count):
            near.say(number.to_bytes(4, "big"), B)
        world.run(10.0)
        numbers = [int.from_bytes(data, "big") for _, data in far.heard]
        arrived = len(set(numbers)) / count
        assert arrived == pytest.approx(0.9, abs=0.02)
        assert len(numbers) / len(set(numbers)) == pytest.approx(1.2, abs=0.03)
        late = sum(when > 0.0999 for when, _ in far.heard) / len(far.heard)
        assert late == pytest.approx(0.3, abs=0.03)

    def test_larger_ones_than_a_packet_are_lost(self) -> None:
        world = World(1)
        near, far = pair(world)
        near.say(bytes(MAX_DATAGRAM), B)
        near.say(bytes(MAX_DATAGRAM + 1), B)
        world.run(1.0)
        assert [len(data) for _, data in far.heard] == [MAX_DATAGRAM]

    def test_a_path_can_be_unlike_the_others(self) -> None:
        world = World(1, STEADY)
        near, far = pair(world)
        world.set_path(A, B, PathModel(latency_s=0.4, spread_s=0.0, jitter_s=0.0))
        near.say(b"x", B)
        world.run(1.0)
        assert far.heard == [(0.4, b"x")]

    def test_a_callback_that_raises_stops_a_strict_world(self) -> None:
        with World(1) as world:
            near, _ = pair(world)
            world.host(C).open_datagram(("0.0.0.0", PORT), lambda data, sender: 1 / 0)
            near.say(b"x", C)
            with pytest.raises(ZeroDivisionError):
                world.run(1.0)

    def test_a_callback_that_raises_is_kept_by_a_lenient_one(self) -> None:
        with World(1, STEADY, strict=False) as world:
            near, _ = pair(world)
            world.host(C).open_datagram(("0.0.0.0", PORT), lambda data, sender: 1 / 0)
            near.say(b"x", C)
            world.run(1.0)
            [fault] = world.callback_faults
            assert (fault.at_s, fault.host, fault.place, type(fault.error)) == (0.05, C, "datagram", ZeroDivisionError)


class TestSeparation:
    def test_only_hosts_of_one_island_reach_each_other(self) -> None:
        world = World(1)
        radios = {ip: Radio(world.host(ip)) for ip in (A, B, C, "10.0.0.4")}
        world.partition([A, B])

        def reached(source: str) -> set[str]:
            for radio in radios.values():
                radio.heard.clear()
            for target in radios:
                if target != source:
                    radios[source].say(b"x", target)
            world.run_for(1.0)
            return {ip for ip, radio in radios.items() if radio.heard}

        assert reached(A) == {B}
        assert reached(C) == {"10.0.0.4"}
        world.heal()
        assert reached(A) == {B, C, "10.0.0.4"}

    def test_a_way_can_be_cut_in_one_direction(self) -> None:
        world = World(1)
        near, far = pair(world)
        world.cut(A, B, one_way=True)
        near.say(b"x", B)
        far.say(b"y", A)
        world.run(1.0)
        assert (near.heard[0][1], far.heard) == (b"y", [])
        world.cut(A, B)
        far.say(b"y", A)
        world.run_for(1.0)
        assert len(near.heard) == 1
        world.mend(A, B)
        far.say(b"z", A)
        near.say(b"z", B)
        world.run_for(1.0)
        assert (near.heard[-1][1], far.heard[-1][1]) == (b"z", b"z")

    def test_a_stream_survives_a_cut_without_losing_a_byte(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            data = bytes(range(256)) * 4_000
            world.spawn(here, "write", near.write, data)
            for number in range(5):
                world.at(world.now + 0.2 + number * 2.0, lambda: world.cut(A, B))
                world.at(world.now + 1.2 + number * 2.0, world.heal)
            assert world.call(there, far.read_exactly, len(data)) == data

    def test_nothing_gets_through_a_cut_stream(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            world.cut(A, B)
            near.write(b"x")
            world.spawn(there, "read", far.read_exactly, 1)
            with pytest.raises(Deadlock):
                world.run(lambda: False)
            world.heal()
            assert world.run()

    def test_a_cut_stops_what_is_on_its_way_in_a_stream(self) -> None:
        with World(1, STEADY) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            got: list[bytes] = []
            near.write(b"x")
            world.spawn(there, "read", lambda: got.append(far.read_exactly(1)))
            world.run_for(0.01)
            world.cut(A, B)
            world.run_for(60.0)
            assert got == []
            world.mend(A, B)
            world.run_for(1.0)
            assert got == [b"x"]

    def test_what_was_on_its_way_at_a_cut_is_not_overtaken(self) -> None:
        with World(1, STEADY) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            world.spawn(here, "write", near.write, b"ab")
            world.run_for(0.01)
            world.cut(A, B)
            world.spawn(here, "write", near.write, b"cd")  # held at once, before what is on its way gets nowhere
            world.run_for(1.0)
            world.mend(A, B)
            assert world.call(there, far.read_exactly, 4) == b"abcd"

    def test_a_dial_goes_through_once_the_way_is_back(self) -> None:
        with World(1, STEADY) as world:
            here, there = world.host(A), world.host(B)
            accepted: list[Stream] = []
            there.listen((B, 1), accepted.append)
            world.cut(A, B)
            world.at(2.0, world.heal)
            world.call(here, here.connect, (B, 1), 10.0)
            assert len(accepted) == 1
            assert world.now == pytest.approx(3.1)  # the third attempt, and a round trip


class TestStreams:
    def test_a_refusal_takes_a_round_trip(self) -> None:
        with World(1, STEADY) as world:
            here = world.host(A)
            world.host(B)
            with pytest.raises(ConnectFailed, match="refused"):
                world.call(here, here.connect, (B, 1), 5.0)
            assert world.now == pytest.approx(0.1)

    @pytest.mark.parametrize("crash", [True, False], ids=["crashed", "never there"])
    def test_a_dead_host_costs_the_whole_limit(self, crash: bool) -> None:
        with World(1) as world:
            here = world.host(A)
            if crash:
                world.host(B).listen((B, 1), ignore)
                world.crash(B)
            with pytest.raises(ConnectFailed, match="timeout"):
                world.call(here, here.connect, (B, 1), 5.0)
            assert world.now == 5.0

    def test_dials_survive_loss(self) -> None:
        with World(1, PathModel(loss=0.3)) as world:
            here, there = world.host(A), world.host(B)
            accepted: list[Stream] = []
            there.listen((B, 1), accepted.append)
            for _ in range(50):
                world.call(here, here.connect, (B, 1), 60.0).close()
            assert len(accepted) == 50

    def test_a_dial_given_up_resets_what_was_accepted_meanwhile(self) -> None:
        with World(1, STEADY) as world:
            here, there = world.host(A), world.host(B)
            accepted: list[Stream] = []
            there.listen((B, 1), accepted.append)
            with pytest.raises(ConnectFailed, match="timeout"):
                world.call(here, here.connect, (B, 1), 0.07)
            with pytest.raises(StreamClosed, match="reset"):
                world.call(there, accepted[0].read_exactly, 1)

    def test_loss_delays_a_stream_and_nothing_else(self) -> None:
        def took(loss: float) -> float:
            with World(1, PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0, loss=loss)) as world:
                here, there = world.host(A), world.host(B)
                near, far = connected(world, here, there)
                data = here.random_bytes(3_000_000)
                began = world.now
                world.spawn(here, "write", near.write, data)
                assert world.call(there, far.read_exactly, len(data)) == data
                return world.now - began

        assert took(0.1) > took(0.0)

    def test_bandwidth_limits_a_stream(self) -> None:
        model = PathModel(latency_s=0.001, spread_s=0.0, jitter_s=0.0, bandwidth=100_000.0)
        with World(1, model) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            began = world.now
            world.spawn(here, "write", near.write, bytes(1_000_000))
            world.call(there, far.read_exactly, 1_000_000)
            assert world.now - began == pytest.approx(10.0, abs=0.1)

    def test_what_is_on_its_way_and_unread_is_bounded(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            near, far = connected(world, here, there)
            world.spawn(here, "write", near.write, bytes(10 * WINDOW))
            world.run_for(60.0)
            assert len(far._inbox) == WINDOW
            far.close()
            with pytest.raises(StreamClosed, match="reset"):
                world.run()

    def test_a_listener_that_closed_refuses(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            listener = there.listen((B, 0), ignore)
            listener.close()
            with pytest.raises(ConnectFailed, match="refused"):
                world.call(here, here.connect, listener.local, 5.0)


class TestCrashes:
    def test_a_crashed_host_does_nothing_more_and_unwinds_nothing(self) -> None:
        signs: list[str] = []
        turns: list[float] = []
        with World(1) as world:
            host, other = world.host(A), Radio(world.host(B))
            radio = Radio(host)
            scope = host.scope("busy")

            def work(scope: Scope, radio: Radio) -> None:
                try:
                    while True:
                        scope.sleep(1.0)
                        turns.append(world.now)
                        radio.say(b"alive", B)
                finally:
                    signs.append("unwound")

            scope.spawn("work", work, scope, radio)
            host.call_later(10.0, lambda: signs.append("timer"))
            world.run(3.5)
            world.crash(A)
            world.restart(A)
            del host, radio, scope
            gc.collect()
            world.run(100.0)
            assert turns == [1.0, 2.0, 3.0]
            assert len(other.heard) == 3
            assert signs == []
            assert world.waiting() == []
        assert signs == ["unwound"]  # with the world

    def test_a_peer_hears_nothing_of_it(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            near, _ = connected(world, here, there)
            world.crash(B)
            world.spawn(here, "read", near.read_exactly, 1)
            near.write(b"into the void")
            with pytest.raises(Deadlock, match=rf"{A} world/read"):
                world.run()

    def test_a_restarted_host_knows_nothing_of_the_stream(self) -> None:
        with World(1) as world:
            here, there = world.host(A), world.host(B)
            near, _ = connected(world, here, there)
            world.crash(B)
            near.write(b"into the void")
            world.run_for(10.0)
            world.restart(B)
            with pytest.raises(StreamClosed, match="reset"):
                world.call(here, near.read_exactly, 1)

    def test_a_restarted_host_has_its_ports_back(self) -> None:
        with World(1) as world:
            radio = Radio(world.host(A))
            Radio(world.host(B))
            again = Radio(world.restart(B))
            radio.say(b"x", B)
            world.run(1.0)
            assert [data for _, data in again.heard] == [b"x"]

    def test_a_restarted_host_draws_other_secrets(self) -> None:
        world = World(1)
        first = world.host(A).random_bytes(16)
        assert world.restart(A).random_bytes(16) != first


class TestLan:
    def test_a_segment_hears_what_is_announced_on_it(self) -> None:
        world = World(1)
        heard: list[tuple[str, bytes, str]] = []
        lans = {}
        for ip in (A, B, C, "10.0.0.4"):
            lans[ip] = world.host(ip).open_lan(PORT, lambda data, sender, ip=ip: heard.append((ip, data, sender[0])))
        world.lan("office", [A, B])
        world.lan("cellar", [B, C])
        lans[A].announce(b"a")
        world.run_for(1.0)
        assert heard == [(A, b"a", A), (B, b"a", A)]
        heard.clear()
        lans[B].announce(b"b")
        world.run_for(1.0)
        assert {ip for ip, _, _ in heard} == {A, B, C}
        heard.clear()
        lans[B].close()
        lans[B].announce(b"closed")
        lans["10.0.0.4"].announce(b"alone")
        world.run_for(1.0)
        assert heard == [("10.0.0.4", b"alone", "10.0.0.4")]


class TestNames:
    def test_the_worlds_names_resolve(self) -> None:
        with World(1) as world:
            host = world.host(A)
            world.names["seed.example"] = [B, C]
            assert world.call(host, host.resolve, "seed.example", 1.0) == [B, C]
            with pytest.raises(NegativeAnswer):
                world.call(host, host.resolve, "other.example", 1.0)


class TestWhatItTells:
    def test_a_deadlock_names_tasks_and_places(self) -> None:
        world = World(1)
        host = world.host(A)
        scope, mailbox = host.scope("node"), host.mailbox(1)

        def keeper() -> None:
            mailbox.get()

        scope.spawn("keeper", keeper)
        with pytest.raises(Deadlock, match=rf"{A} node/keeper, waiting in keeper \(.*test_world.py:\d+\)"):
            world.run()
        world.close()

    def test_a_task_without_limit_is_given_up(self) -> None:
        with World(1) as world:
            host = world.host(A)
            scope = host.scope("periodic")

            def for_ever() -> None:
                while True:
                    scope.sleep(1.0)

            with pytest.raises(TimedOut):
                world.call(host, for_ever, limit_s=30.0)

    def test_the_failure_of_a_scenario_task_comes_out_at_once(self) -> None:
        with World(1) as world:
            host = world.host(A)
            host.call_later(100.0, ignore)
            world.spawn(host, "broken", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                world.run(100.0)
            assert world.now == 0.0

    def test_a_failure_that_nobody_joined_comes_out_at_the_end(self) -> None:
        world = World(1)
        world.host(A).scope("node").spawn("broken", lambda: 1 / 0)
        world.run(1.0)
        with pytest.raises(ZeroDivisionError), world:
            pass

    def test_a_failure_that_was_joined_is_done_with(self) -> None:
        with World(1) as world:
            host = world.host(A)

            def owner() -> None:
                scope = host.scope("node")
                scope.spawn("broken", lambda: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    scope.join()

            world.call(host, owner)

    def test_waiting_outside_a_task_is_refused(self) -> None:
        world = World(1)
        host = world.host(A)
        with pytest.raises(LocalMisuse, match="waits on virtual time"):
            host.scope("x").sleep(1.0)
        assert world.run()

    def test_running_a_world_inside_itself_is_refused(self) -> None:
        with World(1) as world:
            host = world.host(A)
            with pytest.raises(LocalMisuse, match="not inside"):
                world.call(host, world.run, 1.0)

    def test_an_address_is_used_once(self) -> None:
        world = World(1)
        world.host(A)
        with pytest.raises(LocalMisuse):
            world.host(A)

    @pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"duplication": -0.1}, {"latency_s": 0.1, "spread_s": 0.2}])
    def test_a_path_that_cannot_be_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(LocalMisuse):
            PathModel(**wrong)


class TestTheEnd:
    def test_tasks_unwind_without_waiting(self) -> None:
        ends: list[str] = []

        def task(host: SimRuntime) -> Callable[[], Any]:
            def run() -> None:
                scope = host.scope("inner")
                try:
                    scope.sleep(1_000.0)
                finally:
                    ends.append("unwinding")
                    with pytest.raises(Stopped):
                        scope.sleep(1.0)
                    ends.append("unwound")

            return run

        with World(1) as world:
            host = world.host(A)
            host.scope("outer").spawn("task", task(host))
            world.run(1.0)
        assert ends == ["unwinding", "unwound"]

    def test_a_closed_world_is_freed(self) -> None:
        with World(1) as world:
            host = world.host(A)
            scope = host.scope("node")
            for number in range(10):
                scope.spawn(f"task {number}", scope.sleep, 1_000.0)
            world.run(1.0)
            world.restart(A)
        freed = weakref.ref(world)
        del world, host, scope
        gc.collect()
        assert freed() is None
