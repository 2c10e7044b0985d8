"""`kodectl dht`: the distributed hash table, asked from here with an identity of the moment."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.known_ids import TABLE_ID
from kodectl.cli.options import Parsed, Seconds, read_input, setting, time_limits
from kodectl.cli.output import Format, Outcome, Output, pairs, table
from kodectl.cli.wording import milliseconds, short_id
from kodectl.errors import Degraded, LocalMisuse, NegativeAnswer
from kodectl.settings import DEFAULT_VALUE_TTL_S, MAX_VALUE_TTL_S

if TYPE_CHECKING:
    from kodectl.node.views import HopView, LookupView, RecordView

MAX_VALUE_SIZE = 1_000
"""What a record can hold (docs/protocol.md, Values)."""
PUBLISHER_SIZE = 32


def parse_publisher(text: str) -> str:
    if len(text) != 2 * PUBLISHER_SIZE or set(text.lower()) - set("0123456789abcdef"):
        raise ValueError(f"a public key of {2 * PUBLISHER_SIZE} hex digits")
    return text.lower()


@command(
    "find-node",
    epilog=examples("kodectl dht find-node ID --trace --bootstrap 'enode://...'", "kodectl dht find-node ID --json"),
)
@click.argument("target", metavar="ID", type=TABLE_ID)
@click.option("--trace", is_flag=True, help="Show every question: whom, at which distance, what came back.")
@setting("bootstrap", "network")
@time_limits(timeout_s=2, deadline_s=30)
@click.pass_obj
def find_node(
    output: Output,
    target: str,
    trace: bool,
    bootstrap: tuple[str, ...],
    network: str,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Look a node up by its id.

    ID is a node id, or an enode, whose id counts. Exit code 3: not found, and the closest nodes are printed; 5: no
    bootstrap node answered.
    """
    from kodectl.cli.errand import terms_of, world
    from kodectl.node.errands import find_node as look_up
    from kodectl.node.targets import parse_target

    whom = parse_target(target)
    if not whom.id_known:
        raise LocalMisuse(f"{target!r} has no node id to look for", code="bad_target")
    output.start_logging()

    def report(hop: HopView) -> None:
        # One JSON document has the trace in it in any case.
        if trace and output.format is not Format.JSON:
            output.emit(hop, _hop_line(hop))
        else:
            output.progress(f"round {hop.round}: {hop.contacts} contacts from {hop.addr}")

    with world() as runtime:
        view = look_up(runtime, terms_of(bootstrap, network, timeout_s, deadline_s), whom.node_id, report=report)
    failure = None if view.found else _not_found(view)
    return Outcome(view, _lookup_text(view), rows=view.closest, failure=failure)


@command(
    "put",
    epilog=examples(
        "kodectl dht put motd 'hello, world' --key node.key",
        "kodectl dht put motd --file motd.txt --ttl 3600",
        "date | kodectl dht put motd -",
    ),
)
@click.argument("name", metavar="KEY")
@click.argument("value", required=False)
@click.option("--file", "value_file", type=click.Path(), metavar="FILE", help="Take the value from a file.")
@click.option("--key", "key_file", type=click.Path(), metavar="FILE", help="Key file of the publisher.")
@click.option("--passphrase-file", type=click.Path(), metavar="FILE", help="File whose first line is the passphrase.")
@click.option(
    "--ttl", "ttl_s", type=Seconds(), default=DEFAULT_VALUE_TTL_S, metavar="SECONDS", help="How long it is kept."
)
@setting("bootstrap", "network")
@time_limits(timeout_s=2, deadline_s=30)
@click.pass_obj
def put(
    output: Output,
    name: str,
    value: str | None,
    value_file: str | None,
    key_file: str | None,
    passphrase_file: str | None,
    ttl_s: float,
    bootstrap: tuple[str, ...],
    network: str,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Publish a signed value of at most 1,000 bytes under a key.

    VALUE is text, or - for stdin. Only the identity that published a value can replace it: name it with --key.
    Exit code 4: fewer nodes keep it than were asked.
    """
    from kodectl.cli.errand import terms_of, world
    from kodectl.node.errands import put_value

    content = _value(value, value_file)
    if ttl_s > MAX_VALUE_TTL_S:
        raise LocalMisuse(f"--ttl {ttl_s:.0f} is above {MAX_VALUE_TTL_S:.0f}", code="ttl_too_long")
    seed = _publisher(output, key_file, passphrase_file)
    output.start_logging()
    terms = terms_of(bootstrap, network, timeout_s, deadline_s)
    with world() as runtime:
        view = put_value(
            runtime, terms, seed or runtime.random_bytes(PUBLISHER_SIZE), key=_named(name), value=content, ttl_s=ttl_s
        )
    text = f"{view.stored} of {view.asked} nodes keep it"
    failure = None if view.stored == view.asked else Degraded(text, code="partly_stored")
    return Outcome(view, pairs([("key", view.key), ("sequence", view.sequence), ("stored", text)]), failure=failure)


@command(
    "get",
    epilog=examples("kodectl dht get motd", "kodectl dht get motd --records", "kodectl dht get motd --publisher KEY"),
)
@click.argument("name", metavar="KEY")
@click.option("--records", is_flag=True, help="Show all records with publisher, sequence and expiry.")
@click.option(
    "--publisher",
    type=Parsed(parse_publisher, "key"),
    metavar="KEY",
    help="Only what this publisher (public key, 64 hex digits) wrote.",
)
@setting("bootstrap", "network")
@time_limits(timeout_s=2, deadline_s=30)
@click.pass_obj
def get(
    output: Output,
    name: str,
    records: bool,
    publisher: str | None,
    bootstrap: tuple[str, ...],
    network: str,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Read the value of a key, and print its bytes as they are (to a terminal, without what it would obey).

    Where several publishers have written, the newest record is taken, with a warning; --publisher chooses.
    Exit code 3: nothing found.
    """
    from kodectl.cli.errand import terms_of, world
    from kodectl.node.errands import get_value
    from kodectl.node.views import ValueView

    output.start_logging()
    with world() as runtime:
        view = get_value(runtime, terms_of(bootstrap, network, timeout_s, deadline_s), key=_named(name))
    found = [record for record in view.records if publisher in (None, record.publisher)]
    if not found:
        others = "kodectl dht get KEY --records shows who has"
        raise NegativeAnswer(f"{publisher} has written nothing under {name!r}", code="value_not_found", hint=others)
    if len(found) > 1 and not records:
        several = f"{len(found)} publishers have written under {name!r}; this is the newest"
        output.warn("several_publishers", several, "choose one with --publisher, or see all with --records")
    return Outcome(ValueView(view.key, found), _records_text(found) if records else _value_of(found), rows=found)


def _named(key: str) -> bytes:
    """The bytes that were typed, whether they are UTF-8 or not."""
    return key.encode(errors="surrogateescape")


def _value(text: str | None, file: str | None) -> bytes:
    if (text is None) == (file is None):
        raise LocalMisuse("give the value either as an argument or with --file", hint="kodectl dht put --help")
    if file is not None or text == "-":
        content = read_input(file or "-", MAX_VALUE_SIZE + 1)
    else:
        content = (text or "").encode(errors="surrogateescape")
    if len(content) > MAX_VALUE_SIZE:
        raise LocalMisuse(f"the value has more than {MAX_VALUE_SIZE} bytes", code="value_too_large")
    return content


def _publisher(output: Output, key_file: str | None, passphrase_file: str | None) -> bytes | None:
    if key_file is None:
        output.warn(
            "ephemeral_publisher",
            "published by an identity of the moment: nobody can change this value later",
            "name an identity with --key",
        )
        return None
    from kodectl.cli.identity import open_key

    return open_key(output, Path(key_file), passphrase_file).seed


def _hop_line(hop: HopView) -> str:
    answer = milliseconds(hop.rtt_ms) or hop.outcome
    return (
        f"{hop.round}  {short_id(hop.id)}  {hop.addr}  distance {hop.distance_bits}  {answer}  "
        f"{hop.contacts} contacts, {hop.new_contacts} new"
    )


def _lookup_text(view: LookupView) -> str:
    rows = ((number, node.distance_bits, node.enode) for number, node in enumerate(view.closest, 1))
    asked = f"{view.messages} messages, {view.rounds} rounds, {view.elapsed_ms:.0f} ms"
    return f"{table(('#', 'distance', 'enode'), rows)}\n{'found' if view.found else 'not found'}: {asked}"


def _not_found(view: LookupView) -> NegativeAnswer:
    return NegativeAnswer(
        f"{view.target} was not found; the {len(view.closest)} closest nodes do not know it",
        code="not_found",
        hint="kodectl explain not_found",
    )


def _newest(found: list[RecordView]) -> RecordView:
    return max(found, key=lambda record: (record.expires, record.sequence))


def _value_of(found: list[RecordView]) -> bytes:
    return base64.b64decode(_newest(found).value)


def _records_text(found: list[RecordView]) -> str:
    return "\n\n".join(
        pairs(
            [
                ("publisher", record.publisher),
                ("sequence", record.sequence),
                ("expires", record.expires),
                ("value", _shown(record)),
            ]
        )
        for record in found
    )


def _shown(record: RecordView) -> str:
    return base64.b64decode(record.value).decode(errors="backslashreplace")
