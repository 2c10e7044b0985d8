"""What a lab needs from the machine, and what to say where that is not there."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

import pytest

from .netns import LabError, Namespace

PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "setpriv": "util-linux",
    "turnserver": "coturn",
    "miniupnpd": "miniupnpd",
    "stun": "stun-client",
}
"""Program -> Debian package."""

OTHER_PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "faketime": "faketime",
    "jq": "jq",
    "mandoc": "mandoc",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "tmux": "tmux",
}
"""The same, for tests without a lab; each is skipped where its program is not."""

LIBNICE_PYTHON = "/usr/bin/python3"
"""Which has what Debian packages for Python."""
LIBNICE_PACKAGES = ["gir1.2-nice-0.1", "python3-gi"]


@functools.cache
def has_libnice() -> bool:
    """A foreign ICE agent that some tests talk to; without it they are skipped."""
    program = "import gi; gi.require_version('Nice', '0.1'); from gi.repository import Nice"
    try:
        return subprocess.run([LIBNICE_PYTHON, "-c", program], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def missing_packages(wanted: dict[str, str] = PACKAGES) -> list[str]:
    return [package for program, package in wanted.items() if shutil.which(program) is None]


_TRIAL = """
table bridge trial { chain crossing { type filter hook forward priority filter; numgen random mod 2 < 1 drop; }; }
table ip trial { chain leaving { type nat hook postrouting priority srcnat; masquerade fully-random; }; }
"""


@functools.cache
def missing() -> str | None:
    """Why no lab can be had here, or None."""
    if os.geteuid() != 0:
        return "the NAT lab needs root, for network namespaces"
    if packages := missing_packages():
        return f"the NAT lab needs the Debian packages {', '.join(packages)}"
    try:
        trial = Namespace("trial")
        try:
            trial.configure(["ip", "link", "add", "inner", "type", "bridge"], "")
            trial.configure(["nft", "-f", "-"], _TRIAL)
        finally:
            trial.close()
    except (LabError, OSError) as error:
        return f"the NAT lab needs network namespaces with bridges and nftables: {error}"
    return None


_missing = missing()
skip_without_lab = pytest.mark.skipif(_missing is not None, reason=_missing or "")
