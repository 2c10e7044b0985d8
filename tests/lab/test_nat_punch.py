"""`kodectl nat punch` behind real NATs: with itself, aioice, libnice and Pion; directly, through coturn, over IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from conftest import environment
from natlab import Host, Kind, Lab, skip_without_lab
from natlab.needs import LIBNICE_PACKAGES, has_libnice
from natlab.netns import Namespace
from natlab.servers import Server
from punching import Program, aioice, event, introduce, libnice, ours, pion, pion_program

from kodectl.errors import ExitCode

pytestmark = [pytest.mark.lab, skip_without_lab]

PORT = 3478
USER = "punch:secret"
DEAD = f"30.0.0.1:{PORT}"
"""Outside of what the lab's internet has: a black hole."""
CONES = [Kind.FULL_CONE, Kind.RESTRICTED, Kind.PORT_RESTRICTED]
ROLES = [("controlling", "controlled"), ("controlled", "controlling")]
BOTH_FAMILIES = """link set lo up
link add card type veth peer name other
link set other up
addr add 20.1.0.1/24 dev card
addr add 2a00:1::1/64 dev card nodad
link set card up
"""
LINK_LOCAL = """link set lo up
link set card addrgenmode none
link set card up
addr add fe80::{number}/64 dev card nodad
"""
LOSS = 0.2

Agent = Callable[..., list[str]]


def us(role: str, *options: str) -> list[str]:
    return ours(role, "--count", "3", *options)


def them(role: str, *options: str) -> list[str]:
    return aioice(role, 3, *options)


def nice(role: str, *options: str) -> list[str]:
    if not has_libnice():
        pytest.skip(f"libnice is not there: {' '.join(LIBNICE_PACKAGES)}")
    return libnice(role, 3, *options)


def go(role: str, *options: str) -> list[str]:
    if pion_program() is None:
        pytest.skip("Pion is not there: golang-go golang-github-pion-ice.v2-dev")
    return pion(role, 3, *options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("punch")


class Scene:
    """Hosts behind NATs, and a coturn that everybody reaches, for STUN and with a user for TURN."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab = lab
        self.environment = environment(home)
        host = lab.public("coturn")
        self.server = f"{host.ip}:{PORT}"
        command = ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--listening-ip", host.ip]
        command += ["--listening-port", str(PORT), "--lt-cred-mech", "--user", USER, "--realm", "lab"]
        command += ["--userdb", str(home / "turn.db"), "--pidfile", "/dev/null", "--log-file", "stdout"]
        serving = Server(host.namespace, command)
        near = lab.public("near")
        serving.wait_until(lambda: near.connect((host.ip, PORT)).close() is None)
        self._hosts: dict[tuple[Kind, int], Host] = {}

    def host(self, kind: Kind, number: int) -> Host:
        if (kind, number) not in self._hosts:
            self._hosts[kind, number] = self.lab.behind(kind)
        return self._hosts[kind, number]

    def punch(self, kinds: Sequence[Kind], commands: Sequence[list[str]]) -> list[tuple[int, list[dict[str, Any]]]]:
        one, other = (
            Program(command, self.host(kind, number).popen, env=self.environment)
            for number, (kind, command) in enumerate(zip(kinds, commands, strict=True))
        )
        introduce(one, other)
        return [one.end(), other.end()]


@pytest.fixture(scope="module")
def scene(home: Path) -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab, home)


def assert_connected(ends: Sequence[tuple[int, list[dict[str, Any]]]]) -> None:
    for _, lines in ends:
        event(lines, "connected")
        assert event(lines, "done")["echoed"] == 3


@pytest.mark.parametrize("kind", CONES)
@pytest.mark.parametrize("other_kind", CONES)
def test_two_cones_with_a_stun_server(scene: Scene, kind: Kind, other_kind: Kind) -> None:
    stun = ("--stun", scene.server)
    ends = scene.punch((kind, other_kind), (us("controlling", *stun), us("controlled", *stun)))
    assert_connected(ends)
    assert [code for code, _ in ends] == [ExitCode.OK, ExitCode.OK]
    assert event(ends[0][1], "connected")["remote_type"] != "host"


@pytest.mark.parametrize("agent", [them, nice, go])
@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize("kinds", [(Kind.PORT_RESTRICTED, Kind.RESTRICTED), (Kind.SYMMETRIC, Kind.FULL_CONE)])
def test_with_a_foreign_agent(scene: Scene, agent: Agent, roles: tuple[str, str], kinds: tuple[Kind, Kind]) -> None:
    stun = ("--stun", scene.server)
    ends = scene.punch(kinds, (us(roles[0], *stun), agent(roles[1], *stun)))
    assert_connected(ends)
    assert ends[0][0] == ExitCode.OK


@pytest.mark.parametrize("agent", [us, them, nice, go])
@pytest.mark.parametrize("roles", ROLES)
def test_two_symmetric_ones_through_relays(scene: Scene, agent: Agent, roles: tuple[str, str]) -> None:
    turn = ("--turn", f"{USER}@{scene.server}", "--relay-only")
    ends = scene.punch((Kind.SYMMETRIC, Kind.SYMMETRIC), (us(roles[0], *turn), agent(roles[1], *turn)))
    assert_connected(ends)
    assert ends[0][0] == ExitCode.DEGRADED
    assert event(ends[0][1], "connected")["local_type"] == "relay"
    assert ends[0][1][-1]["error"]["code"] == "relay_only"


def test_two_symmetric_ones_without_a_relay(scene: Scene) -> None:
    options = ("--stun", scene.server, "--timeout", "3")
    ends = scene.punch((Kind.SYMMETRIC, Kind.SYMMETRIC), (us("controlling", *options), us("controlled", *options)))
    assert [code for code, _ in ends] == [ExitCode.NEGATIVE, ExitCode.NEGATIVE]
    event(ends[0][1], "failed")


def test_dead_servers_and_a_wrong_password_hold_nothing_up(scene: Scene) -> None:
    servers = ("--stun", DEAD, "--turn", f"u:p@{DEAD}", "--turn", f"punch:wrong@{scene.server}")
    ends = scene.punch((Kind.OPEN, Kind.OPEN), (us("controlling", *servers), us("controlled", *servers)))
    assert_connected(ends)
    assert [code for code, _ in ends] == [ExitCode.OK, ExitCode.OK]


def test_a_wrong_password_is_said(scene: Scene) -> None:
    options = ("--relay-only", "--turn", f"punch:wrong@{scene.server}")
    done = scene.host(Kind.OPEN, 0).run(us("controlling", *options), cwd=Path(__file__).parents[2])
    assert done.returncode == ExitCode.NOT_AUTHORISED
    assert "turn_unauthorised" in done.stdout


@pytest.mark.parametrize("agent", [us, them])
@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("roles", ROLES)
def test_each_family(home: Path, agent: Agent, family: str, roles: tuple[str, str]) -> None:
    with closing(Namespace("families")) as place:
        place.configure(["ip", "-batch", "-"], BOTH_FAMILIES)

        def start(command: list[str], **options: Any) -> Popen[Any]:
            return place.popen(command, env=environment(home), **options)

        one = Program(us(roles[0], "--family", family), start)
        other = Program(agent(roles[1], "--family", family), start)
        introduce(one, other)
        ends = [one.end(), other.end()]
    assert_connected(ends)
    assert ("[" in event(ends[0][1], "connected")["local"]) == (family == "6")


def test_link_local_addresses_alone(home: Path) -> None:
    """Two machines and a cable, and nobody who gives them addresses."""
    with closing(Namespace("one")) as one, closing(Namespace("other")) as other:
        one.configure(["ip", "-batch", "-"], f"link add card type veth peer name card netns {other.path}\n")
        for number, place in enumerate((one, other), start=1):
            place.configure(["ip", "-batch", "-"], LINK_LOCAL.format(number=number))
        ends = [
            Program(
                us(role), lambda command, place=place, **options: place.popen(command, env=environment(home), **options)
            )
            for role, place in (("controlling", one), ("controlled", other))
        ]
        introduce(*ends)
        outcomes = [end.end() for end in ends]
    assert_connected(outcomes)
    assert event(outcomes[0][1], "connected")["remote"].startswith("[fe80::2]:")


def test_loopback_alone(home: Path) -> None:
    with closing(Namespace("loopback")) as place:
        place.configure(["ip", "-batch", "-"], "link set lo up\n")

        def start(command: list[str], **options: Any) -> Popen[Any]:
            return place.popen(command, env=environment(home), **options)

        one, other = Program(us("controlling"), start), Program(us("controlled"), start)
        introduce(one, other)
        assert_connected([one.end(), other.end()])


def test_with_loss(home: Path) -> None:
    with Lab() as lab:
        scene = Scene(lab, home)
        lab.lose(LOSS)
        stun = ("--stun", scene.server, "--timeout", "30")
        ends = scene.punch((Kind.OPEN, Kind.OPEN), (us("controlling", *stun), us("controlled", *stun)))
        for _, lines in ends:
            event(lines, "connected")
