"""The threads of the runtime on gevent."""

import os
import subprocess
import sys

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


FEW_THREADS = """
import os, resource, sys
import gevent
from kodectl.errors import EnvironmentFault
from kodectl.runtime.green import GreenRuntime

def work(number):
    os.stat("/")
    return number

runtime = GreenRuntime()
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
os.setresuid(54_321, 54_321, 54_321)  # root may have as many as it likes
try:
    jobs = [gevent.spawn(runtime.in_thread, work, number) for number in range(40)]
    gevent.joinall(jobs, timeout=20, raise_error=True)
    print([job.value for job in jobs] == list(range(40)), len(os.listdir("/proc/self/task")))
except EnvironmentFault as error:
    print(error.code)
runtime.close()
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize(("limit", "outcome"), [(1, "no_threads"), (2, "True 2"), (3, "True 3")])
def test_it_makes_do_with_the_threads_that_the_system_grants(limit: int, outcome: str) -> None:
    command = [sys.executable, "-c", FEW_THREADS, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == (outcome, 0), done.stderr
