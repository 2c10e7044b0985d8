"""How the node itself is."""

from __future__ import annotations

from kodectl.core.diagnosis import Finding, State
from kodectl.node.patient import Patient

ANSWER_LIMIT_S = 6.0


def check_node(patient: Patient) -> Finding:
    """Of one that runs: whether it does so without complaint."""
    if not patient.is_running:
        return Finding("node", State.SKIPPED, "no node runs here; a stand-in with an identity of its own was examined")
    status = patient.until(lambda chart: chart.status.state == "ready", ANSWER_LIMIT_S).status
    details = {"state": status.state, "pid": status.pid, "warnings": status.warnings}
    if status.warnings:
        return Finding(
            "node",
            State.WARNING,
            f"it runs (process {status.pid}) and warns: {'; '.join(status.warnings)}",
            "unhealthy",
            "a node that warns goes on, and something of what it does is lost",
            "mend what it warns of; its log has more",
            "kodectl node health ready",
            details,
        )
    if status.state != "ready":
        return Finding(
            "node",
            State.WARNING,
            f"it runs (process {status.pid}), and is {status.state}",
            "unhealthy",
            details=details,
        )
    peers = "1 peer" if status.peers == 1 else f"{status.peers} peers"
    return Finding("node", State.OK, f"it runs (process {status.pid}) with {peers}", details=details)
