"""/metrics of real nodes, judged by Prometheus' own tools."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import gevent
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from kodectl.node.hub_delay import HubDelay
from kodectl.runtime.green import GreenRuntime

OPERATING = Path(__file__).parents[2] / "docs/operating.md"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
ID_OR_ADDRESS = re.compile(r"[0-9a-f]{16}|\d+\.\d+\.\d+\.\d+")
MOST_SERIES = 400
"""A node without a peer has 190; what remains is for outcomes that have not come up yet."""


@pytest.fixture(scope="module")
def trio(shared_nodes):
    return shared_nodes.trio()


def ask(node, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*node.api.split(":"), timeout=30)
    sent = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, None if body is None else json.dumps(body), sent | headers)
    response = connection.getresponse()
    answer = response.status, response.headers["Content-Type"], response.read().decode()
    connection.close()
    return answer


def scrape(node) -> str:
    status, media_type, text = ask(node, "GET", "/metrics")
    assert (status, media_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return text


def samples(node) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels."""
    found = {}
    for family in text_string_to_metric_families(scrape(node)):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(node, name: str, **labels: str) -> float:
    return samples(node).get((name, tuple(sorted(labels.items()))), 0.0)


def test_promtool_finds_nothing_to_say(trio):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", "check", "metrics"], input=scrape(trio[0]).encode(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_other_form_is_whole_too(trio):
    status, media_type, text = ask(trio[0], "GET", "/metrics", Accept=OPEN_METRICS)
    assert status == 200
    assert media_type.startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics_parser.text_string_to_metric_families(text)}
    assert {"kodectl_peers", "kodectl_link_bytes", "kodectl_hub_delay_seconds", "process_cpu_seconds"} <= families


def test_no_label_is_a_strangers_choice(trio):
    found = samples(trio[0])
    assert not [key for key in found if ID_OR_ADDRESS.search(str(key[1]))]
    ask(trio[0], "GET", "/one/two")
    ask(trio[0], "BREW", "/livez")
    ask(trio[0], "POST", f"/api/network/disconnect/{'ab' * 32}")
    after = {key for key in samples(trio[0]) if key[0] == "kodectl_api_requests_total"}
    labels = [dict(key[1]) for key in after]
    assert {"method": "GET", "route": "other", "status": "404"} in labels
    assert {"method": "POST", "route": "/api/network/disconnect/{peer_id}", "status": "404"} in labels
    assert {label["method"] for label in labels} <= {"GET", "POST", "other"}
    assert len(samples(trio[0])) < MOST_SERIES


def test_counters_follow_what_happens(trio, eventually):
    first, second = trio[0], trio[1]
    before = samples(first)
    assert sum(count for (name, _), count in before.items() if name == "kodectl_peers") == 2
    assert value(second, "kodectl_dials_total", outcome="connected") >= 1
    assert value(first, "kodectl_inbound_connections_total", outcome="accepted") >= 1
    assert value(first, "kodectl_peer_round_trip_seconds_count") >= 2

    payload = base64.b64encode(os.urandom(5000)).decode()
    assert ask(first, "POST", "/api/network/broadcast", {"type": "transaction", "payload": payload})[0] == 200
    eventually(lambda: value(second, "kodectl_broadcast_total", event="accepted") == 1)
    assert value(first, "kodectl_broadcast_total", event="published") == 1
    assert value(first, "kodectl_events_total") > before["kodectl_events_total", ()]
    sent = "kodectl_link_bytes_total"
    assert value(first, sent, way="sent") >= before[sent, (("way", "sent"),)] + 5000
    asked = value(first, "kodectl_api_requests_total", method="GET", route="/metrics", status="200")
    assert value(first, "kodectl_api_requests_total", method="GET", route="/metrics", status="200") == asked + 1
    lookups = value(second, "kodectl_dht_lookups_total")
    ask(second, "GET", f"/api/dht/nodes/{first.id}")
    assert value(second, "kodectl_dht_lookups_total") > lookups


def test_the_documentation_has_every_metric_as_it_is_told(trio):
    ask(trio[0], "GET", "/nothing/there")
    text = OPERATING.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(kodectl_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.+) \|$", text, re.MULTILINE)
    written = {name: (type_, what) for name, type_, _, what in rows}
    labels = {name: set(filter(None, names.split(", "))) for name, _, names, _ in rows}
    told = {}
    for family in text_string_to_metric_families(scrape(trio[0])):
        if not family.name.startswith("kodectl_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told[name] = family.type, family.documentation
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[name], name
    assert written == told


def test_the_process_is_measured(trio):
    found = samples(trio[0])
    assert found["process_resident_memory_bytes", ()] > 10e6
    assert found["process_open_fds", ()] > 5
    assert found["kodectl_tasks", ()] > 5
    assert found["kodectl_ready", ()] == 1
    assert found["kodectl_hub_delay_seconds_count", ()] > 0
    stats = json.loads(ask(trio[0], "GET", "/api/network/stats")[2])
    assert stats["hub_delay_p99_ms"] >= 0


def test_a_hub_that_is_held_up_is_measured():
    runtime = GreenRuntime()
    scope = runtime.scope("test")
    delay = HubDelay(runtime)
    assert (delay.worst(), delay.p99()) == (None, None)
    scope.spawn("hub delay", delay.measure, scope)
    gevent.sleep(0.2)
    assert delay.worst() is not None
    assert delay.worst() is None
    time.sleep(0.3)  # of the whole thread: that is the fault to be measured
    gevent.sleep(0.1)
    worst = delay.worst()
    assert worst is not None
    assert worst >= 0.2
    assert delay.p99() == worst
    assert delay.histogram.cumulative()[-1][1] - dict(delay.histogram.cumulative())[0.1] >= 1
    assert runtime.task_count() == 1
    scope.close()
    assert scope.join(1.0) == []
    assert runtime.task_count() == 0
    runtime.close()
