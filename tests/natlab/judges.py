"""What programs that are not ours say about the NAT that a host is behind. None of them can be trusted alone, or to end."""

from __future__ import annotations

import re
import sys
from subprocess import TimeoutExpired

from .lab import Host

# Each waits for silence several times: natdiscovery 3 s a time, pystun3 2 s four times over for each of two tests.
LIMIT_S = 60.0
NO_ANSWER = "no answer"
_PYSTUN = """
import stun, sys
print(stun.get_ip_info(source_ip=sys.argv[1], stun_host=sys.argv[2], stun_port=int(sys.argv[3]))[0])
"""


def natdiscovery(host: Host, server: str, port: int = 3478) -> tuple[str, str]:
    """coturn's, by RFC 5780: its words for mapping and for filtering. It says "NAT with" even where it found none, and
    that it found none first; that sentence is taken."""
    mapping = _said(host, ["turnutils_natdiscovery", "-m", "-L", host.ip, "-l", "0", "-p", str(port), server])
    filtering = _said(host, ["turnutils_natdiscovery", "-f", "-L", host.ip, "-l", "0", "-p", str(port), server])
    return (
        _found(r"^(No NAT!|NAT with .*? Mapping)", mapping),
        _found(r"^NAT with (.*? Filtering)", filtering),
    )


def stun_client(host: Host, server: str, port: int = 3478) -> str:
    """Debian's `stun`, by RFC 3489. Its exit code is the finding, not success."""
    return _found(r"^Primary: (.*?)\s*$", _said(host, ["stun", f"{server}:{port}"]))


def pystun(host: Host, server: str, port: int = 3478) -> str:
    """pystun3, by RFC 3489: the type alone, since behind strict filters it forgets the address it has seen."""
    return _found("^(.+)$", _said(host, [sys.executable, "-c", _PYSTUN, host.ip, server, str(port)]))


def _said(host: Host, command: list[str]) -> str:
    try:
        done = host.run(command, timeout_s=LIMIT_S)
    except TimeoutExpired:
        return ""
    # Exit codes tell findings in one of them, errors in another; a judge that cannot run at all is no judge.
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else NO_ANSWER
