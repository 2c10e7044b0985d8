"""What the doctor tells: its document, and its lines under --jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from kodectl.core.diagnosis import Diagnosis, Finding, State

StateName = Literal["ok", "skipped", "unknown", "warning", "failed"]


class FindingView(msgspec.Struct, frozen=True, kw_only=True):
    """One check. `command`: what to type; null where no command helps. `cause`: the check whose trouble this one comes of; null
    where it is a cause itself, and as long as not all checks have ended."""

    check: str
    state: StateName
    code: str | None
    seen: str
    why: str | None
    mend: str | None
    command: str | None
    cause: str | None
    took_ms: float
    details: dict[str, Any]


class RootCauseView(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    state: StateName
    code: str | None
    seen: str
    why: str | None
    mend: str | None
    command: str | None
    consequences: list[str]
    """Checks whose trouble comes of it."""


class ExaminedView(msgspec.Struct, frozen=True, kw_only=True):
    """`running`: a node that runs was asked; else one stood in for it, with an identity of its own that is gone now. Null where
    no check needed either."""

    running: bool | None
    id: str | None
    pid: int | None
    datadir: str


class VerdictView(msgspec.Struct, frozen=True, kw_only=True):
    """The last line under --jsonl."""

    state: StateName
    """Of the worst check; skipped ones do not count."""
    root_cause: RootCauseView | None
    """What to mend first."""
    other_causes: list[RootCauseView]
    examined: ExaminedView
    complete: bool
    """False: a check was given up at its limit."""
    took_ms: float


class DoctorView(VerdictView, frozen=True, kw_only=True):
    checks: list[FindingView]


class CheckAbout(msgspec.Struct, frozen=True):
    """With --list."""

    check: str
    about: str


class CheckList(msgspec.Struct, frozen=True):
    checks: list[CheckAbout]


class Examined(msgspec.Struct, frozen=True):
    """A finding, and how long it took; `is_late`: the check was given up."""

    finding: Finding
    took_s: float
    is_late: bool = False


def finding_view(examined: Examined, causes: Mapping[str, str]) -> FindingView:
    finding = examined.finding
    return FindingView(
        check=finding.check,
        state=_name(finding.state),
        code=finding.code,
        seen=finding.seen,
        why=finding.why,
        mend=finding.mend,
        command=finding.command,
        cause=causes.get(finding.check),
        took_ms=round(examined.took_s * 1000, 3),
        details=dict(finding.details),
    )


def doctor_view(found: list[Examined], diagnosis: Diagnosis, examined: ExaminedView, took_s: float) -> DoctorView:
    return DoctorView(
        state=_name(diagnosis.worst),
        root_cause=None if diagnosis.root is None else _cause_view(diagnosis.root, diagnosis),
        other_causes=[_cause_view(other, diagnosis) for other in diagnosis.others],
        checks=[finding_view(one, diagnosis.causes) for one in found],
        examined=examined,
        complete=not any(one.is_late for one in found),
        took_ms=round(took_s * 1000, 3),
    )


def _cause_view(cause: Finding, diagnosis: Diagnosis) -> RootCauseView:
    return RootCauseView(
        check=cause.check,
        state=_name(cause.state),
        code=cause.code,
        seen=cause.seen,
        why=cause.why,
        mend=cause.mend,
        command=cause.command,
        consequences=diagnosis.consequences_of(cause.check),
    )


_NAMES: dict[State, StateName] = {
    State.OK: "ok",
    State.SKIPPED: "skipped",
    State.UNKNOWN: "unknown",
    State.WARNING: "warning",
    State.FAILED: "failed",
}


def _name(state: State) -> StateName:
    return _NAMES[state]
