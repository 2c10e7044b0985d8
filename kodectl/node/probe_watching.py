"""`nat watch`: one probe after another, of the same mapping, and what has changed between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from kodectl.node.probe_views import ProbeView
from kodectl.node.probing import Prober, ProbeTerms
from kodectl.runtime.base import Runtime

WATCHED = ("ip", "port", "local_ip", "nat_type")


class ChangeView(msgspec.Struct, frozen=True):
    field: Literal["ip", "port", "local_ip", "nat_type"]
    before: str | int | None
    after: str | int | None


class WatchView(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `event`: first; changed (`changes` tells what); silent: no server answers any more; back: some do again."""

    event: Literal["first", "changed", "silent", "back"]
    round: int
    answered: bool
    """Whether any server answered this time."""
    changes: list[ChangeView]
    address: str | None
    ip: str | None
    port: int | None
    local_address: str | None
    nat_type: str | None
    verdict: str | None


def watch(
    runtime: Runtime,
    terms: ProbeTerms,
    *,
    interval_s: float,
    count: int | None,
    report: Callable[[WatchView], None],
) -> ProbeView:
    """Probes every `interval_s` (from beginning to beginning), `count` times or for ever, and answers the last probe. `report`
    hears the first, and every change after it. Unknown is no change: what was not found out this time may be as before."""
    known: dict[str, str | int] = {}
    was_answered: bool | None = None
    round_ = 0
    with Prober(runtime, terms, {}, is_light=True) as prober:
        while True:
            round_ += 1
            begun = runtime.now()
            view = prober.run()
            changes = _changes(known, view)
            event = _event(view, was_answered, changes)
            if event is not None:
                report(_watch_view(view, event, round_, changes))
            was_answered = view.answered
            if round_ == count:
                return view
            runtime.event().wait(max(0.0, begun + interval_s - runtime.now()))


def _event(
    view: ProbeView, was_answered: bool | None, changes: list[ChangeView]
) -> Literal["first", "changed", "silent", "back"] | None:
    if was_answered is None:
        return "first"
    if view.answered != was_answered:
        return "back" if view.answered else "silent"
    return "changed" if changes else None


def _changes(known: dict[str, str | int], view: ProbeView) -> list[ChangeView]:
    """Also brings `known` up to date."""
    changes = []
    for field in WATCHED:
        value = getattr(view, field)
        if value is None:
            continue
        if field in known and known[field] != value:
            changes.append(ChangeView(field, known[field], value))  # type: ignore[arg-type]  # it is out of WATCHED
        known[field] = value
    return changes


def _watch_view(
    view: ProbeView, event: Literal["first", "changed", "silent", "back"], round_: int, changes: list[ChangeView]
) -> WatchView:
    return WatchView(
        event=event,
        round=round_,
        answered=view.answered,
        changes=changes,
        address=view.address,
        ip=view.ip,
        port=view.port,
        local_address=view.local_address,
        nat_type=view.nat_type,
        verdict=view.verdict,
    )
