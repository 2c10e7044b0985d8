"""What every error code means, and what mends it. A test finds the codes in the source and misses none here."""

from __future__ import annotations

from kodectl.cli.explanations.dht import DHT
from kodectl.cli.explanations.doctor import DOCTOR
from kodectl.cli.explanations.entry import Explanation
from kodectl.cli.explanations.files import CONFIGURATION, KEYS
from kodectl.cli.explanations.general import GENERAL, INPUT
from kodectl.cli.explanations.http import HTTP
from kodectl.cli.explanations.machine import MACHINE, NODE
from kodectl.cli.explanations.nat import GATEWAYS, NAT
from kodectl.cli.explanations.reaching import CONNECTING, DISCONNECTS, REACHING
from kodectl.errors import ExitCode

__all__ = ["EXIT_CODES", "EXPLANATIONS", "GROUPS", "Explanation"]

EXIT_CODES: dict[ExitCode, str] = {
    ExitCode.OK: "the question asked was answered well",
    ExitCode.INTERNAL: "internal error: a bug (traceback with --debug only)",
    ExitCode.USAGE: "usage",
    ExitCode.NEGATIVE: "negative answer: unreachable, not found, check failed",
    ExitCode.DEGRADED: "degraded or partial: relay only, some targets failed",
    ExitCode.NO_NODE: "the node's API is not reachable, or no bootstrap node answered",
    ExitCode.NOT_AUTHORISED: "not authorised",
    ExitCode.ENVIRONMENT: "local environment: port in use, bad key file, unwritable path, no network",
    ExitCode.DEADLINE: "deadline reached before an answer",
    ExitCode.BAD_REMOTE: "bad remote data: wrong identity, bad signature, protocol error",
    ExitCode.SIGINT: "SIGINT",
    ExitCode.SIGPIPE: "closed pipe",
    ExitCode.SIGTERM: "SIGTERM",
}

GROUPS: dict[str, dict[str, Explanation]] = {
    "any command": GENERAL,
    "arguments and input": INPUT,
    "configuration": CONFIGURATION,
    "keys": KEYS,
    "this machine": MACHINE,
    "the running node": NODE,
    "the API": HTTP,
    "reaching other nodes": REACHING,
    "why connections end": DISCONNECTS,
    "connections through NATs": CONNECTING,
    "what the doctor finds": DOCTOR,
    "the hash table": DHT,
    "routers": GATEWAYS,
    "the NAT": NAT,
}
"""By what they are about."""

EXPLANATIONS: dict[str, Explanation] = {code: entry for group in GROUPS.values() for code, entry in group.items()}
