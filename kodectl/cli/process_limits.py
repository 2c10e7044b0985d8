"""What the system grants this process, looked at before a node imports anything heavy.

Far below what they need, libraries in C abort or crash the process where Python would raise."""

from __future__ import annotations

import resource

from kodectl.errors import EnvironmentFault

MIN_DESCRIPTORS = 64
"""Store, logs, listeners, and connections that come and go."""
MIN_ADDRESS_SPACE = 256 * 1024 * 1024
"""A node that has just started has 160 MB of it, with threads at work 240; 70 MB of that are memory."""


def check_limits() -> None:
    """Raises EnvironmentFault (too_many_open_files, out_of_memory)."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_below(descriptors, MIN_DESCRIPTORS):
        raise EnvironmentFault(
            f"this process may open {descriptors} files and sockets; a node needs {MIN_DESCRIPTORS} to start",
            code="too_many_open_files",
            hint="ulimit -n 4096",
        )
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if _is_below(space, MIN_ADDRESS_SPACE):
        raise EnvironmentFault(
            f"this process may have {space >> 20} MiB of address space; a node needs {MIN_ADDRESS_SPACE >> 20} MiB to start",
            code="out_of_memory",
            hint="ulimit -v unlimited",
        )


def _is_below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
