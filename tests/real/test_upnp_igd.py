"""What the UPnP worker does with a router, the router being a script on loopback. No search, so nothing is multicast."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scripted_igd import (
    CONTROL,
    IP_SERVICE,
    PPP_SERVICE,
    Answer,
    HttpServer,
    ScriptedIgd,
    description,
    endless,
    fault,
    http,
    silence,
    soap,
    trickle,
)

from kodectl.errors import WireError
from kodectl.runtime import upnp_search
from kodectl.runtime.upnp_calls import Add, Entry, Malformed, Remove, Status
from kodectl.runtime.upnp_igd import ActionRefused, Igd, RouterSilent, map_port, unmap_port
from kodectl.runtime.upnp_search import choose, fetch
from kodectl.runtime.upnp_worker import answer_to
from kodectl.wire.upnp import MAX_BODY, Description, Service, Url

HOST = "192.168.1.7"
OTHER = "192.168.1.8"
LOOPBACK = "127.0.0.1"


@pytest.fixture
def router() -> Iterator[ScriptedIgd]:
    router = ScriptedIgd(LOOPBACK)
    yield router
    router.close()


@pytest.fixture
def igd(router: ScriptedIgd) -> Igd:
    return Igd(router.service)


def wish(external_port: int = 30303, *, internal_port: int = 30303, lease_s: int = 3600) -> Add:
    service = Service(IP_SERVICE, Url(LOOPBACK, 1, CONTROL))
    return Add(service, HOST, "tcp", internal_port, external_port, lease_s, "kodectl")


def removal(external_port: int = 30303) -> Remove:
    return Remove(wish().service, HOST, "tcp", external_port)


# --- mapping ---


def test_a_port_is_mapped_read_back_and_removed(igd: Igd, router: ScriptedIgd) -> None:
    given = map_port(igd, wish())
    assert (given.external_port, given.lease_s, given.external_ip) == (30303, 3600, "20.9.9.9")
    assert igd.entry(30303, "tcp") == Entry("tcp", 30303, HOST, 30303, 3600, "kodectl")
    assert igd.entry(30303, "udp") is None
    unmap_port(igd, removal())
    assert router.entries == {}
    assert router.names() == ["AddPortMapping", "DeletePortMapping"]


def test_port_0_is_the_inner_port(igd: Igd) -> None:
    assert map_port(igd, wish(0, internal_port=4000)).external_port == 4000


def test_what_was_ours_before_is_renewed(igd: Igd, router: ScriptedIgd) -> None:
    router.occupy(30303, "tcp", HOST, 30303)
    assert map_port(igd, wish()).lease_s == 3600
    assert router.names() == ["AddPortMapping"]


def test_what_was_ours_before_is_made_again_where_nothing_can_be_renewed(igd: Igd, router: ScriptedIgd) -> None:
    router.occupy(30303, "tcp", HOST, 30303)
    router.script["AddPortMapping"] = lambda arguments: fault(718) if router.entries else None
    assert map_port(igd, wish()).lease_s == 3600
    assert router.names() == ["AddPortMapping", "DeletePortMapping", "AddPortMapping"]


@pytest.mark.parametrize(("client", "internal_port"), [(OTHER, 30303), (HOST, 30304)])
def test_nobody_loses_his_port(igd: Igd, router: ScriptedIgd, client: str, internal_port: int) -> None:
    """Neither another host nor another program of this one, also where the router would let that happen."""
    router.occupy(30303, "tcp", client, internal_port)
    router.script["AddPortMapping"] = soap("AddPortMapping")
    with pytest.raises(ActionRefused) as refused:
        map_port(igd, wish())
    assert refused.value.number == 718
    assert router.names() == []


def test_nobody_elses_mapping_is_removed(igd: Igd, router: ScriptedIgd) -> None:
    router.occupy(30303, "tcp", OTHER, 30303)
    with pytest.raises(ActionRefused) as refused:
        unmap_port(igd, removal())
    assert refused.value.number == 718
    assert router.names() == []


def test_removing_what_is_not_there_is_no_error(igd: Igd, router: ScriptedIgd) -> None:
    unmap_port(igd, removal())
    router.occupy(30303, "tcp", HOST, 30303)
    router.script["DeletePortMapping"] = fault(714)
    unmap_port(igd, removal())


@pytest.mark.parametrize("number", [725, 402, 501])
def test_a_router_of_permanent_leases_gets_one(igd: Igd, router: ScriptedIgd, number: int) -> None:
    def answer(arguments: dict[str, str]) -> bytes | None:
        return None if arguments["NewLeaseDuration"] == "0" else fault(number)

    router.script["AddPortMapping"] = answer
    assert map_port(igd, wish()).lease_s == 0


@pytest.mark.parametrize("number", [725, 402, 501])
def test_a_router_that_refuses_that_too_is_not_asked_for_ever(igd: Igd, router: ScriptedIgd, number: int) -> None:
    router.script["AddPortMapping"] = fault(number)
    with pytest.raises(ActionRefused) as refused:
        map_port(igd, wish())
    assert refused.value.number == number
    assert len(router.names()) == 2


def test_a_router_that_wants_the_same_port_inside_and_outside_gets_that(igd: Igd, router: ScriptedIgd) -> None:
    def answer(arguments: dict[str, str]) -> bytes | None:
        return None if arguments["NewExternalPort"] == arguments["NewInternalPort"] else fault(724)

    router.script["AddPortMapping"] = answer
    assert map_port(igd, wish(40000)).external_port == 30303


@pytest.mark.parametrize("number", [401, 606, 715, 716, 718, 726, 727, 728, 729, 731, 732, 733])
def test_a_refusal_keeps_its_number(igd: Igd, router: ScriptedIgd, number: int) -> None:
    router.script["AddPortMapping"] = fault(number)
    with pytest.raises(ActionRefused) as refused:
        map_port(igd, wish())
    assert refused.value.number == number


def test_an_error_of_the_makers_own_has_no_number(igd: Igd, router: ScriptedIgd) -> None:
    router.script["AddPortMapping"] = fault(899)
    with pytest.raises(ActionRefused) as refused:
        map_port(igd, wish())
    assert refused.value.number is None


def test_a_router_of_version_2_chooses_another_port(router: ScriptedIgd) -> None:
    router.occupy(30303, "tcp", OTHER, 30303)
    router.script["AddAnyPortMapping"] = soap("AddAnyPortMapping", NewReservedPort=40404)
    given = map_port(Igd(router.service_2), wish())
    assert (given.external_port, given.lease_s) == (40404, 3600), "and it gets an end, which the library cannot ask for"
    assert router.names() == ["AddAnyPortMapping", "AddPortMapping"]


def test_a_router_of_version_2_is_not_led_to_take_our_own_port(router: ScriptedIgd) -> None:
    router.occupy(30303, "tcp", HOST, 30304)
    with pytest.raises(ActionRefused):
        map_port(Igd(router.service_2), wish())
    assert router.names() == []


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_chosen_port_that_is_none_is_nonsense(router: ScriptedIgd, port: str) -> None:
    router.occupy(30303, "tcp", OTHER, 30303)
    router.script["AddAnyPortMapping"] = soap("AddAnyPortMapping", NewReservedPort=port)
    with pytest.raises(WireError):
        map_port(Igd(router.service_2), wish())


def test_a_success_without_a_mapping_is_not_hidden(igd: Igd, router: ScriptedIgd) -> None:
    """To the library any answer without an error number is a success: a page of the router's, say."""
    router.script["AddPortMapping"] = http(b"<html>not found</html>", status="404 Not Found")
    map_port(igd, wish())
    assert igd.entry(30303, "tcp") is None


# --- reading ---


def test_all_mappings_are_listed_once(igd: Igd, router: ScriptedIgd) -> None:
    router.occupy(1, "tcp", HOST, 2)
    router.occupy(1, "udp", OTHER, 3, text="game")
    assert igd.entries() == [Entry("tcp", 1, HOST, 2, 60, "other"), Entry("udp", 1, OTHER, 3, 60, "game")]


def test_an_endless_list_ends(igd: Igd, router: ScriptedIgd) -> None:
    def another(arguments: dict[str, str]) -> bytes:
        index = int(arguments["NewPortMappingIndex"])
        return soap("X", NewExternalPort=index + 1, NewProtocol="UDP", NewInternalClient=HOST, NewInternalPort=1)

    router.script["GetGenericPortMappingEntry"] = another
    assert len(igd.entries()) == 256
    same = soap("X", NewExternalPort=1, NewProtocol="UDP", NewInternalClient=HOST, NewInternalPort=1)
    router.script["GetGenericPortMappingEntry"] = same
    router.actions.clear()
    assert len(igd.entries()) == 1
    assert len(router.actions) == 2, "the first that comes again ends it"


def test_an_entry_whose_text_is_cut_within_a_character_harms_no_other(igd: Igd, router: ScriptedIgd) -> None:
    router.occupy(1, "tcp", OTHER, 2, text="x" * 78 + "é")
    router.occupy(2, "tcp", HOST, 2)
    assert [entry.external_port for entry in igd.entries()] == [2]
    assert igd.entry(1, "tcp") == Entry("tcp", 1, "", 0, 0, "")


@pytest.mark.parametrize(("text", "ip"), [("20.1.2.3", "20.1.2.3"), ("", None), ("0.0.0.0", None)])
def test_the_outer_address_is_told_or_not(igd: Igd, router: ScriptedIgd, text: str, ip: str | None) -> None:
    router.external_ip = text
    assert igd.external_ip() == ip
    router.script["GetExternalIPAddress"] = fault(501)
    assert igd.external_ip() is None


def test_an_outer_address_that_is_none_is_nonsense(igd: Igd, router: ScriptedIgd) -> None:
    router.external_ip = "<b>evil"
    with pytest.raises(WireError):
        igd.external_ip()


def test_text_that_is_none_is_nonsense(router: ScriptedIgd) -> None:
    router.external_ip = "\udcff"
    assert answer_to(Status(router.service)) == Malformed("the router answers with text that is none")


def test_a_router_that_does_not_tell_its_uptime_is_a_router(igd: Igd, router: ScriptedIgd) -> None:
    assert igd.uptime_s() == 1000
    router.uptime_s = "for long"
    assert igd.uptime_s() is None
    router.script["GetStatusInfo"] = fault(401)
    assert igd.uptime_s() is None


def test_a_router_that_has_gone_is_silent_in_every_question(igd: Igd, router: ScriptedIgd) -> None:
    router.close()
    questions: list[Callable[[], object]] = [
        igd.uptime_s,
        igd.external_ip,
        igd.entries,
        lambda: igd.entry(1, "tcp"),
        lambda: map_port(igd, wish()),
        lambda: unmap_port(igd, removal()),
    ]
    for question in questions:
        with pytest.raises(RouterSilent):
            question()


def test_the_service_whose_line_is_up_is_chosen(router: ScriptedIgd) -> None:
    down = Service(PPP_SERVICE, router.server.url("/ppp"))
    found = Description("", (down, router.service))
    router.script["GetStatusInfo"] = lambda arguments: None if len(router.actions) > 1 else _status("Disconnected")
    assert choose(found)[0] == router.service
    router.script["GetStatusInfo"] = _status("Disconnected")
    assert choose(found)[0] == down, "the first, where none is"


def _status(status: str) -> bytes:
    return soap("GetStatusInfo", NewConnectionStatus=status, NewLastConnectionError="", NewUptime=1)


# --- descriptions ---

BIG = 10 * 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"

HOSTILE = {
    "ten megabytes": (http(b" " * BIG), "announces more"),
    "ten megabytes, unannounced": (http(b" " * BIG, length=False), "more than"),
    "no end": (endless(OK + b"\r\n"), "more than"),
    "no end of chunks": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 9000), "more than"),
    "a chunk of 16 MiB": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\n"), "more than"),
    "no end of headers": (endless(OK, b"X: y\r\n" * 9000), "head of more"),
    "one endless header": (endless(OK + b"X: "), "head of more"),
    "two gigabytes announced": (endless(OK + b"Content-Length: 2147483647\r\n\r\n"), "announces more"),
    "a length below zero": (OK + b"Content-Length: -1\r\n\r\n" + description(), "no number"),
    "two lengths": (http(description(), "Content-Length: 1"), "several"),
    "a length that is not kept": (OK + b"Content-Length: 5000\r\n\r\n" + description(), "of 5000"),
    "a length that cuts": (OK + b"Content-Length: 200\r\n\r\n" + description(), "no XML"),
    "one byte at a time": (trickle(OK + b"Content-Length: 5000\r\n\r\n"), "timed out"),
    "silence": (silence, "timed out"),
    "nothing": (b"", "without an end"),
    "another page": (http(b"<html><body>hello</body></html>"), "no service"),
}


@pytest.mark.parametrize(("answer", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_description_is_given_up(answer: Answer, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp_search, "DESCRIPTION_S", 0.3)
    server = HttpServer(LOOPBACK, lambda _: answer)
    try:
        with pytest.raises((WireError, TimeoutError), match=why):
            fetch(server.url())
    finally:
        server.close()


def test_a_redirect_is_not_followed() -> None:
    third = HttpServer(LOOPBACK, lambda _: http(description()))
    server = HttpServer(LOOPBACK, lambda _: http(b"", f"Location: {third.url()}", status="301 Moved"))
    try:
        with pytest.raises(WireError, match="redirects"):
            fetch(server.url())
        assert (server.connections, third.connections) == (1, 0)
    finally:
        server.close()
        third.close()


@pytest.mark.parametrize("length", [True, False])
def test_a_description_is_taken_whether_the_connection_ends_or_not(length: bool) -> None:
    """Some keep the connection open, whatever they were asked."""
    body = description()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    response = http(body) if length else http(chunked, "Transfer-Encoding: chunked", length=False)

    def keep_open(connection: object) -> None:
        connection.sendall(response)  # type: ignore[attr-defined]
        silence(connection)  # type: ignore[arg-type]

    server = HttpServer(LOOPBACK, lambda _: keep_open)
    try:
        assert fetch(server.url()).services[0].control == server.url(CONTROL)
    finally:
        server.close()


def test_the_largest_description_is_taken() -> None:
    body = description()
    server = HttpServer(LOOPBACK, lambda _: http(body + b" " * (MAX_BODY - len(body))))
    try:
        assert fetch(server.url()).name == "A router"
    finally:
        server.close()
