"""The API of real nodes: the documented requests with their shapes, and clients that mean harm."""

import base64
import http.client
import json
import shutil
import socket
import stat
import subprocess
import threading

import pytest

PEER_FIELDS = {
    "id", "enode", "client", "direction", "path", "transport", "addr", "ip", "port", "since", "connected_s", "latency_ms",
    "bytes_sent", "bytes_received", "messages_sent", "messages_received", "trust", "priority", "static", "pair",
}  # fmt: skip
STATS_FIELDS = {
    "total_peers", "inbound", "outbound", "bytes_sent", "bytes_received", "messages_per_second", "average_latency_ms",
}  # fmt: skip


@pytest.fixture(scope="module")
def trio(shared_nodes):
    return shared_nodes.trio()


def curl(*arguments: str) -> str:
    """What the real curl prints."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, timeout=30).stdout.decode()


def call(node, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(*node.api.split(":"), timeout=30)
    sent = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, None if body is None else json.dumps(body), sent | headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def get(node, path: str) -> dict:
    status, answer = call(node, "GET", path)
    assert status == 200, answer
    return answer


def test_the_documented_curl_lines_answer_in_the_documented_shapes(trio, eventually):
    base = f"http://localhost:{trio[0].api.split(':')[1]}"
    peers = json.loads(curl(f"{base}/api/network/peers"))
    assert peers["count"] == len(peers["peers"]) == 2
    assert all(set(peer) == PEER_FIELDS for peer in peers["peers"])

    stats = json.loads(curl(f"{base}/api/network/stats"))
    assert set(stats) >= STATS_FIELDS
    assert stats["total_peers"] == stats["inbound"] + stats["outbound"] == 2

    eventually(lambda: json.loads(curl(f"{base}/api/network/latency"))["average_latency_ms"])
    measured = json.loads(curl(f"{base}/api/network/latency"))["peers"]
    assert {entry["id"] for entry in measured} == {node.id for node in trio[1:]}
    assert all(set(entry) >= {"last_ms", "average_ms", "min_ms", "max_ms", "loss"} for entry in measured)

    sorted_peers = json.loads(curl(f"{base}/api/network/peers?sort=latency"))["peers"]
    assert [peer["latency_ms"] for peer in sorted_peers] == sorted(peer["latency_ms"] for peer in sorted_peers)

    assert json.loads(curl("-X", "POST", f"{base}/api/network/rediscover"))["started"] is True

    asked = json.loads(curl(f"http://localhost:{trio[1].api.split(':')[1]}/api/network/bootstrap"))["bootstrap"]
    assert [(node["enode"], node["state"], node["last_error"]) for node in asked] == [(trio[0].enode, "answered", None)]
    assert asked[0]["rtt_ms"] > 0


def test_the_documented_disconnect(trio, eventually):
    peer = trio[2].id
    answer = curl("-X", "POST", f"http://localhost:{trio[0].api.split(':')[1]}/api/network/disconnect/{peer}")
    assert json.loads(answer) == {"id": peer, "disconnected": True}
    assert call(trio[0], "POST", "/api/network/connect", {"target": trio[2].enode})[1]["outcome"] in (
        "connected",
        "already_connected",
    )
    eventually(lambda: get(trio[0], "/api/network/peers")["count"] == 2)


def test_status_routing_enode_and_nat(trio):
    status = get(trio[0], "/api/network/status")
    assert status["listeners"]["api"] == [trio[0].api, f"unix:{trio[0].datadir}/api.sock"]
    assert (status["state"], status["pid"]) == ("ready", trio[0].process.pid)
    assert get(trio[0], "/api/network/enode")["enode"] == trio[0].enode
    table = get(trio[0], "/api/network/routing")
    assert sorted(node for bucket in table["buckets"] for node in bucket["nodes"]) == sorted(n.id for n in trio[1:])
    assert get(trio[0], "/api/network/nat")["reachable_tcp"] is None


def test_connect_says_why_not(trio):
    somebody = "11" * 32
    _, mismatch = call(trio[0], "POST", "/api/network/connect", {"target": f"enode://{somebody}@{port_of(trio[1])}"})
    assert mismatch["outcome"] == "identity_mismatch"
    assert call(trio[0], "POST", "/api/network/connect", {"target": trio[0].enode})[1]["outcome"] == "self"
    status, problem = call(trio[0], "POST", "/api/network/connect", {"target": "nonsense"})
    assert (status, problem["code"], problem["exit"]) == (400, "bad_target", 2)


def port_of(node) -> str:
    return node.ready["listeners"]["tcp"]


def test_a_transaction_arrives_in_the_events_of_the_others(trio):
    since = get(trio[2], "/api/events")["next"]
    arrived: list[dict] = []

    def poll() -> None:
        arrived.append(get(trio[2], f"/api/events?since={since}&timeout=20"))

    poller = threading.Thread(target=poll)
    poller.start()
    body = {"type": "transaction", "payload": base64.b64encode(b"hello").decode()}
    status, sent = call(trio[0], "POST", "/api/network/broadcast", body)
    poller.join(25)
    assert (status, sent["mode"], sent["sent_to"]) == (200, "gossip", 2)
    (event,) = [event for event in arrived[0]["events"] if event["type"] == "transaction"]
    assert event["data"]["id"] == sent["id"]
    assert event["seq"] > since


def test_a_block_of_four_mebibytes_is_taken(trio):
    body = {"type": "block", "payload": base64.b64encode(bytes(4 * 1024 * 1024)).decode(), "mode": "flood"}
    assert call(trio[0], "POST", "/api/network/broadcast", body)[0] == 200
    body["payload"] = base64.b64encode(bytes(4 * 1024 * 1024 + 1)).decode()
    status, problem = call(trio[0], "POST", "/api/network/broadcast", body)
    assert (status, problem["code"]) == (400, "payload_too_large")


def test_a_value_put_on_one_node_is_found_by_another(trio):
    value = base64.b64encode(b"\x00value").decode()
    status, put = call(trio[0], "PUT", "/api/dht/a%20key", {"value": value, "ttl_s": 600})
    assert (status, put["stored"] >= 1) == (200, True)
    assert [record["value"] for record in get(trio[2], "/api/dht/a%20key")["records"]] == [value]
    assert call(trio[2], "GET", "/api/dht/other")[1]["code"] == "value_not_found"


def test_a_node_is_found_with_the_way_there(trio):
    found = get(trio[1], f"/api/dht/nodes/{trio[2].id}")
    assert found["found"] is True
    assert found["closest"][0]["id"] == trio[2].id
    assert found["trace"]


def test_probes(trio):
    for probe in ("/livez", "/readyz", "/startupz"):
        assert get(trio[0], probe)["ok"] is True


def test_the_unix_socket_is_private_and_asks_for_no_host(trio):
    path = trio[0].datadir / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    answer = json.loads(curl("--unix-socket", str(path), "http://any.name/api/network/enode"))
    assert answer["enode"] == trio[0].enode


def raw(node, request: bytes) -> bytes:
    host, port = node.api.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /api/network/peers HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403, "host_not_allowed"),
        (b"GET /api/network/peers HTTP/1.0\r\n\r\n", 403, "host_not_allowed"),
        (
            b"POST /api/node/stop HTTP/1.0\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n",
            403,
            "origin_not_allowed",
        ),
        (
            b"POST /api/network/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n",
            413,
            "body_too_large",
        ),
        (
            b"POST /api/network/connect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b" " * 1024 + b"\r\n") * 17,
            413,
            "body_too_large",
        ),
        (
            b"POST /api/network/connect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n\r\n",
            400,
            "incomplete_body",
        ),
        (
            b"POST /api/node/stop HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
            415,
            "media_type_not_supported",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, "malformed_request"),
        (b"GET /\xff\xfe%ff%zz HTTP/1.0\r\nHost: localhost\r\n\r\n", 404, "route_not_found"),
        (b"GET /../../etc/passwd HTTP/1.0\r\nHost: localhost\r\n\r\n", 404, "route_not_found"),
        (b"TRACE / HTTP/1.0\r\nHost: localhost\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /api/events?since=%00&timeout=1e999 HTTP/1.0\r\nHost: localhost\r\n\r\n", 400, "usage"),
    ],
)
def test_hostile_requests_get_a_problem_and_nothing_else(trio, request_, status, code):
    head, _, body = raw(trio[0], request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    problem = json.loads(body)
    assert (problem["code"], problem["status"]) == (code, status)
    assert b"Traceback" not in body
    assert get(trio[0], "/livez")["ok"] is True


def test_the_log_shows_no_traceback(trio):
    assert all("Traceback" not in node.log.read_text() for node in trio)
