"""The API's HTTP behaviour, over a stand-in that answers fixed values: routes, errors, and who may call."""

import base64
import json
import re
from pathlib import Path

import falcon.testing
import pytest

from kodectl.api.access import AccessRules
from kodectl.api.app import Guard, make_app
from kodectl.api.kept import KEPT_S, Kept
from kodectl.api.lifecycle import WITHHELD
from kodectl.api.network import MAX_BROADCAST_BODY
from kodectl.api.requests import MAX_SMALL_BODY
from kodectl.api.routes import ROUTES
from kodectl.errors import DeadlineReached, NegativeAnswer, NodeUnreachable
from kodectl.node.topics import ALL_TYPES
from kodectl.node.views import (
    UNKNOWN_NAT,
    BanView,
    BootstrapView,
    BroadcastView,
    CheckView,
    ConnectView,
    DisconnectView,
    EventsView,
    EventView,
    HealthView,
    LatencyView,
    ListenerView,
    LookupView,
    NatView,
    PeersView,
    PeerView,
    PutView,
    RediscoverView,
    StatsView,
    StatusView,
    TableView,
    ValueView,
)

ID_A = "ab" * 32
ID_B = "ab" * 5 + "cd" * 27
LOCAL = {"Host": "127.0.0.1:8545"}


def peer(node_id: str) -> PeerView:
    return PeerView(
        id=node_id,
        enode=f"enode://{node_id}@127.0.0.1:30303?discport=30301",
        client="kodectl/0.1.0",
        direction="outbound",
        path="direct",
        transport="tcp",
        addr="127.0.0.1:30303",
        ip="127.0.0.1",
        port=30303,
        since="2026-01-01T00:00:00.000Z",
        connected_s=1.5,
        latency_ms=None,
        bytes_sent=1,
        bytes_received=2,
        messages_sent=3,
        messages_received=4,
        trust=0.5,
        priority="medium",
        static=False,
    )


class FixedEvents:
    news = 0

    def wait(self, seq: int, timeout_s: float, limit: int, types: frozenset[str], run: str | None) -> EventsView:
        return EventsView([EventView(1, "", type_, "", {}) for type_ in sorted(types)], seq, limit, run or "now")


class FixedNode:
    """Answers what it was made with and notes what it was asked."""

    enode = f"enode://{ID_A}@127.0.0.1:30303?discport=30301"

    def __init__(self) -> None:
        self.events = FixedEvents()
        self.asked: list[tuple] = []
        self.healthy = True
        self.error: Exception | None = None

    def peers(self, sort=None, direction=None) -> PeersView:
        self.asked.append(("peers", sort, direction))
        if self.error:
            raise self.error
        return PeersView([peer(ID_A), peer(ID_B)], 2)

    def stats(self) -> StatsView:
        return StatsView(2, 1, 1, 10, 20, 0.5, None, 9.0, 3, 4, {}, {}, {}, {}, {})

    def latency(self) -> LatencyView:
        return LatencyView([], None)

    def bootstrap(self) -> BootstrapView:
        return BootstrapView([])

    def rediscover(self) -> RediscoverView:
        return RediscoverView(True, 1, 2)

    def table(self) -> TableView:
        return TableView(ID_A, 0, [])

    def nat(self) -> NatView:
        return UNKNOWN_NAT

    def status(self) -> StatusView:
        return StatusView(
            id=ID_A,
            enode=self.enode,
            client="kodectl/0.1.0",
            network="kodechain",
            state="ready",
            pid=1,
            started="2026-01-01T00:00:00.000Z",
            uptime_s=1.0,
            listeners=ListenerView("0.0.0.0:30303", "0.0.0.0:30301", []),
            peers=2,
            max_peers=50,
            inbound=1,
            outbound=1,
            table_size=0,
            records=0,
            dht_mode="server",
            lan=False,
            nat=UNKNOWN_NAT,
            warnings=[],
        )

    def connect(self, target: str, timeout_s: float) -> ConnectView:
        self.asked.append(("connect", target, timeout_s))
        return ConnectView("refused", None, None, "connection refused")

    def disconnect(self, node_id: str) -> DisconnectView:
        self.asked.append(("disconnect", node_id))
        return DisconnectView(node_id, node_id in (ID_A, ID_B))

    def ban(self, node_id: str, seconds) -> BanView:
        self.asked.append(("ban", node_id, seconds))
        return BanView(node_id, True, None)

    def unban(self, node_id: str) -> BanView:
        return BanView(node_id, False, None)

    def broadcast(self, kind: str, payload: bytes, mode: str) -> BroadcastView:
        self.asked.append(("broadcast", kind, payload, mode))
        return BroadcastView("00" * 32, kind, mode, 2)

    def dht_put(self, key: bytes, value: bytes, ttl_s: float) -> PutView:
        self.asked.append(("put", key, value, ttl_s))
        return PutView(key.hex(), 1, 16, 16)

    def dht_get(self, key: bytes) -> ValueView:
        raise NegativeAnswer("nothing there", code="value_not_found")

    def dht_find_node(self, node_id: str) -> LookupView:
        self.asked.append(("find", node_id))
        return LookupView(node_id, False, [], 0, 0, 1.0, [])

    def health(self, probe: str) -> HealthView:
        return HealthView(probe, self.healthy, [CheckView("hub", self.healthy, "breathes")])


@pytest.fixture
def node() -> FixedNode:
    return FixedNode()


@pytest.fixture
def stops() -> list[str]:
    return []


@pytest.fixture
def client(node, stops) -> falcon.testing.TestClient:
    return client_of(node, AccessRules(), stops)


def client_of(node, rules, stops) -> falcon.testing.TestClient:
    app = make_app(node, Guard(rules), lambda: stops.append("stop"))
    return falcon.testing.TestClient(app, headers=LOCAL)


def problem(result, status: int, code: str) -> dict:
    assert (result.status_code, result.headers["content-type"]) == (status, "application/problem+json")
    found = result.json
    assert found["status"] == status
    assert (found["code"], found["type"]) == (code, f"urn:kodectl:error:{code}")
    assert set(found) == {"type", "title", "status", "detail", "code", "exit", "hint"}
    return found


def test_peers_in_the_documented_shape(client, node):
    result = client.simulate_get("/api/network/peers", query_string="sort=latency&direction=outbound")
    assert result.status_code == 200
    assert result.headers["content-type"] == "application/json"
    assert result.json["count"] == 2
    assert result.json["peers"][0]["latency_ms"] is None
    assert node.asked == [("peers", "latency", "outbound")]


@pytest.mark.parametrize("name", ["peers", "stats", "latency", "bootstrap", "enode", "status", "routing", "nat"])
def test_every_view_answers_json_that_ends_a_line(client, name):
    result = client.simulate_get(f"/api/network/{name}")
    assert result.status_code == 200
    assert result.content.endswith(b"}\n")


@pytest.mark.parametrize("query", ["sort=speed", "sort=", "direction=up"])
def test_a_parameter_out_of_its_list_is_refused_with_the_list(client, query):
    assert "one of" in problem(client.simulate_get("/api/network/peers", query_string=query), 400, "usage")["detail"]


def test_the_documented_posts_need_neither_body_nor_type(client, node):
    assert client.simulate_post("/api/network/rediscover").json["started"] is True
    assert client.simulate_post(f"/api/network/disconnect/{ID_A}").json == {"id": ID_A, "disconnected": True}
    assert client.simulate_post(f"/api/network/ban/{ID_A}").json["banned"] is True
    assert client.simulate_post(f"/api/network/unban/{ID_A}").json["banned"] is False
    assert node.asked[-1] == ("ban", ID_A, None)


def test_a_peer_is_named_by_an_unambiguous_beginning(client, node):
    assert client.simulate_post(f"/api/network/disconnect/{ID_B[:12].upper()}").json["id"] == ID_B
    problem(client.simulate_post(f"/api/network/disconnect/{ID_A[:10]}"), 400, "ambiguous_id")
    problem(client.simulate_post(f"/api/network/disconnect/{ID_A[:7]}"), 400, "malformed_id")
    problem(client.simulate_post("/api/network/disconnect/12345678"), 404, "peer_not_connected")
    problem(client.simulate_post(f"/api/network/disconnect/{'0' * 64}"), 404, "peer_not_connected")
    problem(client.simulate_post("/api/network/disconnect/" + "g" * 64), 400, "malformed_id")


def test_connect_answers_the_outcome(client, node):
    result = client.simulate_post("/api/network/connect", json={"target": "enode://x", "timeout_s": 2})
    assert result.json["outcome"] == "refused"
    assert node.asked == [("connect", "enode://x", 2.0)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "target"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"target": 7}', "target"),
        (b'{"target": "x", "tiemout_s": 1}', "tiemout_s"),
        (b'{"target": "\xff"}', "utf-8"),
        (b'{"target": "' + b"x" * 2000 + b'"}', "length <= 1024"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong(client, body, says):
    result = client.simulate_post("/api/network/connect", body=body, headers={"Content-Type": "application/json"})
    assert says in problem(result, 400, "malformed_body")["detail"]


@pytest.mark.parametrize("seconds", [-1, 61, 1e300])
def test_waits_are_finite(client, seconds):
    body = {"target": "enode://x", "timeout_s": seconds}
    problem(client.simulate_post("/api/network/connect", json=body), 400, "malformed_body")
    problem(client.simulate_get("/api/events", query_string=f"timeout={seconds}"), 400, "usage")


@pytest.mark.parametrize("query", ["srot=latency", "sort=trust&sort=latency", "&".join(f"x{n}=" for n in range(20))])
def test_a_parameter_that_does_not_exist_or_stands_twice_is_refused(client, node, query):
    problem(client.simulate_get("/api/network/peers", query_string=query), 400, "usage")
    problem(client.simulate_get("/api/network/stats", query_string=query), 400, "usage")
    assert node.asked == []


@pytest.mark.parametrize("text", ["nan", "inf", "1s", ""])
def test_seconds_are_numbers(client, text):
    problem(client.simulate_get("/api/events", query_string=f"timeout={text}"), 400, "usage")


def test_broadcast_takes_a_block_of_the_largest_size(client, node):
    payload = bytes(4 * 1024 * 1024)
    body = {"type": "block", "payload": base64.b64encode(payload).decode(), "mode": "flood"}
    assert client.simulate_post("/api/network/broadcast", json=body).json["sent_to"] == 2
    assert node.asked == [("broadcast", "block", payload, "flood")]


def test_broadcast_refuses_unknown_types_and_broken_base64(client):
    for body in ({"type": "gossip", "payload": ""}, {"type": "block", "payload": "***"}, {"type": "block"}):
        problem(client.simulate_post("/api/network/broadcast", json=body), 400, "malformed_body")


@pytest.mark.parametrize(
    ("path", "limit"), [("/api/network/connect", MAX_SMALL_BODY), ("/api/network/broadcast", MAX_BROADCAST_BODY)]
)
def test_a_body_over_the_limit_is_refused(client, path, limit):
    headers = {"Content-Type": "application/json"}
    problem(client.simulate_post(path, body=b" " * (limit + 1), headers=headers), 413, "body_too_large")


def test_values_are_put_under_the_text_of_the_path(client, node):
    body = {"value": base64.b64encode(b"v\x00").decode(), "ttl_s": 60}
    assert client.simulate_put("/api/dht/%C3%A9 key", json=body).json["stored"] == 16
    assert node.asked == [("put", "é key".encode(), b"v\x00", 60.0)]
    problem(client.simulate_get("/api/dht/missing"), 404, "value_not_found")
    problem(client.simulate_get("/api/dht/%ff"), 400, "malformed_key")
    problem(client.simulate_put("/api/dht/%fe", json=body), 400, "malformed_key")


def test_lookups_take_a_whole_id(client, node):
    assert client.simulate_get(f"/api/dht/nodes/{ID_A.upper()}").json["found"] is False
    assert node.asked == [("find", ID_A)]
    problem(client.simulate_get("/api/dht/nodes/abcd"), 400, "malformed_id")


def test_events_take_a_number_a_limit_topics_and_a_run(client):
    result = client.simulate_get("/api/events", query_string="since=7&limit=5&topics=message,joined&run=then").json
    assert [event["type"] for event in result["events"]] == ["block", "joined", "transaction"]
    assert (result["next"], result["missed"], result["run"]) == (7, 5, "then")
    assert len(client.simulate_get("/api/events").json["events"]) == len(ALL_TYPES)
    for query in ("since=-1", "since=x", "since=1_0", "since=" + "9" * 5000, "limit=0", "limit=501", "run=" + "x" * 41):
        problem(client.simulate_get("/api/events", query_string=query), 400, "usage")
    problem(client.simulate_get("/api/events", query_string="topics=blocks"), 400, "unknown_topic")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
def test_probes_answer_by_status(client, node, path):
    assert client.simulate_get(path).status_code == 200
    node.healthy = False
    result = client.simulate_get(path)
    assert (result.status_code, result.json["checks"][0]["ok"]) == (503, False)


def test_stop_asks_the_process_to_leave(client, stops):
    assert client.simulate_post("/api/node/stop").json == {"stopping": True}
    assert stops == ["stop"]


def test_unknown_routes_and_methods(client):
    assert "/api/nothing" in problem(client.simulate_get("/api/nothing"), 404, "route_not_found")["detail"]
    result = client.simulate_get("/api/network/rediscover")
    problem(result, 405, "method_not_allowed")
    assert "POST" in result.headers["allow"]
    problem(client.simulate_delete("/api/network/peers"), 405, "method_not_allowed")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bodies_are_json(client, media_type):
    result = client.simulate_post("/api/network/connect", body=b"{}", headers={"Content-Type": media_type})
    problem(result, 415, "media_type_not_supported")


def test_errors_of_the_node_keep_code_exit_and_hint(client, node):
    node.error = NegativeAnswer("no", code="some_code", hint="do that")
    found = problem(client.simulate_get("/api/network/peers"), 404, "some_code")
    assert (found["detail"], found["exit"], found["hint"]) == ("no", 3, "do that")
    node.error = NodeUnreachable("no bootstrap node answered", code="no_bootstrap")
    assert problem(client.simulate_get("/api/network/peers"), 503, "no_bootstrap")["exit"] == 5
    node.error = DeadlineReached("too late")
    assert problem(client.simulate_get("/api/network/peers"), 504, "deadline")["exit"] == 8


def test_a_bug_is_logged_and_not_shown(client, node, caplog):
    node.error = ZeroDivisionError("secret detail")
    result = client.simulate_get("/api/network/peers")
    assert problem(result, 500, "internal_error")["exit"] == 1
    assert b"secret" not in result.content
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8545", "LOCALHOST:1", "127.0.0.1", "127.8.9.1:80", "[::1]:8545", "[::1]"]
)
def test_loopback_hosts_are_served(client, host):
    assert client.simulate_get("/api/network/stats", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8545",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.1",
        "",
        "[::2]",
    ],
)
def test_other_hosts_are_refused(client, host):
    problem(client.simulate_get("/api/network/stats", headers={"Host": host}), 403, "host_not_allowed")


def test_configured_hosts_are_served(node, stops):
    named = client_of(node, AccessRules(host_names=frozenset({"node.lan"})), stops)
    assert named.simulate_get("/livez", headers={"Host": "node.lan:8545"}).status_code == 200
    everywhere = client_of(node, AccessRules(any_address=True), stops)
    assert everywhere.simulate_get("/livez", headers={"Host": "192.168.1.7:8545"}).status_code == 200
    problem(everywhere.simulate_get("/livez", headers={"Host": "node.lan"}), 403, "host_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_pages_of_other_origins_are_refused(client, headers):
    problem(client.simulate_post("/api/network/rediscover", headers=headers), 403, "origin_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:8545"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_the_nodes_own_pages_and_followed_links_are_served_without_cors(client, headers):
    result = client.simulate_get("/api/network/stats", headers=headers)
    assert result.status_code == 200
    assert not [name for name in result.headers if name.startswith("access-control")]


def test_a_preflight_is_refused(client):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    problem(client.simulate_options("/api/dht/key", headers=headers), 403, "origin_not_allowed")


@pytest.mark.parametrize("sent", [None, "Bearer wrong", "Bearer ", "Basic " + "t" * 32, "Bearer é", "t" * 32])
def test_without_the_token_nothing_is_served(node, stops, sent):
    guarded = client_of(node, AccessRules(token="t" * 32), stops)
    result = guarded.simulate_get("/api/network/stats", headers={"Authorization": sent} if sent else {})
    assert problem(result, 401, "not_authorised")["exit"] == 6
    assert result.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
def test_probes_tell_strangers_whether_and_not_why(node, stops, path):
    guarded = client_of(node, AccessRules(token="t" * 32), stops)
    token = {"Authorization": "Bearer " + "t" * 32}
    for node.healthy, status in ((True, 200), (False, 503)):
        known, unknown = guarded.simulate_get(path, headers=token), guarded.simulate_get(path)
        assert (known.status_code, unknown.status_code) == (status, status)
        assert unknown.json == known.json | {"checks": [check | {"detail": WITHHELD} for check in known.json["checks"]]}
        assert known.json == guarded.simulate_get(path, extras={"kodectl.unix": True}).json != unknown.json
    problem(guarded.simulate_get(path, headers={"Authorization": "Bearer wrong"}), 401, "not_authorised")
    problem(guarded.simulate_get(path, headers={"Host": "evil.example"}), 403, "host_not_allowed")


def test_the_token_and_the_unix_socket_open(node, stops):
    guarded = client_of(node, AccessRules(token="t" * 32), stops)
    assert guarded.simulate_get("/livez", headers={"Authorization": "bearer " + "t" * 32}).status_code == 200
    assert guarded.simulate_get("/livez", extras={"kodectl.unix": True}).status_code == 200
    assert guarded.simulate_get("/livez", headers={"Host": "any"}, extras={"kodectl.unix": True}).status_code == 200


def test_waiting_requests_are_bounded(client, node):
    inner = []

    def connect_while_connecting(target, timeout_s):
        inner.append(client.simulate_post("/api/network/connect", json={"target": "x"}))
        return ConnectView("timeout", None, None, None)

    node.connect = connect_while_connecting
    client.simulate_post("/api/network/connect", json={"target": "x"})
    refused = [result for result in inner if result.status_code != 200]
    assert len(inner) == 32
    assert problem(refused[0], 503, "busy")["exit"] == 7
    assert client.simulate_get("/api/network/stats").status_code == 200
    assert json.loads(inner[-1].content)["outcome"] == "timeout"


def test_an_answer_holds_for_a_moment_for_all_who_ask_the_same(client, node, monkeypatch):
    monkeypatch.setattr("kodectl.api.routing.time.monotonic", lambda: 7.0)
    first, again = (client.simulate_get("/api/network/peers") for _ in range(2))
    assert (first.content, first.headers) == (again.content, again.headers)
    assert node.asked == [("peers", None, None)]
    client.simulate_get("/api/network/peers", query_string="sort=trust")
    assert node.asked[1:] == [("peers", "trust", None)]


@pytest.mark.parametrize("path", ["/api/network/rediscover", f"/api/network/unban/{ID_A}"])
def test_what_was_done_or_told_is_in_the_next_answer(client, node, monkeypatch, path):
    monkeypatch.setattr("kodectl.api.routing.time.monotonic", lambda: 7.0)
    client.simulate_get("/api/network/peers")
    client.simulate_post(path)
    client.simulate_get("/api/network/peers")
    assert len(node.asked) == 2
    node.events.news += 1
    client.simulate_get("/api/network/peers")
    assert len(node.asked) == 3


def test_a_kept_answer_ends():
    kept = Kept()
    assert kept.get("state", 0.0) is None
    kept.put("state", 10.0, b"answer")
    assert kept.get("state", 10.0) == kept.get("state", 10.0 + 0.9 * KEPT_S) == b"answer"
    assert kept.get("another state", 10.0) is None
    assert kept.get("state", 10.0 + KEPT_S) is None


def test_the_documentation_names_every_route_and_no_other():
    served = {re.sub(r"\{\w+_id\}", "{id}", route.path) for route in ROUTES}
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    # Every route stands in backquotes at the beginning of a table's row, or of a sentence, after its method.
    named = set(
        re.findall(
            r"`(?:GET |POST |PUT )?(/(?:(?:api/|dashboard/|livez|readyz|startupz|metrics|openapi.json|ws)[^`?\s]*)?)",
            text,
        )
    )
    assert named == served
