"""One exception tree.

Three branches, by who has to act: the caller (`LocalMisuse`), the machine's owner (`EnvironmentFault`), or nobody
here (`PeerFault`: the other side sent something wrong; it is counted and never ends a loop).  Every error carries a
stable `code` (looked up by ``kodectl explain CODE``), and a class fixes the exit code of the process.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; the table is printed by ``kodectl explain exit-codes``."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NEGATIVE = 3
    DEGRADED = 4
    NO_NODE = 5
    NOT_AUTHORISED = 6
    ENVIRONMENT = 7
    DEADLINE = 8
    BAD_REMOTE = 9
    SIGINT = 130
    SIGPIPE = 141
    SIGTERM = 143


class KodectlError(Exception):
    """Base of every expected failure.

    `message` says what is wrong, `hint` the command or step that mends it, `code` names the kind.
    """

    code = "internal_error"
    exit = ExitCode.INTERNAL

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class LocalMisuse(KodectlError):
    """The caller asked for something that cannot be: bad argument, bad configuration, wrong state."""

    code = "usage"
    exit = ExitCode.USAGE


class NegativeAnswer(KodectlError):
    """The question was asked properly and the answer is no: unreachable, not found, check failed."""

    code = "negative_answer"
    exit = ExitCode.NEGATIVE


class Degraded(KodectlError):
    """Only a part was reached."""

    code = "partial"
    exit = ExitCode.DEGRADED


class NodeUnreachable(KodectlError):
    """The API of the node to operate does not answer, or no bootstrap node answered."""

    code = "node_not_running"
    exit = ExitCode.NO_NODE


class NotAuthorised(KodectlError):
    """The API refused the token."""

    code = "not_authorised"
    exit = ExitCode.NOT_AUTHORISED


class EnvironmentFault(KodectlError):
    """This machine stands in the way: port in use, unreadable key file, full disk, no network."""

    code = "environment"
    exit = ExitCode.ENVIRONMENT


class DeadlineReached(KodectlError):
    """The time limit of the operation passed before an answer."""

    code = "deadline"
    exit = ExitCode.DEADLINE


class PeerFault(KodectlError):
    """The other side sent something wrong: bad signature, wrong identity, broken protocol."""

    code = "bad_remote_data"
    exit = ExitCode.BAD_REMOTE


class WireError(PeerFault):
    """Bytes that do not decode. The only error any decoder raises."""

    code = "malformed"
