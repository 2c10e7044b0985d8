"""Checks of the doctor that look at this machine: files, disk, limits, ports, who may use the API. They block."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from kodectl.api.access import is_loopback, load_token
from kodectl.api.files import SOCKET_FILE, TOKEN_FILE
from kodectl.cli.firewall import find_firewall
from kodectl.cli.identity import KEY_FILE
from kodectl.cli.process_limits import MIN_DESCRIPTORS
from kodectl.cli.wording import size
from kodectl.core.diagnosis import Finding, State
from kodectl.errors import EnvironmentFault, KodectlError
from kodectl.node.checks.machine import Machine
from kodectl.runtime.binding import bind_datagram, bind_stream
from kodectl.runtime.hops import first_hops, may_send
from kodectl.runtime.kernel_clock import is_clock_synchronised
from kodectl.settings import NodeSettings
from kodectl.store.keyfile import load_key, read_passphrase
from kodectl.wire.addresses import address_text, scope_of

LITTLE_SPACE = 64 * 1024 * 1024
"""A node's store keeps well below; its log and its neighbours may not."""
NO_SPACE = 1024 * 1024
PROBE_BYTES = 256 * 1024
"""Written to see whether the disk takes it: more than a transaction of the store."""
RELAY_SOCKETS = 128
"""A node that relays holds one for each address it lends."""
API_CONNECTIONS = 144
NEARLY_ALL = 0.9
ASK_LIMIT_S = 1.5
MAX_ADDRESSES = 16
SECRET_MODE = 0o077
"""Bits that no secret file has."""


class Place(NamedTuple):
    """What the checks look at. `pid`: of the node that runs, where one does."""

    settings: NodeSettings
    datadir: Path
    api: tuple[str, int]
    token_required: bool
    passphrase_file: Path | None = None
    pid: int | None = None
    node_id: str | None = None


def machine() -> Machine:
    """Blocks for a moment."""
    firewall = find_firewall()
    return Machine(is_clock_synchronised(), _clock_command(), firewall.let_in, firewall.let_out, may_send, first_hops)


def _clock_command() -> str:
    return _as_root("chronyc makestep" if shutil.which("chronyc") else "timedatectl set-ntp true")


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


# -- disk and files --------------------------------------------------------------------------------------------------------


def check_disk(place: Place) -> Finding:
    """Whether the data directory takes what a node writes; by writing, as quotas and a full disk show in nothing else."""
    folder = _existing(place.datadir)
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
        space = os.statvfs(folder)
    except OSError as error:
        return _unwritable(place, folder, error)
    free = space.f_bavail * space.f_frsize
    details = {
        "datadir": str(place.datadir),
        "free_bytes": free,
        "free_inodes": space.f_favail if space.f_files else None,
    }
    if free < LITTLE_SPACE:
        return Finding(
            "disk",
            State.FAILED if free < NO_SPACE else State.WARNING,
            f"{size(free)} are left where {place.datadir} is",
            "disk_full" if free < NO_SPACE else "disk_low",
            "a node that cannot write forgets its peers and its share of the table",
            "free space, or keep the data elsewhere with --datadir",
            f"df -h {folder}; du -xsh {folder}/* | sort -h",
            details,
        )
    to_be_made = "" if place.datadir.exists() else "; the directory is made at the first start"
    return Finding("disk", State.OK, f"{place.datadir}: writable, {size(free)} free{to_be_made}", details=details)


def _unwritable(place: Place, folder: Path, error: OSError) -> Finding:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Finding(
        "disk",
        State.FAILED,
        f"nothing can be written in {folder}: {error.strerror}",
        "disk_full" if is_full else "path_unwritable",
        "a node keeps its key, its peers and what it stores for others there",
        "free space, or keep the data elsewhere with --datadir"
        if is_full
        else "let this user write there, or choose another place",
        f"df -h {folder}; df -i {folder}" if is_full else f"ls -ld {folder}; kodectl node run --datadir DIRECTORY",
        {"datadir": str(place.datadir), "free_bytes": None, "free_inodes": None},
    )


def _existing(path: Path) -> Path:
    """`path`, or what of it is there."""
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), Path("/"))


def check_key_file(place: Place) -> Finding:
    path = place.datadir / KEY_FILE
    details = {"file": str(path)}
    if not os.path.lexists(path):
        return Finding("key_file", State.OK, f"{path} is made at the first start", details=details)
    why = "a node does not start without its identity"
    try:
        passphrase = None if place.passphrase_file is None else read_passphrase(place.passphrase_file)
        key = load_key(path, passphrase)
    except KodectlError as error:
        if error.code == "key_encrypted":
            return Finding("key_file", State.OK, f"{path} is encrypted; its passphrase was not given", details=details)
        mend = error.hint or "put the right file there, or move this one away: a new identity is then made"
        command = f"kodectl key show {path}" if error.code != "key_malformed" else f"mv {path} {path}.broken"
        return Finding("key_file", State.FAILED, error.message, error.code, why, mend, command, details)
    if key.exposed:
        seen = f"{path} can be read by others (mode {key.mode:04o})"
        mend = "take the others' rights away; if they may have used them, make a new identity"
        return Finding("key_file", State.FAILED, seen, "key_exposed", why, mend, f"chmod 600 {path}", details)
    if place.node_id is not None and key.node_id.hex() != place.node_id:
        seen = f"{path} holds {key.node_id.hex()[:16]}, and the node that runs is {place.node_id[:16]}"
        mend = "start the node again if the new identity is meant, or put the old file back"
        return Finding(
            "key_file",
            State.WARNING,
            seen,
            "key_replaced",
            "the next start changes who the node is",
            mend,
            "kodectl node stop",
            details,
        )
    return Finding("key_file", State.OK, f"{path}: {key.node_id.hex()[:16]}", details=details)


# -- limits and ports ------------------------------------------------------------------------------------------------------


def check_fd_limit(place: Place) -> Finding:
    settings = place.settings
    relays = 0 if settings.relay is None else RELAY_SOCKETS
    needed = settings.max_peers + API_CONNECTIONS + relays + MIN_DESCRIPTORS
    used, soft, hard = _descriptors(place.pid)
    details = {"limit": soft, "hard_limit": hard, "used": used, "needed": needed}
    raised = f"ulimit -n {max(4096, 2 * needed)}"
    if used is not None and used >= NEARLY_ALL * soft:
        return Finding(
            "fd_limit",
            State.FAILED,
            f"the node has {used} of at most {soft} files and sockets open",
            "too_many_open_files",
            "it can accept and dial nobody else",
            "start it with a higher limit (in a systemd unit: LimitNOFILE=)",
            raised,
            details,
        )
    if soft < needed:
        return Finding(
            "fd_limit",
            State.FAILED if soft < MIN_DESCRIPTORS else State.WARNING,
            f"a process may open {soft} files and sockets; {needed} may be needed for {settings.max_peers} peers",
            "too_many_open_files" if soft < MIN_DESCRIPTORS else "fd_limit_low",
            "above the limit the node can accept and dial nobody",
            "raise the limit (in a systemd unit: LimitNOFILE=), or have fewer peers",
            raised,
            details,
        )
    taken = "" if used is None else f", {used} in use"
    return Finding("fd_limit", State.OK, f"{soft} open files allowed{taken}, {needed} may be needed", details=details)


def _descriptors(pid: int | None) -> tuple[int | None, int, int]:
    """In use (None: nobody's, or not to be seen), soft and hard limit."""
    import psutil

    used = None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if pid is not None:
        try:
            process = psutil.Process(pid)
            used, (soft, hard) = process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)
        except (psutil.Error, OSError):  # somebody else's, or gone
            pass
    no_limit = (resource.RLIM_INFINITY, -1)
    return used, *(1 << 30 if limit in no_limit else limit for limit in (soft, hard))  # type: ignore[return-value]


def check_ports(place: Place) -> Finding:
    """Whether a node could bind what is configured, all at the same time."""
    settings = place.settings
    wanted = (
        ("TCP for peers", "listen", "tcp", (settings.listen_host, settings.tcp_port)),
        ("UDP for discovery", "discovery_port", "udp", (settings.listen_host, settings.udp_port)),
        ("TCP for the API", "api", "tcp", place.api),
    )
    faults: list[tuple[str, EnvironmentFault]] = []
    with ExitStack() as bound:
        for _, option, transport, address in wanted:
            try:
                numeric = _numeric(address)
                made = bound.enter_context(closing((bind_datagram if transport == "udp" else bind_stream)(numeric)))
                if transport == "tcp":
                    made.listen(1)  # two that only bind may share a port
            except EnvironmentFault as fault:
                faults.append((option, fault))
            except OSError as error:
                message = f"{address_text(*address)}: {error.strerror}"
                code = "port_in_use" if error.errno == errno.EADDRINUSE else "address_not_available"
                faults.append((option, EnvironmentFault(message, code=code)))
    details = {option: address_text(*address) for _, option, _, address in wanted}
    if not faults:
        free = ", ".join(f"{_place(address)} ({name})" for name, _, _, address in wanted)
        return Finding("ports", State.OK, f"free: {free}", details=details)
    _, first = faults[0]
    return Finding(
        "ports",
        State.FAILED,
        "; ".join(fault.message for _, fault in faults),
        first.code,
        "a node does not start without them",
        first.hint or "choose an address of this machine, and ports that are free",
        f"kodectl node run {' '.join(_others(place, faults))}",
        details,
    )


def ports_held(place: Place, tcp: str, udp: str, api: list[str]) -> Finding:
    """Of a node that runs."""
    first = f"the node has TCP {tcp}, UDP {udp}"
    return Finding(
        "ports", State.OK, first + (f", API {api[0]}" if api else ""), details={"listen": tcp, "discovery_port": udp}
    )


def _place(address: tuple[str, int]) -> str:
    host, port = address
    return address_text(host, port) if port else f"any port of {host}"


def _numeric(address: tuple[str, int]) -> tuple[str, int]:
    """Raises OSError for a name that does not resolve."""
    host, port = address
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0], port  # type: ignore[return-value]


def _others(place: Place, faults: list[tuple[str, EnvironmentFault]]) -> Iterator[str]:
    """Options that mend it. Where only the address is wrong, the port may stay, and both of the node's have one address."""
    for option, fault in faults:
        if fault.code != "address_not_available":
            yield _another(option, place)
        elif option != "discovery_port":
            host, port = ("0.0.0.0", place.settings.tcp_port) if option == "listen" else ("127.0.0.1", place.api[1])
            yield f"--{option} {address_text(host, port)}"


def _another(option: str, place: Place) -> str:
    """The option, with a port that is free."""
    host = place.settings.listen_host if option == "listen" else place.api[0]
    kind = socket.SOCK_DGRAM if option == "discovery_port" else socket.SOCK_STREAM
    host = host if _is_ours(host) else "0.0.0.0" if option == "listen" else "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"--discovery-port {port}" if option == "discovery_port" else f"--{option} {address_text(host, port)}"


def _is_ours(host: str) -> bool:
    return host in ("0.0.0.0", "::") or host in _own_addresses() or (scope_of(host) == "loopback")


def _own_addresses() -> list[str]:
    from kodectl.runtime.local_network import read_local_network

    return list(read_local_network().addresses)


# -- the API ---------------------------------------------------------------------------------------------------------------


def check_api_exposure(place: Place) -> Finding:
    """Whether anybody else than this machine's user may command the node."""
    host, port = place.api
    details: dict[str, object] = {"api": address_text(host, port), "token": None, "answers_at": []}
    token = place.datadir / TOKEN_FILE
    recipe = f"(umask 077 && openssl rand -hex 32 > {shlex.quote(str(token))})"
    try:
        is_outside = not is_loopback(_numeric(place.api)[0])
    except OSError:
        is_outside = True
    if is_outside or place.token_required:
        try:
            load_token(token)
        except EnvironmentFault as fault:
            command = fault.hint or recipe
            if not place.datadir.exists():
                command = f"mkdir -p -m 700 {shlex.quote(str(place.datadir))} && {command}"
            seen = (
                f"the API is to be served on {address_text(host, port)}: {fault.message}"
                if is_outside
                else fault.message
            )
            why = "whoever reaches it could stop the node and read its traffic; so it refuses to start like that"
            mend = "make a token, or serve the API on 127.0.0.1 only"
            return Finding("api_exposure", State.FAILED, seen, fault.code, why, mend, command, details)
        details["token"] = str(token)
    open_at = [ip for ip in _own_addresses()[:MAX_ADDRESSES] if port and not is_loopback(ip) and _answers_all(ip, port)]
    answers_at = [address_text(ip, port) for ip in open_at]
    details["answers_at"] = answers_at
    if open_at:
        return Finding(
            "api_exposure",
            State.FAILED,
            f"the API answers anybody at {', '.join(answers_at)} without a token",
            "api_exposed",
            "whoever reaches that address can stop the node, ban its peers and read its traffic",
            f"end what forwards to it (a proxy, a container's published port; ss -ltnp sport = :{port}), or ask for a token",
            f"{'' if token.exists() else f'{recipe}; '}kodectl node run --api 127.0.0.1:{port} --api-token required",
            details,
        )
    loose = _loose_files(place.datadir)
    if loose:
        return Finding(
            "api_exposure",
            State.WARNING,
            f"others may use {', '.join(map(str, loose))}",
            "api_token_unsafe",
            "who may write to the socket, or reads the token, commands the node",
            "take the others' rights away",
            f"chmod go-rwx {' '.join(map(str, loose))}",
            details,
        )
    guard = f"with the token of {token}, unencrypted" if details["token"] else "this machine only"
    return Finding("api_exposure", State.OK, f"{_place(place.api)}: {guard}", details=details)


def _answers_all(ip: str, port: int) -> bool:
    """Whether a kodectl API at this address answers somebody without a token."""
    import http.client

    connection = http.client.HTTPConnection(ip, port, timeout=ASK_LIMIT_S)
    try:
        # As a proxy in front of it, or a careless client, would ask: with a Host that the API serves.
        connection.request("GET", "/api/network/status", headers={"Host": f"localhost:{port}"})
        response = connection.getresponse()
        return response.status == 200 and b'"client":"kodectl/' in response.read(65_536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _loose_files(datadir: Path) -> list[Path]:
    found = []
    for path in (datadir / SOCKET_FILE, datadir / TOKEN_FILE):
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if stat.S_IMODE(mode) & SECRET_MODE and not stat.S_ISLNK(mode):
            found.append(path)
    return found
