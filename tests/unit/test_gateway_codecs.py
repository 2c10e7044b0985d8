"""NAT-PMP and PCP on the wire: the layouts of the two RFCs byte by byte, round trips, and any bytes give a value or WireError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire import natpmp, pcp

DECODERS = [natpmp.unpack_request, natpmp.unpack_answer, pcp.unpack_request, pcp.unpack_answer]
NONCE = bytes(range(1, 13))

ports = st.integers(0, 0xFFFF)
seconds = st.integers(0, 0xFFFFFFFF)
ipv4 = st.ip_addresses(v=4).map(str)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=1200))
def test_any_bytes_give_a_value_or_a_wire_error(decode, data):
    try:
        decode(data)
    except WireError as error:
        assert error.message  # noqa: PT017 - the absence of an error is as good


@pytest.mark.parametrize("decode", DECODERS)
@given(head=st.tuples(*[st.sampled_from([0, 1, 2, 128, 129, 130])] * 4).map(bytes), data=st.binary(max_size=80))
def test_plausible_heads_change_nothing_about_that(decode, head, data):
    try:
        decode(head + data)
    except WireError as error:
        assert error.message  # noqa: PT017


# -- NAT-PMP: RFC 6886 -------------------------------------------------------------------------------------------------


def test_external_address_as_section_3_2_draws_it():
    assert natpmp.pack_external_address_request() == bytes.fromhex("00 00")
    answer = natpmp.ExternalAddress(0x01020304, "192.0.2.7")
    assert natpmp.pack_answer(answer) == bytes.fromhex("00 80 0000 01020304 c0000207")
    assert natpmp.unpack_answer(bytes.fromhex("00 80 0000 01020304 c0000207")) == answer


@pytest.mark.parametrize(("opcode", "byte"), [(natpmp.Opcode.MAP_UDP, "01"), (natpmp.Opcode.MAP_TCP, "02")])
def test_mapping_as_section_3_3_draws_it(opcode, byte):
    request = natpmp.MappingRequest(opcode, 30303, 30304, 7200)
    assert natpmp.pack_mapping_request(request) == bytes.fromhex(f"00 {byte} 0000 765f 7660 00001c20")
    answer = natpmp.Mapping(opcode, 9, 30303, 30304, 3600)
    assert natpmp.pack_answer(answer).hex(" ") == f"00 8{byte[1]} 00 00 00 00 00 09 76 5f 76 60 00 00 0e 10"


def test_a_refusal_may_end_after_the_epoch():
    refusal = natpmp.Refusal(1, natpmp.Result.NOT_AUTHORISED, 77)
    assert natpmp.pack_answer(refusal) == bytes.fromhex("00 81 0002 0000004d")
    assert natpmp.unpack_answer(bytes.fromhex("00 81 0002 0000004d")) == refusal
    assert natpmp.unpack_answer(bytes.fromhex("00 81 0002 0000004d 765f 0000 00000000")) == refusal


def test_a_router_of_pcp_alone_is_read_as_an_unsupported_version():
    """Its answer has version 2, and the result where NAT-PMP has the low byte of its own."""
    answer = bytes.fromhex("02 80 00 01 00000000 00000063") + bytes(12)
    assert natpmp.unpack_answer(answer).result == natpmp.Result.UNSUPPORTED_VERSION


@given(
    st.builds(natpmp.ExternalAddress, seconds, ipv4)
    | st.builds(natpmp.Mapping, st.sampled_from(list(natpmp.Opcode)[1:]), seconds, ports, ports, seconds)
    | st.builds(natpmp.Refusal, st.integers(0, 127), st.integers(1, 0xFFFF), seconds),
    st.binary(max_size=4),
)
def test_natpmp_answers_come_back_as_they_were(answer, trailing):
    assert natpmp.unpack_answer(natpmp.pack_answer(answer) + trailing) == answer


@given(st.builds(natpmp.MappingRequest, st.sampled_from(list(natpmp.Opcode)[1:]), ports, ports, seconds))
def test_natpmp_requests_come_back_as_they_were(request):
    assert natpmp.unpack_request(natpmp.pack_mapping_request(request)) == request


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("", "cut short"),
        ("00 80 0000 000000", "cut short"),
        ("00 00 0000 00000000", "a NAT-PMP request where"),
        ("00 80 0000 00000001 c00002", "external address cut short"),
        ("00 81 0000 00000001 765f 7660 00000e", "mapping cut short"),
        ("01 80 0000 00000001 c0000207", "version 1"),
        ("00 83 0000 00000001 c0000207", "opcode 3"),
    ],
)
def test_what_is_wrong_with_a_natpmp_answer(data, complaint):
    with pytest.raises(WireError, match=complaint):
        natpmp.unpack_answer(bytes.fromhex(data))


# -- PCP: RFC 6887 -----------------------------------------------------------------------------------------------------

MAP_REQUEST = (
    "02 01 0000 00000e10 00000000000000000000ffffc0a80117"
    "0102030405060708090a0b0c 06 000000 765f 7660 00000000000000000000ffff00000000"
)
MAP_ANSWER = (
    "02 81 00 00 00000708 00000063 000000000000000000000000"
    "0102030405060708090a0b0c 06 000000 765f 7661 00000000000000000000ffffc0000207"
)


def test_map_request_as_sections_7_1_and_11_1_draw_it():
    body = pcp.Map(NONCE, pcp.Protocol.TCP, 30303, 30304, pcp.ANY_IP)
    request = pcp.Request(pcp.Opcode.MAP, 3600, "192.168.1.23", body)
    assert pcp.pack_request(request) == bytes.fromhex(MAP_REQUEST)
    assert pcp.unpack_request(bytes.fromhex(MAP_REQUEST)) == request


def test_prefer_failure_as_section_13_2_draws_it():
    request = pcp.unpack_request(bytes.fromhex(MAP_REQUEST))._replace(options=(pcp.PREFER_FAILURE,))
    assert pcp.pack_request(request) == bytes.fromhex(MAP_REQUEST + "02 00 0000")
    assert pcp.unpack_request(pcp.pack_request(request)) == request


def test_map_answer_as_sections_7_2_and_11_1_draw_it():
    body = pcp.Map(NONCE, pcp.Protocol.TCP, 30303, 30305, "192.0.2.7")
    answer = pcp.Answer(pcp.Opcode.MAP, 0, 1800, 99, body)
    assert pcp.unpack_answer(bytes.fromhex(MAP_ANSWER)) == answer
    assert pcp.pack_answer(answer) == bytes.fromhex(MAP_ANSWER)


def test_announce_as_section_14_1_draws_it():
    request = pcp.Request(pcp.Opcode.ANNOUNCE, 0, "192.168.1.23")
    assert pcp.pack_request(request).hex() == "0200000000000000" + "00000000000000000000ffffc0a80117"
    assert pcp.unpack_answer(bytes.fromhex("0280000000000000 00000063") + bytes(12)).epoch_s == 99


def test_a_refusal_brings_the_body_back_or_not():
    whole = bytes.fromhex(MAP_ANSWER.replace("81 00 00", "81 00 02"))
    refusal = pcp.unpack_answer(whole)
    assert (refusal.result, refusal.map.nonce) == (pcp.Result.NOT_AUTHORIZED, NONCE)
    assert pcp.unpack_answer(whole[:24]).map is None


def test_a_router_of_natpmp_alone_is_read_as_an_unsupported_version():
    answer = pcp.unpack_answer(bytes.fromhex("00 81 0001 00000063"))
    assert (answer.version, answer.opcode, answer.result) == (0, pcp.Opcode.MAP, pcp.Result.UNSUPP_VERSION)


ips = ipv4 | st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str)
maps = st.builds(pcp.Map, st.binary(min_size=12, max_size=12), st.integers(0, 255), ports, ports, ips)
options = st.lists(st.builds(pcp.Option, st.integers(0, 255), st.binary(max_size=20)), max_size=5).map(tuple)


@given(st.builds(pcp.Request, st.just(pcp.Opcode.MAP), seconds, ips, maps, options))
def test_pcp_requests_come_back_as_they_were(request):
    assert pcp.unpack_request(pcp.pack_request(request)) == request


success = st.just(pcp.Result.SUCCESS)


@given(
    st.builds(pcp.Answer, st.just(pcp.Opcode.MAP), success, seconds, seconds, maps, options, st.just(pcp.VERSION))
    | st.builds(
        pcp.Answer, st.just(pcp.Opcode.ANNOUNCE), success, seconds, seconds, st.none(), options, st.just(pcp.VERSION)
    )
    | st.builds(
        pcp.Answer, *[st.integers(2, 127), st.integers(1, 255), seconds, seconds, st.none(), st.just(())], st.just(2)
    )
)
def test_pcp_answers_come_back_as_they_were(answer):
    assert pcp.unpack_answer(pcp.pack_answer(answer)) == answer


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("02 81 00", "cut short"),
        ("02 81 0000", "cut short"),
        (MAP_REQUEST, "a PCP request where"),
        ("03 81 0000", "version 3"),
        (MAP_ANSWER[: -4 * 2], "MAP cut short"),
        (MAP_ANSWER.replace("81", "83"), "opcode 3"),
        (MAP_ANSWER + "00", "does not have 61 bytes"),
        (MAP_ANSWER + "00" * 1044, "does not have 1104 bytes"),
        (MAP_ANSWER + "02 00 0004", "option cut short"),
    ],
)
def test_what_is_wrong_with_a_pcp_answer(data, complaint):
    with pytest.raises(WireError, match=complaint):
        pcp.unpack_answer(bytes.fromhex(data))
