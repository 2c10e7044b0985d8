"""The NAT guide leaves out no verdict, kind, state or reason that the program can give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from kodectl.cli.explanations.nat import GATEWAYS
from kodectl.core.diagnosis import ORDER
from kodectl.core.nat import NatType, Verdict
from kodectl.core.nat_evidence import PortPattern, Why
from kodectl.node.probe_views import ProbeView
from kodectl.node.views import NatView, PortMappingView

GUIDE = (Path(__file__).parents[2] / "docs" / "nat-guide.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"`([a-z0-9_]+)`", GUIDE))
OF_COMMANDS = {"partly_mapped", "other_outer_port", "not_mapped"}
"""Codes of `nat map` and `nat unmap`, which say it themselves."""


def words_of(view: type, field: str) -> set[str]:
    """What a field of a view may say."""
    hint: Any = get_type_hints(view)[field]
    return {word for one in (hint, *get_args(hint)) for word in get_args(one) if isinstance(word, str)}


@pytest.mark.parametrize(
    "words",
    [
        {kind.value for kind in NatType},
        {verdict.value for verdict in Verdict} | words_of(NatView, "state"),
        words_of(ProbeView, "mapping") | words_of(ProbeView, "filtering"),
        {pattern.value for pattern in PortPattern},
        {why.value for why in Why},
        words_of(PortMappingView, "state"),
        set(GATEWAYS) - OF_COMMANDS,
        {"cgnat", "double_nat", "nat_symmetric", "nat_not_forwarded", "firewalled", "inbound_blocked", "nat_unknown"},
        {"udp_blocked", "advertised_address_wrong"},
    ],
    ids=["kinds", "verdicts", "behaviours", "patterns", "reasons", "mapping", "routers", "findings", "more findings"],
)
def test_every_word_is_explained(words: set[str]) -> None:
    assert words
    assert words - QUOTED == set()


def test_the_difficulties_are_those_of_the_probe() -> None:
    assert all(f"| {word}" in GUIDE for word in words_of(ProbeView, "difficulty"))


def test_the_checks_that_it_names_are_there() -> None:
    assert set(re.findall(r"--check (\S+)", GUIDE.replace("`", ""))) <= set(ORDER)


def test_its_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)", GUIDE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]*)\)", GUIDE):
        file, _, anchor = target.partition("#")
        assert not file or (Path(__file__).parents[2] / "docs" / file).exists(), target
        assert file or anchor in anchors, target
