"""What a firewall of this machine drops, out of what nft lists, and the commands that end it."""

from __future__ import annotations

from typing import Any

import pytest

from kodectl.cli.firewall import Firewall, firewall_of


def chain(hook: str, policy: str = "accept", **other: Any) -> dict[str, Any]:
    return {
        "chain": {
            "family": "inet",
            "table": "mine",
            "name": f"my_{hook}",
            "type": "filter",
            "hook": hook,
            "policy": policy,
        }
        | other
    }


def rule(hook: str, *statements: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "mine", "chain": f"my_{hook}", "expr": list(statements)}}


def test_a_machine_that_drops_nothing_needs_no_command():
    for rules in ([], [chain("input"), rule("input", {"counter": None}, {"accept": None})]):
        firewall = firewall_of(rules)
        assert (firewall.let_in("udp", 30301), firewall.let_out("udp")) == (None, None)


@pytest.mark.parametrize(
    "rules",
    [
        [chain("input", "drop")],
        [chain("input"), rule("input", {"reject": {"type": "tcp reset"}})],
        [chain("input"), rule("input", {"jump": {"target": "elsewhere"}})],
    ],
)
def test_what_may_drop_gets_an_exception_before_all_others(rules):
    firewall = firewall_of([{"metainfo": {"version": "1"}}, *rules, chain("output")])
    assert firewall.let_in("tcp", 30303) == "nft insert rule inet mine my_input tcp dport 30303 accept"
    assert firewall.let_out("udp") is None


def test_every_chain_that_drops_gets_one():
    firewall = firewall_of([chain("output", "drop"), chain("output", "drop", table="other", name="out", family="ip")])
    expected = "nft insert rule inet mine my_output meta l4proto udp accept; nft insert rule ip other out meta l4proto udp accept"
    assert (firewall.let_out("udp"), firewall.let_in("udp", 1)) == (expected, None)


def test_chains_that_filter_nothing_of_this_machine_are_left_alone():
    """A router's forwarding, a translation, a bridge."""
    others = [chain("forward", "drop"), chain("input", "drop", type="nat"), chain("input", "drop", family="bridge")]
    assert firewall_of(others).let_in("udp", 1) is None


def test_tools_that_own_the_rules_are_used():
    assert firewall_of([{"table": {"family": "inet", "name": "firewalld"}}]).let_in("udp", 7) == (
        "firewall-cmd --add-port=7/udp"
    )
    ufw = firewall_of(
        [chain("input", "drop"), {"chain": {"family": "ip", "table": "filter", "name": "ufw-user-input"}}]
    )
    assert (ufw.let_in("tcp", 7), ufw.let_out("udp")) == ("ufw allow 7/tcp", "ufw allow out proto udp to any")


def test_who_may_not_read_the_rules_is_told_what_to_try():
    assert Firewall("unknown", prefix="sudo ").let_in("udp", 7) == (
        "sudo nft insert rule inet filter input udp dport 7 accept"
    )
