"""What a lab needs from the machine, and what to say where that is not there."""

from __future__ import annotations

import os
import shutil

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


def missing_packages() -> list[str]:
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def missing() -> str | None:
    """Why no lab can be had here, or None."""
    if os.geteuid() != 0:
        return "the NAT lab needs root, for network namespaces"
    if packages := missing_packages():
        return f"the NAT lab needs the Debian packages {', '.join(packages)}"
    try:
        Namespace("trial").close()
    except (LabError, OSError) as error:
        return f"the NAT lab needs network namespaces: {error}"
    return None


_missing = missing()
skip_without_lab = pytest.mark.skipif(_missing is not None, reason=_missing or "")
