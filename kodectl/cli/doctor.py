"""`kodectl doctor`: what is wrong, what is to be mended first, and the command that mends it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import NODE_KEYS, given_settings, time_limits
from kodectl.cli.output import Format, Outcome, Output, clean, table
from kodectl.cli.wording import folded
from kodectl.errors import Degraded, KodectlError, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.cli.configuration import Configuration
    from kodectl.cli.machine_checks import Place
    from kodectl.core.diagnosis import Finding
    from kodectl.node.doctor_views import DoctorView, Examined, FindingView, RootCauseView, VerdictView

CHECKS = {
    "config": "the configuration file, variables and options can be read",
    "disk": "the data directory can be written, and there is space",
    "key_file": "the node's key can be read, by its owner only",
    "fd_limit": "the limit of open files is high enough for the peers",
    "ports": "the configured ports are free, or the node's",
    "api_exposure": "nobody else may use the API without a token",
    "node": "the node that runs answers and does not complain",
    "addresses": "there is an address and a default route",
    "dns": "the configured host names resolve",
    "clock": "the clock agrees with those of other nodes",
    "udp_egress": "datagrams get out, and answers back",
    "bootstrap": "the bootstrap nodes answer, and are who they should be",
    "advertised_address": "others are told the address at which they see this node",
    "cgnat": "no second NAT, of the provider or one's own, stands behind the router",
    "port_mapping": "the router forwards the ports where it is asked to",
    "nat_class": "the NAT lets peers in, or can be got through",
    "inbound_udp": "strangers reach the UDP port, by having some knock",
    "inbound_tcp": "strangers reach the TCP port, by having some knock",
    "table": "the routing table has nodes",
    "dials": "dialled peers connect",
}
"""In the order of `core.diagnosis`."""
SHOWN = 2
"""Checks that are waited for, on the one line of progress."""
STATE_WIDTH = 7
MARKS = {"ok": "\u2713", "skipped": "\u00b7", "unknown": "?", "warning": "!", "failed": "\u2717"}
"""Before the word, on a terminal that has them: seen at a glance, and without colours too."""
STYLES = {"ok": "green", "skipped": "bright_black", "unknown": "yellow", "warning": "yellow", "failed": "red"}


@command(
    "doctor",
    epilog=examples(
        "kodectl doctor",
        "kodectl doctor --check ports --check disk",
        "kodectl doctor --datadir /var/lib/kodectl --bootstrap 'enode://...@192.0.2.1:30303?discport=30301'",
        "kodectl doctor --json | jq -r .error.details.root_cause.command",
    ),
)
@click.option(
    "--check",
    "chosen",
    multiple=True,
    type=click.Choice(list(CHECKS)),
    metavar="NAME",
    help="Run only this check; repeatable. --list names them.",
)
@click.option("--list", "is_list", is_flag=True, help="List the checks, and run none.")
@given_settings(*NODE_KEYS)
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="First line: the passphrase of the node's key, to try it.",
)
@time_limits(timeout_s=3, deadline_s=20)
@click.pass_context
def doctor(
    ctx: click.Context,
    chosen: tuple[str, ...],
    is_list: bool,
    passphrase_file: Path | None,
    timeout_s: float,
    deadline_s: float,
    **given: Any,
) -> Outcome:
    """Find out what is wrong, and what mends it.

    Asks the node that runs; where none does, a stand-in with an identity of its own joins the network for some seconds, with
    the configuration and the ports that `node run` would have. The checks run side by side. Told are the first root cause, the
    command that mends it, and which other troubles come of it. Exit code 0: all is well; 3: a check failed; 4: warnings, or
    something could not be found out."""
    if is_list:
        rows = [{"check": name, "about": about} for name, about in CHECKS.items()]
        return Outcome({"checks": rows}, table(("check", "looks whether"), CHECKS.items()), rows=rows)
    began = time.monotonic()
    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    names = chosen or tuple(CHECKS)
    values, config = read_settings(output, given)

    from kodectl.cli.examination import Examination
    from kodectl.cli.log import configure

    # What the stand-in has to warn of is what the checks tell.
    configure(verbosity=-1 if output.quiet else output.verbosity - 1, json_lines=output.log_format == "json")
    is_given = given["datadir"] is not None or "KODECTL_DATADIR" in os.environ
    examination = Examination(
        place_of(values, passphrase_file),
        names,
        config,
        timeout_s=timeout_s,
        ends_s=deadline_s - (time.monotonic() - began),
        is_given=is_given,
        given=given,
        config_path=output.config_path,
    )
    reporter = Reporter(output, names)
    try:
        view = examination.run(reporter.ended)
    except SystemExit:  # a signal, or the alarm of the deadline
        reporter.flush()
        raise
    data = _verdict(view) if output.format is Format.JSONL else view
    return Outcome(data, doctor_text(view), failure=failure_of(view))


def _verdict(view: DoctorView) -> VerdictView:
    """Each check has had its line."""
    from kodectl.node.doctor_views import VerdictView

    return VerdictView(**{name: getattr(view, name) for name in VerdictView.__struct_fields__})


# -- the configuration -----------------------------------------------------------------------------------------------------


def read_settings(output: Output, given: dict[str, Any]) -> tuple[dict[str, Any], Finding]:
    """Every setting: as given, else as configured; where that cannot be read, its default. And what was wrong."""
    from kodectl.cli.configuration import Configuration, load_configuration
    from kodectl.core.diagnosis import Finding, State

    troubles: list[KodectlError] = []
    try:
        configuration = load_configuration(output.config_path)
    except KodectlError as error:
        troubles.append(error)
        configuration = Configuration(None, {}, os.environ)
    try:
        configuration.check()
    except KodectlError as error:
        troubles.append(error)
    values = {key: _value(configuration, key, given[key]) for key in NODE_KEYS}
    file = None if configuration.file is None else str(configuration.file)
    details = {"file": file, "troubles": [trouble.message for trouble in troubles]}
    if not troubles:
        count = sum(value not in (None, ()) for value in given.values())
        seen = f"{file or 'no file'}; {count} option{'s' * (count != 1)} given here"
        return values, Finding("config", State.OK, seen, details=details)
    first = troubles[0]
    place = file or output.config_path or "FILE"
    finding = Finding(
        "config",
        State.FAILED,
        "; ".join(trouble.message for trouble in troubles),
        first.code,
        "a node does not start with it; what is below was looked at with defaults in place of what is wrong",
        first.hint or "correct it, or leave it out",
        f"kodectl config check --config {place}" if file or output.config_path else "kodectl config check",
        details,
    )
    return values, finding


def _value(configuration: Configuration, key: str, given: Any) -> Any:
    from kodectl.cli.configuration import BY_KEY

    if given not in (None, ()):
        return given
    try:
        return configuration.get(key).value
    except KodectlError:
        default = BY_KEY[key].default
        return default() if callable(default) else default


def place_of(values: dict[str, Any], passphrase_file: Path | None) -> Place:
    from kodectl.cli.machine_checks import Place
    from kodectl.cli.quotas import parse_relay
    from kodectl.settings import NodeSettings

    datadir = values["datadir"].absolute()
    host, tcp_port = values["listen"]
    settings = NodeSettings(
        datadir=datadir,
        listen_host=host,
        tcp_port=tcp_port,
        udp_port=values["discovery_port"],
        bootstrap=values["bootstrap"],
        max_peers=values["max_peers"],
        lan=values["lan"],
        nat=values["nat"],
        stun=values["stun"],
        turn=values["turn"],
        relay=parse_relay(values["relay"]),
        network=values["network"],
        validators=values["validators"],
    )
    return Place(settings, datadir, values["api"], values["api_token"] == "required", passphrase_file)


# -- as it goes ------------------------------------------------------------------------------------------------------------


class Reporter:
    """Tells of each check as it ends: as a line under --jsonl, else as progress."""

    def __init__(self, output: Output, names: tuple[str, ...]) -> None:
        self._output = output
        self._waiting = dict.fromkeys(names)
        self._found: list[FindingView] = []
        self._count = len(self._waiting)
        self._show()

    def ended(self, examined: Examined) -> None:
        from kodectl.node.doctor_views import finding_view

        self._waiting.pop(examined.finding.check, None)
        self._found.append(finding_view(examined, {}))
        if self._output.format is Format.JSONL:
            self._output.emit(self._found[-1], "")
        self._show()

    def flush(self) -> None:
        """What is known, for people; a program gets one document, the error, or has had a line for each check."""
        if not self._output.structured and self._found:
            order = list(CHECKS)
            self._output.emit(None, _table(sorted(self._found, key=lambda view: order.index(view.check))))

    def _show(self) -> None:
        waiting = list(self._waiting)
        if waiting:
            more = f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
            done = f"{self._count - len(waiting)} of {self._count} checks done"
            self._output.progress(f"{done}; waiting for {', '.join(waiting[:SHOWN])}{more}")


# -- what is said ----------------------------------------------------------------------------------------------------------


def failure_of(view: DoctorView) -> KodectlError | None:
    root = view.root_cause
    if root is None:
        return None
    kind = NegativeAnswer if view.state == "failed" else Degraded
    return kind(f"{root.check}: {root.seen}", code=root.code or "undecided", hint=root.command or root.mend)


def doctor_text(view: DoctorView) -> str:
    blocks = [_table(view.checks)]
    root = view.root_cause
    if root is None:
        return "\n\n".join([*blocks, f"all is well, as far as {len(view.checks)} checks can tell"])
    blocks.append(_cause_text("root cause", root))
    blocks += [_cause_text("also", other) for other in view.other_causes]
    return "\n\n".join(blocks)


def _table(checks: list[FindingView]) -> str:
    return _aligned([(_styled(check), check.check, _seen(check)) for check in checks])


def _styled(check: FindingView) -> str:
    mark = f"{MARKS[check.state]} " if _has_marks() else ""
    return click.style(f"{mark}{check.state.ljust(STATE_WIDTH)}", fg=STYLES[check.state])


def _has_marks() -> bool:
    return sys.stdout.isatty() and sys.stdout.encoding.lower().replace("-", "") == "utf8"


def _aligned(rows: list[tuple[str, str, str]]) -> str:
    """Folded on a terminal; a program that reads it gets a line a check."""
    width = max((len(name) for _, name, _ in rows), default=0)
    indent = (2 if _has_marks() else 0) + STATE_WIDTH + 2 + width + 2
    return "\n".join(f"{state}  {name.ljust(width)}  {folded(clean(seen), indent)}" for state, name, seen in rows)


def _seen(check: FindingView) -> str:
    return check.seen if check.cause is None else f"{check.seen} (comes of {check.cause})"


def _cause_text(title: str, cause: RootCauseView) -> str:
    entries: list[tuple[str, object]] = [(title, f"{cause.check}: {cause.seen}")]
    entries += [("why", cause.why)] if cause.why else []
    entries += [("mend", cause.mend)] if cause.mend else []
    entries += [("comes of it", ", ".join(cause.consequences))] if cause.consequences else []
    width = max(len(name) for name, _ in entries)
    shown = [(name, folded(clean(str(value)), width + 2)) for name, value in entries]
    # Whole: they are there to be copied.
    lines = [f"{click.style(name.ljust(width), bold=True)}  {value}" for name, value in shown]
    commands = [line for line in (cause.command, cause.code and f"kodectl explain {cause.code}") if line]
    return "\n".join([*lines, *(f"    $ {clean(line)}" for line in commands)])
