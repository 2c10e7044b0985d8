"""The firewall of this machine: whether it drops anything, and the command that lets something through.

Only root may read it; for others the command is for the tool that is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

READ_LIMIT_S = 2.0
Tool = Literal["ufw", "firewalld", "nftables", "unknown"]
FAMILIES = ("inet", "ip", "ip6")
"""Of nftables, those that filter what a node sends and gets."""


class Chain(NamedTuple):
    family: str
    table: str
    name: str
    hook: str

    def insert(self, rule: str) -> str:
        return f"nft insert rule {self.family} {self.table} {self.name} {rule} accept"


class Firewall(NamedTuple):
    """`chains`: those that drop something; meaningful for nftables only."""

    tool: Tool
    chains: tuple[Chain, ...] = ()
    prefix: str = ""
    """Before every command."""

    def let_in(self, transport: str, port: int) -> str | None:
        """The command; None where this machine keeps nothing out."""
        if self.tool == "ufw":
            return f"{self.prefix}ufw allow {port}/{transport}"
        if self.tool == "firewalld":
            return f"{self.prefix}firewall-cmd --add-port={port}/{transport}"
        return self._insert("input", f"{transport} dport {port}")

    def let_out(self, transport: str) -> str | None:
        if self.tool == "ufw":
            return f"{self.prefix}ufw allow out proto {transport} to any"
        if self.tool == "firewalld":
            return f"{self.prefix}firewall-cmd --direct --add-rule ipv4 filter OUTPUT 0 -p {transport} -j ACCEPT"
        return self._insert("output", f"meta l4proto {transport}")

    def _insert(self, hook: str, rule: str) -> str | None:
        if self.tool == "unknown":
            return self.prefix + Chain("inet", "filter", hook, hook).insert(rule)
        return "; ".join(self.prefix + chain.insert(rule) for chain in self.chains if chain.hook == hook) or None


def find_firewall() -> Firewall:
    """Blocks for as long as the kernel takes to tell its rules."""
    rules = _ruleset() if os.geteuid() == 0 else None
    if rules is not None:
        return firewall_of(rules)
    prefix = "" if os.geteuid() == 0 else "sudo "
    installed: dict[str, Tool] = {"ufw": "ufw", "firewall-cmd": "firewalld"}
    found = [tool for program, tool in installed.items() if shutil.which(program)]
    return Firewall(found[0] if found else "unknown", prefix=prefix)


def _ruleset() -> list[dict[str, Any]] | None:
    try:
        command = ["nft", "--json", "list", "ruleset"]
        done = subprocess.run(command, capture_output=True, timeout=READ_LIMIT_S, check=True)
        rules: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None
    return rules


def firewall_of(rules: list[dict[str, Any]]) -> Firewall:
    """`rules`: what `nft --json list ruleset` lists."""
    if any(entry["table"].get("name") == "firewalld" for entry in rules if "table" in entry):
        return Firewall("firewalld")
    if any(str(entry["chain"].get("name")).startswith("ufw") for entry in rules if "chain" in entry):
        return Firewall("ufw")
    return Firewall("nftables", tuple(_dropping(rules)))


def _dropping(rules: list[dict[str, Any]]) -> Iterator[Chain]:
    strict = {
        (rule.get("family"), rule.get("table"), rule.get("chain"))
        for entry in rules
        if (rule := entry.get("rule")) and any(_may_drop(statement) for statement in rule.get("expr", ()))
    }
    for entry in rules:
        chain = entry.get("chain", {})
        place = (chain.get("family"), chain.get("table"), chain.get("name"))
        if chain.get("type") != "filter" or chain.get("family") not in FAMILIES:
            continue
        if chain.get("policy") == "drop" or place in strict:
            family, table, name, hook = (str(chain.get(key)) for key in ("family", "table", "name", "hook"))
            yield Chain(family, table, name, hook)


def _may_drop(statement: dict[str, Any]) -> bool:
    """What jumps elsewhere may be dropped there."""
    return any(verdict in statement for verdict in ("drop", "reject", "jump", "goto"))
