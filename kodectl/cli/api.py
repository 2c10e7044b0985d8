"""`kodectl api`: a request to a running node's API, as it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.options import read_input
from kodectl.cli.output import Outcome, Output, table
from kodectl.errors import KodectlError, LocalMisuse, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.cli.client import Answer, NodeClient

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH")
"""The last two are served nowhere, which is for the node to say."""
MAX_BODY = 8 * 1024 * 1024
"""Above what any route takes; that is for the node to say, too."""
AS_TYPED = "/?&=%:@!$'()*+,;~"
"""What may stand in a target beside letters and digits; the rest is percent-encoded."""
JSON_TYPES = ("application/json", "application/problem+json")


@command(
    "api",
    epilog=examples(
        "kodectl api '/api/network/peers?sort=latency'",
        'kodectl api POST /api/network/connect -d \'{"target": "203.0.113.5:30303"}\'',
        "kodectl api PUT /api/dht/motd -d @value.json",
        "kodectl api --list",
    ),
)
@click.argument("request", nargs=-1, metavar="[METHOD] PATH")
@click.option("-d", "--data", metavar="JSON|@FILE|-", help="The body: JSON, of a file, or of stdin.")
@click.option("--raw", is_flag=True, help="Print the answer's bytes as they are, also those of an error.")
@click.option("--list", "lists", is_flag=True, help="List the routes instead; needs no node.")
@on_node(timeout_s=15, deadline_s=30)
def api(
    output: Output, client: NodeClient, request: tuple[str, ...], data: str | None, raw: bool, lists: bool
) -> Outcome:
    """Send a request to the node's API, and print the answer.

    METHOD is GET unless given. The exit code is that of the error which the node answers (kodectl explain exit-codes)."""
    if lists:
        return _list_of_routes()
    if raw and output.structured:
        raise LocalMisuse("--raw prints the answer itself, without a document around it: leave out --json")
    method, target = _method_and_target(request)
    answer = client.exchange(method, target, None if data is None else _body(data))
    return _outcome(output, answer, {"method": method, "path": target}, raw)


def _method_and_target(words: tuple[str, ...]) -> tuple[str, str]:
    method, path = ("GET", *words) if len(words) == 1 else (words if len(words) == 2 else ("", ""))
    if method.upper() not in METHODS or not path.startswith("/"):
        raise LocalMisuse(
            "a request is METHOD (GET unless given) and a path that begins with a slash", hint="kodectl api --list"
        )
    return method.upper(), quote(path, safe=AS_TYPED, errors="surrogateescape")


def _body(text: str) -> Any:
    """The JSON as it was given, checked to be some."""
    import msgspec

    if text == "-" or text.startswith("@"):
        content = read_input(text.removeprefix("@"), MAX_BODY + 1)
    else:
        content = text.encode(errors="surrogateescape")
    if len(content) > MAX_BODY:
        raise LocalMisuse(f"the body has more than {MAX_BODY} bytes", code="payload_too_large")
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalMisuse(f"the body is not JSON: {error}", code="malformed_body") from error
    return msgspec.Raw(content)


def _outcome(output: Output, answer: Answer, asked: dict[str, str], raw: bool) -> Outcome:
    view = {**asked, "status": answer.status, "content_type": answer.content_type, "body": _value_of(answer)}
    failure = _failure_of(answer)
    if raw:
        return Outcome(view, answer.body, failure=failure)
    return Outcome(view, "" if answer.problem else _text_of(answer), failure=failure)


def _value_of(answer: Answer) -> Any:
    """What the body says; text where it is no JSON, null where there is none."""
    if not answer.body:
        return None
    if answer.content_type in JSON_TYPES:
        return json.loads(answer.body)
    return answer.body.decode(errors="replace")


def _text_of(answer: Answer) -> str | bytes:
    if not answer.body:
        return _status_of(answer)
    if answer.content_type in JSON_TYPES:
        return json.dumps(json.loads(answer.body), indent=2, ensure_ascii=False)
    return answer.body


def _status_of(answer: Answer) -> str:
    import http

    try:
        return f"{answer.status} {http.HTTPStatus(answer.status).phrase}"
    except ValueError:
        return str(answer.status)


def _failure_of(answer: Answer) -> KodectlError | None:
    if answer.problem is not None:
        if answer.problem.code == "route_not_found" and answer.problem.hint is None:
            answer.problem.hint = "kodectl api --list"
        return answer.problem
    if answer.status >= 400:
        return NegativeAnswer(f"the node answered {_status_of(answer)}", code="http_status")
    return None


def _list_of_routes() -> Outcome:
    from kodectl.api.routes import ROUTES
    from kodectl.api.routing import told

    rows = [{"method": route.method, "path": route.path, "summary": told(route)[0]} for route in ROUTES]
    text = table(("method", "path", "what"), ((row["method"], row["path"], row["summary"]) for row in rows))
    return Outcome({"routes": rows, "count": len(rows)}, text, rows=rows)
