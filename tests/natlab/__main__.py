"""`python -m natlab KIND [COMMAND...]`, as root, in tests/: a shell or a command on a host behind a router of a kind, with
a STUN server at hand (RFC 5780, two addresses). Its exit code is the command's."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from . import Kind, Lab, LabError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m natlab", description="A command behind a NAT of a kind, or a shell."
    )
    parser.add_argument("kind", choices=[kind.value for kind in Kind])
    parser.add_argument("--hairpin", action="store_true")
    parser.add_argument("--udp-timeout-s", type=int)
    parser.add_argument("--change-ports", action="store_true", help="do not preserve them")
    parser.add_argument("--loss", type=float, default=0.0, help="share of what crosses the internet, such as 0.2")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a shell without one")
    chosen = parser.parse_args()
    begin = time.monotonic()
    try:
        with Lab() as lab:
            server = lab.public("stun", addresses=2)
            lab.coturn(server)
            host = lab.behind(
                Kind(chosen.kind),
                hairpin=chosen.hairpin,
                udp_timeout_s=chosen.udp_timeout_s,
                preserve_ports=not chosen.change_ports,
            )
            lab.lose(chosen.loss)
            print(
                f"{host.ip} behind {host.external_ip} ({chosen.kind}); STUN at {server.ip}:3478;"
                f" set up in {time.monotonic() - begin:.2f} s",
                file=sys.stderr,
            )
            command = chosen.command or [os.environ.get("SHELL", "/bin/sh")]
            process = host.popen(command, start_new_session=False)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command; the lab ends when that does
            return process.wait()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
