"""The threads of the runtime on gevent."""

import os

import gevent
import pytest

from kodectl.runtime.green import GreenRuntime


def native_threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("use", ["in_thread", "resolve"])
def test_a_closed_runtime_has_no_thread_left(use: str) -> None:
    """One that is still about to end while the interpreter ends crashes it."""
    before = native_threads()
    for _ in range(50):
        runtime = GreenRuntime()
        call = (runtime.in_thread, os.getpid) if use == "in_thread" else (runtime.resolve, "localhost", 5.0)
        gevent.joinall([gevent.spawn(*call) for _ in range(4)], raise_error=True)
        assert native_threads() > before
        runtime.close()
        assert native_threads() == before


def test_a_runtime_does_not_wait_for_a_name_server() -> None:
    runtime = GreenRuntime()
    hanging = gevent.spawn(runtime._names._threads.spawn, gevent.sleep, 3600)
    hanging.join()
    with gevent.Timeout(5):
        runtime.close()
