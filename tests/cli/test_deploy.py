"""What deploy/ has for service managers, containers and monitoring, judged by their own tools and schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from http_requests import ask
from prometheus_client.parser import text_string_to_metric_families

import kodectl
from kodectl.cli.configuration import BY_KEY, load_configuration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
KUBERNETES = "1.30"
METRIC = re.compile(r"\b(?:up|(?:kodectl|process|python)_[a-z_]+)\b")
MOST_EXPOSED = 1.5
"""Of systemd's scale from 0 to 10; an ordinary service has 9.2."""


def judged(*command: str | Path, cwd: Path = ROOT) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# -- Prometheus and Grafana --------------------------------------------------------------------------------------------


def test_prometheus_takes_rules_and_configuration() -> None:
    judged("promtool", "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "kodectl-alerts.yml")
    judged("promtool", "check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")


def test_each_alert_is_raised_when_it_should_be_and_none_by_a_healthy_node() -> None:
    judged("promtool", "test", "rules", "kodectl-alerts.test.yml", cwd=PROMETHEUS)
    tested = yaml.safe_load((PROMETHEUS / "kodectl-alerts.test.yml").read_text())["tests"]
    raised = {case["alertname"] for test in tested for case in test["alert_rule_test"] if "exp_alerts" in case}
    quiet = {case["alertname"] for test in tested for case in test["alert_rule_test"] if "exp_alerts" not in case}
    assert raised == quiet == {rule["alert"] for rule in rules()}


def test_the_guide_says_what_to_do_for_each_alert() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(Kodectl\w+)` \|", text, re.MULTILINE) == [rule["alert"] for rule in rules()]


def rules() -> list[dict[str, Any]]:
    return yaml.safe_load((PROMETHEUS / "kodectl-alerts.yml").read_text())["groups"][0]["rules"]


def queries() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/kodectl.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    listed = [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    return [*asked, *listed, *(rule["expr"] for rule in rules())]


def test_every_query_asks_for_what_a_node_tells(nodes) -> None:
    node = nodes.start("a")
    done = nodes.kodectl("api", "GET", "/metrics", "--datadir", str(node.datadir))
    assert done.returncode == 0, done.stderr
    told = {"up": "of Prometheus itself"}
    for family in text_string_to_metric_families(done.stdout.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told |= {name: family.type}
        if family.type == "histogram":
            told |= {f"{name}_{part}": "histogram" for part in ("bucket", "sum", "count")}
    for query in queries():
        names = METRIC.findall(query)
        assert names, query
        assert set(names) <= set(told), query
        counters = [name for name in names if told[name] in ("counter", "histogram")]
        assert not counters or re.search(r"\b(rate|increase)\(", query), query


def test_no_panel_hides_another() -> None:
    panels = json.loads((DEPLOY / "grafana/kodectl.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


# -- systemd -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With a program that is there."""
    text = (DEPLOY / "systemd/kodectl.service").read_text()
    assert "ExecStart=/usr/local/bin/kodectl node run\n" in text
    unit = tmp_path / "kodectl.service"
    unit.write_text(text.replace("/usr/local/bin/kodectl", sys.executable))
    return unit


def test_systemd_finds_nothing_to_say_about_the_unit(unit: Path) -> None:
    assert judged("systemd-analyze", "verify", "--man=no", unit) == ""


def test_the_unit_is_locked_up(unit: Path) -> None:
    said = judged("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert level is not None
    assert float(level[1]) <= MOST_EXPOSED


# -- containers --------------------------------------------------------------------------------------------------------


def settings_hold(environment: dict[str, str]) -> None:
    configuration = load_configuration(None, environment)
    for name in environment:
        key = name.removeprefix("KODECTL_").lower()
        assert key in BY_KEY, name
        configuration.get(key)


def test_compose_takes_the_five_nodes_and_the_nodes_their_settings() -> None:
    path = DEPLOY / "compose/compose.yaml"
    judged(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    services = yaml.safe_load(path.read_text())["services"]
    assert len(services) == 5
    assert len({tuple(service["volumes"]) for service in services.values()}) == 5
    for service in services.values():
        assert service["image"] == f"kodectl:{kodectl.__version__}"
        settings_hold(service["environment"])
    assert "@node1:" in services["node5"]["environment"]["KODECTL_BOOTSTRAP"]


def test_kubernetes_takes_the_manifests_and_the_nodes_their_settings() -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes/kodectl.yaml").read_text()))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    of_kind = {manifest["kind"]: manifest for manifest in manifests}
    pod = of_kind["StatefulSet"]["spec"]["template"]["spec"]
    node = pod["containers"][0]
    values = {one["name"]: one["value"] for one in node["env"] if "value" in one}
    in_a_pod = {"POD_IP": "10.1.2.3", "NAMESPACE": "default"}
    for name, value in values.items():
        values[name] = re.sub(r"\$\((\w+)\)", lambda found: in_a_pod[found[1]], value)
    assert values["KODECTL_NAT"] == "extip:10.1.2.3"
    settings_hold(values)
    headless = of_kind["Service"]
    assert headless["spec"]["clusterIP"] == "None"
    assert of_kind["StatefulSet"]["spec"]["serviceName"] == headless["metadata"]["name"]
    assert f"@kodectl-0.{headless['metadata']['name']}.default.svc:" in values["KODECTL_BOOTSTRAP"]
    assert {port["port"] for port in headless["spec"]["ports"]} == {port["containerPort"] for port in node["ports"]}
    uid = re.search(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert uid is not None
    assert pod["securityContext"]["runAsUser"] == int(uid[1])
    assert {node["image"], pod["initContainers"][0]["image"]} == {f"kodectl:{kodectl.__version__}"}


def test_a_pod_gets_its_token_as_a_node_wants_it(tmp_path: Path, nodes) -> None:
    """By the very command of the init container."""
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes/kodectl.yaml").read_text())
    pod = next(one for one in manifests if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("ab" * 32)
    (secret / "token").chmod(0o644)
    *shell, script = pod["initContainers"][0]["command"]
    datadir = tmp_path / "in-a-pod"
    script = script.replace("/run/kodectl-api", str(secret))
    subprocess.run([*shell, script], env={"KODECTL_DATADIR": str(datadir), "PATH": "/usr/bin:/bin"}, check=True)
    node = nodes.start("in-a-pod", "--api-token", "required")
    assert node.datadir == datadir
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = pod["containers"][0][probe]["httpGet"]
        assert asked["port"] in ports
        response, _ = ask(node, asked["path"], **{"User-Agent": "kube-probe/1.33", "Connection": "close"})
        assert response.status == 200
    assert ask(node, "/api/network/status")[0].status == 401
