"""Where settings come from: flag > KODECTL_* variable > TOML file > default.

`SETTINGS` is the one list of them: it makes the options (`kodectl.cli.options.setting`), the names of the variables,
the keys of the file, `config show` and `config init`. The file is flat: one `key = value` for each setting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kodectl.cli.command import suggest
from kodectl.cli.quotas import QUOTAS, check_relay
from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.settings import (
    DEFAULT_API_PORT,
    DEFAULT_BOOTSTRAP,
    DEFAULT_MAX_PEERS,
    DEFAULT_NETWORK,
    DEFAULT_TCP_PORT,
    DEFAULT_UDP_PORT,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

SYSTEM_FILE = "/etc/kodectl/config.toml"
MAX_FILE_SIZE = 1 << 20
"""A configuration of all settings has 2 kB; a million bytes are some other file."""
MAX_PEERS_LIMIT = 10_000
"""Above this the descriptors of the process run out long before."""
MAX_NETWORK_LENGTH = 64
"""It travels in every LAN announcement."""
MAPPING_METHODS = ("auto", "none", "upnp", "natpmp", "pcp")


class Setting(NamedTuple):
    """`parse` makes the value of one text, and raises ValueError("what it should be"); `many` makes it a tuple. With
    `without_secret` only what that makes of a value is ever printed."""

    key: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    metavar: str = "TEXT"
    flag: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    without_secret: Callable[[str], str] | None = None

    @property
    def variable(self) -> str:
        return f"KODECTL_{self.key.upper()}"

    @property
    def default_text(self) -> str:
        """For help; empty where the default is a place, a list or a switch, which the help tells itself."""
        if self.many or callable(self.default) or isinstance(self.default, bool):
            return ""
        return ":".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    @property
    def option(self) -> str:
        return self.flag or f"--{self.key.replace('_', '-')}"

    def printable(self, value: Any) -> Any:
        if self.without_secret is None:
            return value
        return tuple(map(self.without_secret, value)) if self.many else self.without_secret(value)


class Sourced(NamedTuple):
    """A value and where it came from: `default`, `KODECTL_X`, a file, or `command line`."""

    value: Any
    origin: str


def parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > 65_535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def parse_host_port(text: str) -> tuple[str, int]:
    """`HOST:PORT`, an IPv6 address in brackets, to (host without brackets, port)."""
    from kodectl.errors import WireError
    from kodectl.wire.enode import parse_host

    host, colon, port = text.rpartition(":")
    try:
        if not colon:
            raise ValueError
        return parse_host(host), parse_port(port)
    except (ValueError, WireError) as error:
        raise ValueError("HOST:PORT, with an IPv6 address in brackets") from error


def parse_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= MAX_PEERS_LIMIT:
        raise ValueError(f"a number from 1 to {MAX_PEERS_LIMIT}")
    return int(text)


def parse_switch(text: str) -> bool:
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in known:
        raise ValueError("true or false")
    return known[text.lower()]


def parse_enode_text(text: str) -> str:
    from kodectl.errors import WireError
    from kodectl.wire.enode import parse_enode

    try:
        return str(parse_enode(text))
    except WireError as error:
        raise ValueError(f"an enode ({error.message})") from error


def parse_node_id(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise ValueError("a node id of 64 hex digits")
    return text.lower()


def parse_nat(text: str) -> str:
    import ipaddress

    method, colon, address = text.partition(":")
    try:
        if method == "extip" and colon:
            return f"extip:{_one_host(ipaddress.ip_address(address))}"
    except ValueError:
        method = ""
    if colon or method not in MAPPING_METHODS:
        raise ValueError(f"{', '.join(MAPPING_METHODS)} or extip:IP")
    return method


def _one_host(address: IPv4Address | IPv6Address) -> str:
    """What goes into an enode for others to dial. Raises ValueError for what is nobody's address."""
    from kodectl.wire.contacts import is_unicast

    if not is_unicast(str(address)):
        raise ValueError(f"{address} is no address of one host")
    return str(address)


def parse_path(text: str) -> Path:
    from pathlib import Path

    if not text or "\0" in text:
        raise ValueError("a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who is not there
        raise ValueError("a path, and ~ is the home directory of a user that exists") from error


def parse_network(text: str) -> str:
    if not 1 <= len(text) <= MAX_NETWORK_LENGTH or not text.isprintable():
        raise ValueError(f"1 to {MAX_NETWORK_LENGTH} printable characters")
    return text


def parse_turn_text(text: str) -> str:
    """The text itself, which has the password; whoever uses it parses it (`wire.turn_server`)."""
    from kodectl.errors import WireError
    from kodectl.wire.turn_server import EXPECTED, parse_turn

    try:
        parse_turn(text)
    except WireError as error:
        raise ValueError(f"{EXPECTED} ({error.message})") from error
    return text


def turn_without_secret(text: str) -> str:
    from kodectl.wire.turn_server import parse_turn

    return str(parse_turn(text))


def parse_text(text: str) -> str:
    if not text:
        raise ValueError("some text")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def default_datadir() -> Path:
    from platformdirs import user_data_path

    return user_data_path("kodectl")


LOG_LEVELS = ("error", "warning", "info", "debug")
_LOG_FORMATS = ("text", "json")
_TOKEN_RULES = ("auto", "required")

SETTINGS = (
    Setting("datadir", parse_path, default_datadir, "Where key, store and API socket live.", "DIRECTORY"),
    Setting(
        "listen", parse_host_port, ("0.0.0.0", DEFAULT_TCP_PORT), "TCP address for peers; port 0: any.", "HOST:PORT"
    ),
    Setting("discovery_port", parse_port, DEFAULT_UDP_PORT, "UDP port of discovery; 0: any.", "PORT"),
    Setting("api", parse_host_port, ("127.0.0.1", DEFAULT_API_PORT), "Address of the node's API.", "HOST:PORT"),
    Setting(
        "api_token",
        one_of(*_TOKEN_RULES),
        "auto",
        "Ask for the API token: auto, where the API is not on loopback.",
        choices=_TOKEN_RULES,
    ),
    Setting(
        "api_names",
        parse_text,
        (),
        "Host name that the API answers to, beside localhost; repeatable.",
        "NAME",
        flag="--api-name",
        many=True,
    ),
    Setting(
        "bootstrap",
        parse_enode_text,
        DEFAULT_BOOTSTRAP,
        "Enode of a node to begin with; repeatable.",
        "ENODE",
        many=True,
    ),
    Setting("max_peers", parse_count, DEFAULT_MAX_PEERS, "How many peers to have at most.", "N"),
    Setting("nat", parse_nat, "auto", "Port mapping: auto, none, upnp, natpmp, pcp or extip:IP.", "METHOD"),
    Setting(
        "stun", parse_host_port, (), "STUN server that is asked beside the peers; repeatable.", "HOST:PORT", many=True
    ),
    Setting(
        "turn",
        parse_turn_text,
        (),
        "TURN server that relays where nothing else gets through, as USER:PASS@HOST:PORT or as a turn: or turns: URI with "
        "the credentials before the host; repeatable.",
        "URL",
        many=True,
        without_secret=turn_without_secret,
    ),
    Setting(
        "relay",
        check_relay,
        "on",
        "Relay for others while strangers reach this node: on, off, or limits as NAME=NUMBER between commas "
        f"({', '.join(QUOTAS)}; the last four per second, of one allocation and of all).",
        "on|off|LIMITS",
    ),
    Setting("lan", parse_switch, True, "Announce and find nodes on the local network.", "SWITCH"),
    Setting("network", parse_network, DEFAULT_NETWORK, "Name of the network; others are refused.", "NAME"),
    Setting(
        "validators",
        parse_node_id,
        (),
        "Node id that ranks high; repeatable.",
        "ID",
        flag="--validator",
        many=True,
    ),
    Setting(
        "log_level",
        one_of(*LOG_LEVELS),
        "info",
        "What a running node logs: this and what weighs more. -q and -v come before it.",
        choices=LOG_LEVELS,
    ),
    Setting("log_format", one_of(*_LOG_FORMATS), "text", "Form of the log on stderr.", choices=_LOG_FORMATS),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


class Configuration:
    """The settings as variables, file and defaults give them; flags are laid over by the options."""

    def __init__(self, file: Path | None, file_values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.file = file
        self._file_values = file_values
        self._environ = environ

    def get(self, key: str) -> Sourced:
        """Raises LocalMisuse (config_invalid_value) naming the origin of a value that cannot be."""
        setting = BY_KEY[key]
        if setting.variable in self._environ:
            return Sourced(_from_text(setting, self._environ[setting.variable]), setting.variable)
        if key in self._file_values:
            return Sourced(_from_toml(setting, self._file_values[key], self.file), str(self.file))
        return Sourced(setting.default() if callable(setting.default) else setting.default, "default")

    def file_value(self, key: str, default: Any) -> Any:
        """What the file says, whatever comes before it; `default` where it says nothing. Raises as `get`."""
        return _from_toml(BY_KEY[key], self._file_values[key], self.file) if key in self._file_values else default

    def check(self) -> dict[str, Sourced]:
        """Every setting. Raises LocalMisuse for the first that is wrong, or for a variable that is none."""
        for variable in sorted(self._environ):
            if variable.startswith("KODECTL_") and variable not in KNOWN_VARIABLES:
                raise LocalMisuse(
                    f"unknown variable {variable}.{suggest(variable, KNOWN_VARIABLES)}", code="config_unknown_key"
                )
        return {setting.key: self.get(setting.key) for setting in SETTINGS}


KNOWN_VARIABLES = {setting.variable for setting in SETTINGS} | {"KODECTL_COLOR"}


def load_configuration(asked: str | None, environ: Mapping[str, str] = os.environ) -> Configuration:
    """Reads the file that was asked for, else the first that exists.

    Raises LocalMisuse (config_invalid, config_unknown_key) and EnvironmentFault (config_unreadable)."""
    from pathlib import Path

    file = Path(asked) if asked else next((path for path in standard_files(environ) if path.is_file()), None)
    values = {} if file is None else _read(file)
    for key, value in values.items():
        if key not in BY_KEY:
            flat = " The file has no tables: keys stand by themselves." if isinstance(value, dict) else ""
            raise LocalMisuse(
                f"{file}: unknown key {key!r}.{suggest(key, BY_KEY)}{flat}",
                code="config_unknown_key",
                hint="kodectl config init --stdout prints every key",
            )
    return Configuration(file, values, environ)


def standard_files(environ: Mapping[str, str]) -> tuple[Path, Path]:
    from pathlib import Path

    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "kodectl" / "config.toml", Path(SYSTEM_FILE)


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise EnvironmentFault(f"cannot read {file}: {error.strerror}", code="config_unreadable") from error
    if len(content) > MAX_FILE_SIZE:
        raise LocalMisuse(f"{file}: larger than {MAX_FILE_SIZE} bytes", code="config_invalid")
    try:
        values = tomllib.loads(content.decode())
        repr(
            values
        )  # A hexadecimal number of thousands of digits is read, and then has no text in which it could be refused.
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, not UTF-8, or a number of thousands of digits
        raise LocalMisuse(f"{file}: not TOML: {error}", code="config_invalid") from error
    return values


def _from_text(setting: Setting, text: str) -> Any:
    """A variable's value; several are separated by white space or commas."""
    parts = text.replace(",", " ").split() if setting.many else [text]
    parsed = tuple(_parse(setting, part, setting.variable) for part in parts)
    return parsed if setting.many else parsed[0]


def _from_toml(setting: Setting, value: Any, file: Path | None) -> Any:
    where = f"{setting.key} in {file}"
    if setting.many:
        if not isinstance(value, list):
            raise _invalid(setting, where, value, "a list")
        return tuple(_parse_scalar(setting, item, where) for item in value)
    return _parse_scalar(setting, value, where)


def _parse_scalar(setting: Setting, value: Any, where: str) -> Any:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise _invalid(setting, where, value, "text, a number or a switch")
    return _parse(setting, str(value), where)


def _parse(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        raise _invalid(setting, where, text, str(error)) from error


def _invalid(setting: Setting, where: str, value: object, expected: str) -> LocalMisuse:
    what = "the value (not shown: it may have a secret)" if setting.without_secret else repr(value)
    return LocalMisuse(f"{where}: {what} is not {expected}", code="config_invalid_value")
