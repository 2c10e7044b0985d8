"""A foreign ICE agent (aioice) that speaks the lines of `kodectl nat punch --jsonl`; run as a program.

aioice_peer.py ROLE COUNT [--stun HOST:PORT] [--turn USER:PASS@HOST:PORT] [--relay-only] [--family 4|6]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from statistics import median

import aioice
from aioice.candidate import Candidate

CONNECT_LIMIT_S = 15.0
ECHO_LIMIT_S = 5.0


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def connection_of(arguments: argparse.Namespace) -> aioice.Connection:
    servers: dict[str, object] = {}
    if arguments.stun:
        servers["stun_server"] = place(arguments.stun)
    if arguments.turn:
        credentials, _, host = arguments.turn.rpartition("@")
        user, _, password = credentials.partition(":")
        servers |= {"turn_server": place(host), "turn_username": user, "turn_password": password}
    if arguments.relay_only:
        servers["transport_policy"] = aioice.TransportPolicy.RELAY
    return aioice.Connection(
        ice_controlling=arguments.role == "controlling",
        use_ipv4=arguments.family != 6,
        use_ipv6=arguments.family != 4,
        **servers,  # type: ignore[arg-type]
    )


async def main(arguments: argparse.Namespace) -> None:
    connection = connection_of(arguments)
    await connection.gather_candidates()
    lines = [f"candidate:{candidate.to_sdp()}" for candidate in connection.local_candidates]
    tell(ufrag=connection.local_username, pwd=connection.local_password, candidates=lines)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    theirs = json.loads(line)
    began = time.perf_counter()
    for text in theirs["candidates"]:
        await connection.add_remote_candidate(Candidate.from_sdp(text.removeprefix("candidate:")))
    await connection.add_remote_candidate(None)  # type: ignore[arg-type]  # the end of candidates
    connection.remote_username, connection.remote_password = theirs["ufrag"], theirs["pwd"]
    try:
        await asyncio.wait_for(connection.connect(), CONNECT_LIMIT_S)
    except (ConnectionError, TimeoutError) as error:
        tell(event="failed", why=repr(error))
        return
    tell(event="connected", ms=(time.perf_counter() - began) * 1000)
    await (ping if arguments.role == "controlling" else echo)(connection, arguments.count)
    await connection.close()


async def ping(connection: aioice.Connection, count: int) -> None:
    times: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        await connection.send(b"ping %d" % number)
        try:
            await asyncio.wait_for(connection.recv(), ECHO_LIMIT_S)
        except TimeoutError:
            continue
        times.append((time.perf_counter() - began) * 1000)
    tell(event="done", echoed=len(times), rtt_ms_median=median(times) if times else None)


async def echo(connection: aioice.Connection, count: int) -> None:
    echoed = 0
    while echoed < count:
        await connection.send(await asyncio.wait_for(connection.recv(), ECHO_LIMIT_S))
        echoed += 1
    tell(event="done", echoed=echoed)
    await asyncio.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["controlling", "controlled"])
    parser.add_argument("count", type=int)
    parser.add_argument("--stun")
    parser.add_argument("--turn")
    parser.add_argument("--relay-only", action="store_true")
    parser.add_argument("--family", type=int)
    asyncio.run(main(parser.parse_args()))
