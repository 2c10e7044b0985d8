"""Signals end the command, and tear no task in two."""

import os
import signal
import sys

import gevent
import pytest

from kodectl.cli.interrupts import DeadlineAlarm, Interrupted, Terminated, deadline, signals


def send_myself(number: int, noted: list[str]) -> None:
    os.kill(os.getpid(), number)
    noted.append("what the router has mapped")


@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_a_signal_that_meets_a_task_ends_the_main_greenlet_and_lets_the_task_go_on(number, end):
    noted: list[str] = []
    with signals():
        task = gevent.spawn(send_myself, number, noted)
        with pytest.raises(end):
            gevent.sleep(10)
        task.join(10)
    assert noted == ["what the router has mapped"]


def test_the_deadline_that_meets_a_task_does_so_too():
    noted: list[str] = []
    with deadline(60.0):
        task = gevent.spawn(send_myself, signal.SIGALRM, noted)
        with pytest.raises(DeadlineAlarm):
            gevent.sleep(10)
        task.join(10)
    assert noted == ["what the router has mapped"]


def test_a_signal_that_meets_the_main_greenlet_or_the_hub_ends_it():
    with signals():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        gevent.get_hub().loop.run_callback(os.kill, os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            gevent.sleep(10)


class Deaf:
    """Python lets nothing through that is raised where an object is collected."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        signal.getsignal(self.number)  # an instruction at which the handler runs, before this returns


def _meet(collected: list[object]) -> None:
    collected.clear()
    gevent.sleep(10)


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated), (signal.SIGALRM, DeadlineAlarm)]
)
def test_an_end_that_is_lost_where_nothing_can_be_raised_comes_again(number, end):
    before = signal.getsignal(signal.SIGALRM), sys.unraisablehook
    with signals():
        with pytest.raises(end), deadline(60.0):
            _meet([Deaf(number)])
        with pytest.raises(Interrupted):
            _meet([Deaf(signal.SIGINT)])
    assert (signal.getsignal(signal.SIGALRM), sys.unraisablehook) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_two_ends_that_are_lost_at_once_end_it_once():
    class DeafToBoth(Deaf):
        def __del__(self) -> None:
            both = {signal.SIGINT, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for number in both:
                os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
            signal.getsignal(signal.SIGINT)

    with pytest.raises((Interrupted, Terminated)), signals():
        _meet([DeafToBoth(signal.SIGINT)])
    with signals(), deadline(60.0):
        gevent.sleep(0.03)


def _lose_one_and_set_a_deadline() -> None:
    with signals():
        [Deaf(signal.SIGINT)].clear()
        with deadline(60.0):
            gevent.sleep(10)


def _lose_one_at_the_end_of_a_deadline() -> None:
    with signals():
        with deadline(60.0):
            [Deaf(signal.SIGINT)].clear()
        gevent.sleep(10)


@pytest.mark.parametrize("lose", [_lose_one_and_set_a_deadline, _lose_one_at_the_end_of_a_deadline])
def test_an_end_that_is_lost_where_a_deadline_begins_or_ends_comes_again(lose):
    with pytest.raises(Interrupted):
        lose()


def test_an_end_that_meets_the_telling_of_another_loss_comes_again(monkeypatch):
    class Failing:
        def __del__(self) -> None:
            raise ValueError("not an end")

    def tell(unraisable) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.getsignal(signal.SIGINT)

    monkeypatch.setattr(sys, "unraisablehook", tell)
    with pytest.raises(Interrupted), signals():
        _meet([Failing()])
