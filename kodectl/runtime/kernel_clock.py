"""Whether the kernel believes that its clock is kept right (adjtimex(2)); reading it takes no privileges."""

from __future__ import annotations

import ctypes
import sys

STA_UNSYNC = 0x0040
"""linux/timex.h."""
_STATUS_OFFSET = {8: 40, 4: 20}
"""Of `status` in struct timex, by the size of a long: modes, offset, freq, maxerror and esterror stand before it."""
_TIMEX_SIZE = 256
"""More than the 208 bytes that it has."""


def is_clock_synchronised() -> bool | None:
    """False where nothing has set the clock for long (no NTP client runs, or it reaches no server); None where it cannot be
    told."""
    timex = ctypes.create_string_buffer(_TIMEX_SIZE)
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    # modes 0: only read.
    if adjtimex(timex) < 0:
        return None
    offset = _STATUS_OFFSET[ctypes.sizeof(ctypes.c_long)]
    status = int.from_bytes(timex.raw[offset : offset + 4], sys.byteorder)
    return not status & STA_UNSYNC
