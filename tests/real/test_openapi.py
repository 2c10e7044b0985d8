"""/openapi.json: valid, complete, cached, and true of a running node."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from http_requests import ask
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from kodectl.api.network import MAX_BROADCAST_BODY
from kodectl.api.openapi import description, document
from kodectl.api.problems import STATUS_OF_BRANCH, STATUS_OF_CODE
from kodectl.api.routes import ROUTES
from kodectl.api.routing import Media, Route
from kodectl.cli.explanations import EXPLANATIONS
from kodectl.node.views import PeersView

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def described() -> dict:
    return json.loads(description().content)


@pytest.fixture(scope="module")
def node(shared_nodes):
    return shared_nodes.start("a")


def test_it_is_a_valid_document(described):
    validate(described)


def test_it_has_every_route_with_summary_parameters_and_answers(described):
    operations = {
        (method.upper(), path): operation
        for path, entry in described["paths"].items()
        for method, operation in entry.items()
        if method != "parameters"
    }
    assert set(operations) == {(route.method, route.path) for route in ROUTES}
    assert len({operation["operationId"] for operation in operations.values()}) == len(ROUTES)
    for route in ROUTES:
        operation = operations[route.method, route.path]
        assert operation["summary"].endswith("."), route.path
        assert {parameter["name"] for parameter in operation.get("parameters", ())} == {
            parameter.name for parameter in route.query
        }
        assert {str(status) for status in route.answers} <= set(operation["responses"])


def test_limits_are_those_that_are_checked(described):
    events = described["paths"]["/api/events"]["get"]
    timeout = next(parameter for parameter in events["parameters"] if parameter["name"] == "timeout")
    assert (timeout["schema"]["minimum"], timeout["schema"]["maximum"]) == (0, 60)
    connect = described["components"]["schemas"]["ConnectBody"]
    assert connect["properties"]["timeout_s"]["maximum"] == 60
    assert (
        described["components"]["schemas"]["BroadcastBody"]["properties"]["payload"]["maxLength"] < MAX_BROADCAST_BODY
    )


def test_an_answer_has_all_its_fields_and_a_body_its_defaults(described):
    peer = described["components"]["schemas"]["PeerView"]
    assert set(peer["required"]) == set(peer["properties"])
    assert described["components"]["schemas"]["ConnectBody"]["required"] == ["target"]


def test_every_code_is_explained_and_stands_under_its_status(described):
    statuses = {status for _, status in STATUS_OF_BRANCH} | {500}
    for entry in described["paths"].values():
        for method, operation in entry.items():
            for status, response in operation["responses"].items() if method != "parameters" else ():
                problem = response.get("content", {}).get("application/problem+json")
                for code in problem["schema"]["allOf"][1]["properties"]["code"]["enum"] if problem else ():
                    assert code in EXPLANATIONS
                    assert STATUS_OF_CODE.get(code, int(status)) == int(status)
                    assert int(status) in statuses | set(STATUS_OF_CODE.values())


def test_a_route_that_is_no_json_is_described_by_its_media_type():
    def page(service, call):
        """The page."""

    route = Route("GET", "/page/{key}", page, {200: Media("text/html", "A page.")})
    operation = document([route])["paths"]["/page/{key}"]["get"]
    assert operation["responses"]["200"] == {"description": "A page.", "content": {"text/html": {}}}
    assert "route_not_found" in operation["responses"]["404"]["description"]


def test_it_is_served_once_to_a_client_that_keeps_it(node):
    first, body = ask(node, "/openapi.json")
    assert (first.status, body) == (200, description().content)
    again, nothing = ask(node, "/openapi.json", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status, nothing) == (304, b"")
    other, body = ask(node, "/openapi.json", **{"If-None-Match": '"0"'})
    assert (other.status, body) == (200, description().content)


def test_head_is_served_wherever_get_is(node):
    response, body = ask(node, "/api/network/peers", "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 10


def test_the_schema_of_an_answer_refuses_another_one(described):
    """The checks against a node below mean nothing if the schemas take everything."""
    schema = {"$ref": f"#/components/schemas/{PeersView.__name__}", "components": described["components"]}
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"peers": [], "count": 0})
    assert not validator.is_valid({"peers": [], "count": "0"})
    assert not validator.is_valid({"peers": [{}], "count": 1})


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(("--phases", "coverage", "--generation-deterministic"), id="short"),
        pytest.param(
            ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "100"),
            id="long",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_running_node_does_what_the_document_says(node, tmp_path, profile):
    """schemathesis: requests made from the description, good and bad ones, unsupported methods and media types; every
    answer must be one that is described. Stopping the node is left out."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{node.api}/openapi.json"),
        *("--checks", "all", *profile),
        *("--exclude-path", "/api/node/stop", "--exclude-path", "/ws", "--continue-on-failure"),
        *("--no-color", "--warnings", "off"),
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) >= len(ROUTES) - 3
    assert "Traceback" not in node.log.read_text()
