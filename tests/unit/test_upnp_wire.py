"""What routers say of themselves by UPnP: real descriptions are read, and nothing else."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_igd import CONTROL, IP_SERVICE, IP_SERVICE_2, PPP_SERVICE, description, found_at, http

from kodectl.errors import WireError
from kodectl.wire import upnp
from kodectl.wire.upnp import Service, Url

AT = Url("192.168.1.1", 5000, "/rootDesc.xml")

MINIUPNPD_ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"USN: uuid:280da874-cc0a-450f-8e3d-f8a592187aa6::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\n"
    b"SERVER: Debian/6.18 UPnP/1.1 MiniUPnPd/2.3.1\r\nLOCATION: http://192.168.77.1:42005/rootDesc.xml\r\n"
    b'OPT: "http://schemas.upnp.org/upnp/1/0/"; ns=01\r\n01-NLS: 1795381356\r\nBOOTID.UPNP.ORG: 1795381356\r\n'
    b"CONFIGID.UPNP.ORG: 1337\r\n\r\n"
)
"""As miniupnpd 2.3.1 sends it."""


def test_a_search_asks_for_one_target_and_ends_with_an_empty_line() -> None:
    text = upnp.pack_search("urn:x").decode()
    assert text.startswith("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
    assert "\r\nST: urn:x\r\n" in text
    assert text.endswith("\r\n\r\n")


def test_the_answer_of_a_real_router_names_its_description() -> None:
    found = upnp.unpack_search_answer(MINIUPNPD_ANSWER, "192.168.77.1")
    assert found == Url("192.168.77.1", 42005, "/rootDesc.xml")


@pytest.mark.parametrize(
    "answer",
    [
        found_at("http://203.0.113.5/d.xml"),
        found_at("http://192.168.1.10/d.xml"),
        found_at("https://192.168.1.1/d.xml"),
        found_at("http://router.local/d.xml"),
        found_at("http://192.168.1.1@203.0.113.5/d.xml"),
        found_at("http://192.168.001.1/d.xml"),
        found_at("http://3232235777/d.xml"),
        found_at("http://[fe80::1]/d.xml"),
        found_at("http://192.168.1.1:0/d.xml"),
        found_at("http://192.168.1.1:65536/d.xml"),
        found_at("http://192.168.1.1/" + "d" * 200),
        found_at("http://192.168.1.1/\xff"),
        found_at(""),
        found_at("http://192.168.1.1/a\r\nLOCATION: http://192.168.1.1/b"),
        found_at("http://192.168.1.1/d.xml").replace(b"LOCATION", b"LOCALITY"),
        found_at("http://192.168.1.1/d.xml").replace(b"200 OK", b"302 Found"),
        found_at("http://192.168.1.1/d.xml").rstrip(),
        b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/d.xml\r\n\r\n",
        b"",
    ],
)
def test_a_search_answer_that_points_elsewhere_is_refused(answer: bytes) -> None:
    with pytest.raises(WireError):
        upnp.unpack_search_answer(answer, "192.168.1.1")


def test_a_description_is_read_whatever_else_it_has() -> None:
    body = description(
        ("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"), (PPP_SERVICE, "ppp"), (IP_SERVICE_2, CONTROL)
    )
    found = upnp.unpack_description(body, AT)
    assert found.name == "A router"
    assert found.services == (
        Service(PPP_SERVICE, AT._replace(path="/ppp")),
        Service(IP_SERVICE_2, AT._replace(path=CONTROL)),
    )
    assert [service.version for service in found.services] == [1, 2]


def test_a_base_and_a_whole_url_may_name_another_port() -> None:
    for control, base in (("/c", "http://192.168.1.1:49000"), ("HTTP://192.168.1.1:49000/c", "")):
        found = upnp.unpack_description(description((IP_SERVICE, control), base=base), AT)
        assert found.services[0].control == Url("192.168.1.1", 49000, "/c")


def test_a_name_is_cut_and_need_not_be_utf_8() -> None:
    body = description(name="Fran\xe7ois " * 20).decode().encode("latin-1")
    assert upnp.unpack_description(body, AT).name == ("Fran\ufffdois " * 20)[: upnp.MAX_NAME]


ENTITIES = '<!DOCTYPE root [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE root SYSTEM "http://203.0.113.5/evil.dtd">'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (description(name="&b;", head=ENTITIES), "document type"),
        (description(head=OUTSIDE), "document type"),
        (description(name="&b;"), "no XML"),
        (description((IP_SERVICE, "http://203.0.113.5/ctl")), "another address"),
        (description(base="http://203.0.113.5/"), "another address"),
        (description((IP_SERVICE, CONTROL), (IP_SERVICE, "http://203.0.113.5/ctl")), "another address"),
        (description(base="http://router/"), "URL"),
        (description((IP_SERVICE, "//203.0.113.5/ctl\x7f")), "characters"),
        (description((IP_SERVICE, "/" + "c" * 200)), "too long"),
        (description(("urn:schemas-upnp-org:service:WANIPConnection:1\r\nX: y", "/ctl")), "no service"),
        (description(("urn:schemas-upnp-org:service:ContentDirectory:1", "/ctl")), "no service"),
        (b"<a>" * 1000, "nested"),
        (b"<root/>", "no service"),
        (description()[:-1], "no XML"),
        (b"\x00\xff", "no XML"),
        (b"", "no XML"),
        (b" " * (upnp.MAX_BODY + 1), "more than"),
    ],
)
def test_a_description_that_could_do_harm_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        upnp.unpack_description(body, AT)


def test_services_past_the_limit_are_left_out() -> None:
    body = description(*[(IP_SERVICE, f"/{number}") for number in range(upnp.MAX_SERVICES + 3)])
    assert len(upnp.unpack_description(body, AT).services) == upnp.MAX_SERVICES


def test_our_own_description_says_the_same_again() -> None:
    service = Service(IP_SERVICE, Url("192.168.1.1", 5000, "/ctl/IPConn"))
    response = upnp.pack_description(service)
    assert upnp.is_whole(response)
    assert upnp.unpack_description(upnp.unpack_response(response), service.control).services == (service,)


@pytest.mark.parametrize(
    "response",
    [
        http(b"body"),
        http(b"body", length=False),
        http(b"bodyXX", "Content-Length: 4", length=False),
        http(b"body", "Content-Length: 4", length=True),
        http(b"body", "Content-Length: 00000000000004", length=False),
        http(b"4\r\nbody\r\n0\r\n\r\n", "Transfer-Encoding: Chunked", length=False),
        http(b"1;x=y\r\nb\r\n3 \nody\n0\n", "Transfer-Encoding: chunked", length=False),
        b"HTTP/1.0 200 OK\nContent-Length: 4\n\nbody",
        b"HTTP/1.1 200\r\nContent-Encoding: identity\r\nno colon\r\n\r\nbody",
    ],
)
def test_a_body_comes_out_of_every_kind_of_response(response: bytes) -> None:
    assert upnp.unpack_response(response) == b"body"


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (http(b"", "Location: http://203.0.113.5/", status="302 Found"), "redirects"),
        (http(b"", status="404 Not Found"), "status 404"),
        (http(b"body", "Content-Length: 5", length=False), "4 of 5"),
        (http(b"body", "Content-Length: -1", length=False), "no number"),
        (http(b"body", "Content-Length: 4, 4", length=False), "no number"),
        (http(b"body", "Content-Length: 5"), "several"),
        (http(b"body", "Content-Length: 10485760", length=False), "announces more"),
        (http(b"body", f"Content-Length: {'9' * 4000}", length=False), "announces more"),
        (http(b"body", f"Content-Length: {'0' * 20}10485760", length=False), "announces more"),
        (http(b"b" * (upnp.MAX_BODY + 1), length=False), "more than"),
        (http(b"4\r\nbody\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "encoding"),
        (http(b"body", "Transfer-Encoding: gzip", length=False), "encoding"),
        (http(b"4\r\nbod", "Transfer-Encoding: chunked", length=False), "chunk"),
        (http(b"4\r\nbody\r\n", "Transfer-Encoding: chunked", length=False), "chunk"),
        (http(b"x\r\nbody\r\n", "Transfer-Encoding: chunked", length=False), "chunk"),
        (http(b"ffffff\r\nbody", "Transfer-Encoding: chunked", length=False), "more than"),
        (http(b"fffffffff\r\nbody", "Transfer-Encoding: chunked", length=False), "chunk"),
        (http(gzip.compress(b"body", mtime=0), "Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, "without an end"),
        (b"SSH-2.0-dropbear\r\n\r\n", "no HTTP"),
        (b"", "without an end"),
    ],
)
def test_a_response_that_does_not_keep_its_word_is_refused(response: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        upnp.unpack_response(response)


@pytest.mark.parametrize(
    "response",
    [
        http(b"body" * 25),
        http(b"4\r\nbody\r\n0\r\n\r\n", "Transfer-Encoding: chunked", "Age: 0", length=False),
        http(b"0\r\n\r\n", "Transfer-Encoding: chunked", length=False),
    ],
)
def test_a_response_is_whole_with_its_last_byte_and_not_before(response: bytes) -> None:
    assert [upnp.is_whole(response[:size]) for size in range(len(response) + 1)] == [False] * len(response) + [True]


def test_a_response_may_end_with_its_connection() -> None:
    assert not upnp.is_whole(http(b"body", "Age: 0", length=False))


@pytest.mark.parametrize("head", [b"X: y\r\n" * 2_000, b"X" * upnp.MAX_HEAD])
def test_an_endless_head_is_given_up(head: bytes) -> None:
    with pytest.raises(WireError, match="head"):
        upnp.is_whole(b"HTTP/1.1 200 OK\r\n" + head)


def likely(*pieces: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that get further into a decoder than chance does."""
    return st.lists(st.sampled_from(pieces) | st.binary(max_size=8), max_size=12).map(b"".join)


HEADS = likely(
    b"HTTP/1.1 200 OK",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked",
    b"LOCATION: http://192.168.1.1:5000/a",
    b"4\r\nbody\r\n",
    b"0\r\n\r\n",
    b"9",
)
XML = likely(
    b"<root>", b"</root>", b"<service>", b"</service>", b"<serviceType>", b"</serviceType>", IP_SERVICE.encode(),
    b"<controlURL>", b"</controlURL>", b"<URLBase>", b"</URLBase>", b"http://192.168.1.1/x", b"<!DOCTYPE a>", b"&lt;",
    b"<![CDATA[", b"]]>", b"<?xml version='1.0' encoding='rot13'?>",
)  # fmt: skip


@given(HEADS | st.binary())
def test_any_bytes_are_a_search_answer_or_refused(data: bytes) -> None:
    try:
        assert upnp.unpack_search_answer(data, "192.168.1.1").ip == "192.168.1.1"
    except WireError:
        pass


@given(HEADS | st.binary())
def test_any_bytes_are_a_response_or_refused(data: bytes) -> None:
    for decode in (upnp.is_whole, upnp.unpack_response):
        try:
            decode(data)
        except WireError:
            pass


@given(XML | st.binary())
def test_any_bytes_are_a_description_or_refused(data: bytes) -> None:
    try:
        services = upnp.unpack_description(data, AT).services
    except WireError:
        return
    assert {service.control.ip for service in services} == {AT.ip}


@given(st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = upnp.parse_url("http://192.168.1.1/" + text)
    except WireError:
        return
    assert upnp.parse_url(str(url)) == url or len(str(url)) > upnp.MAX_URL
