"""How TURN servers are named, and ChannelData."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.channel_data import ChannelData, pack_channel_data, unpack_channel_data
from kodectl.wire.turn_server import TurnServer, parse_turn


class TestServer:
    @pytest.mark.parametrize(
        ("text", "server"),
        [
            ("alice:secret@turn.example.org:3478", TurnServer("turn.example.org", 3478, "udp", "alice", "secret")),
            ("alice:a:b@c%40@192.0.2.1:1", TurnServer("192.0.2.1", 1, "udp", "alice", "a:b@c%40")),
            ("alice:secret@[2001:DB8::1]:3478", TurnServer("2001:db8::1", 3478, "udp", "alice", "secret")),
            ("turn:secret@host:3478", TurnServer("host", 3478, "udp", "turn", "secret")),
            ("turn:host", TurnServer("host", 3478)),
            ("turn:[2001:db8::1]", TurnServer("2001:db8::1", 3478)),
            ("turn:host:99?transport=tcp", TurnServer("host", 99, "tcp")),
            ("TURN:host?transport=UDP", TurnServer("host", 3478, "udp")),
            ("turns:host", TurnServer("host", 5349, "tls")),
            ("turns:host:443?transport=tcp", TurnServer("host", 443, "tls")),
            ("turn:alice:secret@host?transport=tcp", TurnServer("host", 3478, "tcp", "alice", "secret")),
            ("turn:1700000000:alice:s%3A%40%C3%A9?@host:9", TurnServer("host", 9, "udp", "1700000000", "alice:s:@é?")),
        ],
    )
    def test_is_read(self, text: str, server: TurnServer) -> None:
        assert parse_turn(text) == server

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "s3cr3t",
            "host:3478",
            "alice@host:3478",
            "alice:s3cr3t@host",
            "alice:s3cr3t@host:0",
            "alice:s3cr3t@host:65536",
            "alice:s3cr3t@host:0000655369",
            f"alice:s3cr3t@host:000080{'0' * 5000}",
            "alice:s3cr3t@:3478",
            "alice:s3cr3t@2001:db8::1:3478",
            "alice:s3cr3t@1.2.3:3478",
            "alice:@host:3478",
            ":s3cr3t@host:3478",
            "ali\nce:s3cr3t@host:3478",
            "alice:s3cr3t\0@host:3478",
            f"{'a' * 509}:s3cr3t@host:3478",
            f"alice:{'s3cr3t' * 200}@host:3478",
            "turn:",
            "turn:alice:s3cr3t@host?transport=sctp",
            "turn:alice:s3cr3t@host?s3cr3t",
            "turns:alice:s3cr3t@host?transport=udp",
            "turn:alice:s3cr3t%FF@host",
            "stun:alice:s3cr3t@host",
        ],
    )
    def test_that_is_none_is_refused_without_repeating_it(self, text: str) -> None:
        with pytest.raises(WireError) as caught:
            parse_turn(text)
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_keeps_its_password_to_itself(self) -> None:
        server = parse_turn("turns:alice:s3cr3t@host")
        assert "s3cr3t" not in f"{server} {server!r}"
        assert str(server) == "turns:host:5349"

    @given(st.text())
    @example("turn:@")
    @example("turn:a:\ud800@host")
    @example("turn:[::1")
    def test_any_text_is_a_server_or_an_error(self, text: str) -> None:
        try:
            server = parse_turn(text)
        except WireError:
            return
        assert server.host
        assert 0 < server.port < 65_536

    @given(st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60))
    def test_any_password_is_read_as_it_is(self, password: str) -> None:
        assert parse_turn(f"alice:{password}@host:1").password == password


class TestChannelData:
    @pytest.mark.parametrize(
        ("is_padded", "packed"),
        [(False, "40000005 68656c6c6f"), (True, "40000005 68656c6c6f 000000")],
    )
    def test_is_packed_and_unpacked(self, is_padded: bool, packed: str) -> None:
        data = bytes.fromhex(packed)
        assert pack_channel_data(0x4000, b"hello", padded=is_padded) == data
        assert unpack_channel_data(data) == ChannelData(0x4000, b"hello")

    @pytest.mark.parametrize("data", ["", "400000", "40000001", "4000000568656c6c", "3fff0000", "50000000", "7fff0000"])
    def test_that_is_none_is_an_error(self, data: str) -> None:
        with pytest.raises(WireError):
            unpack_channel_data(bytes.fromhex(data))

    def test_too_large_is_an_error(self) -> None:
        with pytest.raises(WireError):
            pack_channel_data(0x4000, bytes(65_536))

    @given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda data: b"\x40\x00\x00\x08" + data))
    def test_any_bytes_are_a_value_or_an_error(self, data: bytes) -> None:
        try:
            number, payload = unpack_channel_data(data)
        except WireError:
            return
        assert data.startswith(pack_channel_data(number, payload))
