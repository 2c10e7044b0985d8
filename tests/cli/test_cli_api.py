"""`kodectl api` against a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kodectl.api.routes import ROUTES
from kodectl.cli.main import cli


@pytest.fixture(scope="module")
def node(shared_nodes: Any) -> Any:
    return shared_nodes.start("a")


@pytest.fixture
def api(node: Any, shared_nodes: Any) -> Any:
    def run(*words: str, input: bytes = b"") -> Any:
        return shared_nodes.kodectl("api", *words, "--datadir", str(node.datadir), input=input)

    return run


def test_the_answer_is_printed(api: Any, node: Any) -> None:
    done = api("/api/network/enode")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"enode": node.enode}, b"")
    assert api("get", "/api/network/enode").stdout == done.stdout
    raw = api("GET", "/api/network/enode", "--raw").stdout
    assert raw == b'{"enode":"%s"}\n' % node.enode.encode()


def test_the_document_has_the_request_and_the_status(api: Any) -> None:
    data = json.loads(api("/api/network/peers?sort=latency", "--json").stdout)["data"]
    assert data == {
        "method": "GET",
        "path": "/api/network/peers?sort=latency",
        "status": 200,
        "content_type": "application/json",
        "body": {"peers": [], "count": 0},
    }


@pytest.mark.parametrize("source", ["argument", "file", "stdin"])
def test_a_body_comes_from_argument_file_or_stdin(source: str, api: Any, tmp_path: Path) -> None:
    body = '{"value": "aGVsbG8="}'
    (tmp_path / "body.json").write_text(body)
    data = {"argument": body, "file": f"@{tmp_path / 'body.json'}", "stdin": "-"}[source]
    done = api("PUT", f"/api/dht/{source} é", "-d", data, input=body.encode())
    assert (done.returncode, json.loads(done.stdout)["stored"]) == (0, 1), done.stderr
    found = json.loads(api(f"/api/dht/{source} é").stdout)
    assert found["records"][0]["value"] == "aGVsbG8="


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "says"),
    [
        (("/api/nothing",), 2, "route_not_found", "hint: kodectl api --list"),
        (("DELETE", "/livez"), 2, "method_not_allowed", "DELETE is not served"),
        (("POST", "/api/network/disconnect/12345678"), 3, "peer_not_connected", "hint: kodectl node peers"),
        (("/api/network/peers?sort=speed",), 2, "usage", "one of latency"),
        (("POST", "/api/network/connect", "-d", "{}"), 2, "malformed_body", "target"),
        (("POST", "/api/network/connect", "-d", "{"), 2, "malformed_body", "is not JSON"),
        (("POST", "/api/network/connect", "-d", "@/nowhere"), 7, "file_unreadable", "/nowhere"),
        (("PUT", "/api/dht/x", "-d", "-"), 2, "malformed_body", "is not JSON"),
        ((), 2, "usage", "hint: kodectl api --list"),
        (("GET",), 2, "usage", "begins with a slash"),
        (("FETCH", "/livez"), 2, "usage", "METHOD"),
        (("GET", "/livez", "/readyz"), 2, "usage", "METHOD"),
        (("OPTIONS", "*"), 2, "usage", "slash"),
    ],
)
def test_an_error_of_the_node_is_the_commands(
    words: tuple[str, ...], exit_code: int, code: str, says: str, api: Any
) -> None:
    done = api(*words, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (exit_code, code)
    text = api(*words)
    assert (text.returncode, text.stdout) == (exit_code, b"")
    assert says in text.stderr.decode()


def test_the_problem_itself_is_told_too(api: Any) -> None:
    raw = api("/api/nothing", "--raw")
    assert (raw.returncode, json.loads(raw.stdout)["code"]) == (2, "route_not_found")
    details = json.loads(api("/api/nothing", "--json").stdout)["error"]["details"]
    assert (details["status"], details["body"]["code"]) == (404, "route_not_found")
    assert api("/livez", "--raw", "--json").returncode == 2


def test_an_answer_without_a_body_tells_its_status(api: Any) -> None:
    assert api("HEAD", "/livez").stdout == b"200 OK\n"
    assert json.loads(api("HEAD", "/livez", "--json").stdout)["data"]["body"] is None


def test_the_routes_are_listed_without_a_node() -> None:
    done = CliRunner().invoke(cli, ["api", "--list", "--json"])
    rows = json.loads(done.stdout)["data"]["routes"]
    assert [(row["method"], row["path"]) for row in rows] == [(route.method, route.path) for route in ROUTES]
    assert all(row["summary"].endswith(".") for row in rows)
    assert "/api/network/peers " in CliRunner().invoke(cli, ["api", "--list"]).stdout


def test_a_failing_probe_is_a_negative_answer() -> None:
    from kodectl.cli.api import _failure_of
    from kodectl.cli.client import Answer

    failure = _failure_of(Answer(503, "application/json", b'{"ok": false}', None))
    assert failure is not None
    assert (failure.code, int(failure.exit)) == ("http_status", 3)
    assert _failure_of(Answer(200, "application/json", b"{}", None)) is None
