"""From findings to the first cause: chains, circles, gravity, order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.cli.doctor import CHECKS
from kodectl.core.diagnosis import FOLLOWS_FROM, ORDER, Finding, State, diagnose

FAILED, WARNING, UNKNOWN = State.FAILED, State.WARNING, State.UNKNOWN


def found(check: str, state: State, code: str | None = None) -> Finding:
    return Finding(check, state, f"{check} is {state.name}", code)


def root_of(*findings: Finding) -> str | None:
    """Of the findings in any order."""
    roots = {diagnosis.root and diagnosis.root.check for diagnosis in map(diagnose, itertools.permutations(findings))}
    assert len(roots) == 1
    return roots.pop()


def test_where_all_is_well_there_is_no_cause():
    diagnosis = diagnose([found("dns", State.OK), found("cgnat", State.SKIPPED)])
    assert (diagnosis.root, diagnosis.causes, diagnosis.others, diagnosis.worst) == (None, {}, [], State.OK)


NO_NETWORK = [
    found("addresses", FAILED, "no_network"),
    found("dns", FAILED, "name_not_resolved"),
    found("udp_egress", UNKNOWN),
    found("bootstrap", FAILED, "no_bootstrap_answered"),
]


def test_what_follows_is_no_cause_of_its_own():
    assert root_of(*NO_NETWORK) == "addresses"
    diagnosis = diagnose(NO_NETWORK)
    assert diagnosis.others == []
    assert diagnosis.causes == dict.fromkeys(("dns", "udp_egress", "bootstrap"), "addresses")
    assert diagnosis.consequences_of("addresses") == ["dns", "udp_egress", "bootstrap"]


def test_a_chain_leads_to_its_beginning():
    findings = [
        found("cgnat", WARNING, "cgnat"),
        found("nat_class", WARNING, "nat_symmetric"),
        found("inbound_udp", WARNING, "inbound_blocked"),
    ]
    assert root_of(*findings) == "cgnat"
    assert diagnose(findings).causes["inbound_udp"] == "cgnat"
    assert root_of(*findings[1:]) == "nat_class"


@pytest.mark.parametrize(
    ("first", "second", "root"),
    [
        (("udp_egress", "udp_blocked"), ("bootstrap", "no_bootstrap_answered"), "udp_egress"),
        (("clock", "clock_skew"), ("bootstrap", "identity_mismatch"), "clock"),
        (("ports", "port_in_use"), ("inbound_tcp", "inbound_blocked"), "ports"),
        (("ports", "address_not_available"), ("addresses", "address_not_available"), "ports"),
        (("disk", "disk_full"), ("node", "unhealthy"), "disk"),
        (("dns", "name_not_resolved"), ("bootstrap", "no_bootstrap_answered"), "dns"),
        (("port_mapping", "mapping_refused"), ("nat_class", "nat_not_forwarded"), "port_mapping"),
        (("bootstrap", "no_bootstrap_answered"), ("table", "table_empty"), "bootstrap"),
    ],
)
def test_of_two_the_one_that_brings_the_other_is_the_cause(first, second, root):
    assert root_of(found(first[0], FAILED, first[1]), found(second[0], FAILED, second[1])) == root


def test_what_is_unknown_explains_nothing():
    findings = [found("udp_egress", UNKNOWN, "udp_blocked"), found("bootstrap", FAILED, "no_bootstrap_answered")]
    assert root_of(*findings) == "bootstrap"
    assert diagnose(findings).causes == {"udp_egress": "bootstrap"}


def test_of_what_is_unknown_for_one_reason_the_first_speaks_for_all():
    findings = [found(check, UNKNOWN, "nat_unknown") for check in ("advertised_address", "nat_class", "inbound_tcp")]
    assert root_of(*findings) == "advertised_address"
    assert diagnose(findings).others == []
    other = found("table", UNKNOWN, "deadline")
    assert [one.check for one in diagnose([*findings, other]).others] == ["table"]
    assert [one.check for one in diagnose([found("clock", UNKNOWN), found("dns", UNKNOWN)]).others] == ["clock"]


def test_failures_come_before_warnings_and_these_before_what_is_unknown():
    grave = found("advertised_address", FAILED, "advertised_address_wrong")
    light, unclear = found("disk", WARNING, "disk_low"), found("clock", UNKNOWN)
    assert root_of(light, grave, unclear) == "advertised_address"
    assert [other.check for other in diagnose([unclear, light, grave]).others] == ["disk", "clock"]
    assert root_of(light, unclear) == "disk"


def test_a_warning_that_brings_a_failure_with_it_is_as_grave():
    dns, bootstrap = found("dns", WARNING, "name_not_resolved"), found("bootstrap", FAILED, "no_bootstrap_answered")
    advertised = found("advertised_address", FAILED, "advertised_address_wrong")
    assert root_of(dns, bootstrap, advertised) == "dns"
    assert diagnose([dns, bootstrap]).worst is State.FAILED


def test_of_two_independent_failures_the_earlier_check_comes_first():
    assert root_of(found("ports", FAILED, "port_in_use"), found("config", FAILED, "config_invalid")) == "config"


def test_the_table_names_checks_that_there_are():
    assert set().union(*FOLLOWS_FROM.values()) <= set(ORDER)
    assert tuple(CHECKS) == ORDER


CODES = [None, "internal_error", *FOLLOWS_FROM]
FINDINGS = st.lists(
    st.builds(found, st.sampled_from(ORDER), st.sampled_from(State), st.sampled_from(CODES)),
    unique_by=lambda finding: finding.check,
)


@given(FINDINGS)
def test_every_trouble_is_a_cause_or_comes_of_one(findings):
    diagnosis = diagnose(findings)
    roots = [diagnosis.root, *diagnosis.others] if diagnosis.root else []
    named = [root.check for root in roots]
    assert set(diagnosis.causes.values()) <= set(named)
    assert not set(diagnosis.causes) & set(named)
    assert {*diagnosis.causes, *named} == {finding.check for finding in findings if finding.state.is_trouble}
    assert diagnosis.worst == max((f.state for f in findings if f.state.is_trouble), default=State.OK)
