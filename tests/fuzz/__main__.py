"""`python tests/fuzz --target NAME --seconds N [--corpus DIR] [--keep]`: one target under atheris (libFuzzer).

Begins with the target's seeds, its kept inputs and what is in DIR, which takes what reaches new code. What fails is left in
DIR-crashes. `--keep` adds the smallest inputs of a set that covers as much (libFuzzer's -merge) to the kept ones.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]

KEPT_BYTES = 6144
"""Of a target's file: every run of the tests reads it."""
MAX_SIZE = 4096
"""Of an input; nothing that is judged by its bytes, and not by a size written in it, has more to say."""
MEMORY_LIMIT_MB = 1024
INSTRUMENTED = ("kodectl", "gevent.pywsgi", "tomllib", "Crypto.IO", "Crypto.Util.asn1")
"""Ours, and what parses for us and is Python: the coverage of these is what guides."""
BLIND_EVERY = 4
"""Of so many inputs one is a seed that was changed, whatever coverage says."""
INPUT_LIMIT_S = 10
"""For one input, on a busy machine. What takes longer is a finding."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", required=True, metavar="NAME")
    parser.add_argument("--seconds", type=int, default=20, metavar="N")
    parser.add_argument("--corpus", type=Path, metavar="DIR")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--program", default=str(HERE), help=argparse.SUPPRESS)
    parser.add_argument("libfuzzer", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _fuzz(name: str, program: str, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process. `program`: what it starts where it needs another of itself."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from fuzz.targets import TARGETS
    from fuzz.kept_lines import kept
    from fuzz.mutation import mutations

    beginnings = [*TARGETS[name].seeds, *kept(name)]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        # Where C does the reading, no coverage tells a sound input from any other, and libFuzzer drops the seeds.
        if seed % BLIND_EVERY == 0:
            return next(mutations(beginnings, 1, seed))[:most]
        mutated: bytes = atheris.Mutate(data, most)
        return mutated

    atheris.Setup([program, *options], TARGETS[name].run, custom_mutator=mutate)
    atheris.Fuzz()


def _command(name: str, *own: str) -> list[str]:
    return [sys.executable, str(HERE), "--target", name, *own, "--"]


def _keep(name: str, corpus: Path) -> int:
    """-merge=1 tries the inputs in a process of its own, which is begun again behind one that fails."""
    from fuzz.kept_lines import add

    with tempfile.TemporaryDirectory(prefix="kodectl-merged-") as place:
        program, merged = Path(place) / "again", Path(place) / "merged"
        merged.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.join(_command(name))} "$@"\n')
        program.chmod(0o700)
        done = subprocess.run([*_command(name, "--program", str(program)), "-merge=1", str(merged), str(corpus)])
        added = add(name, [path.read_bytes() for path in merged.iterdir()], KEPT_BYTES)
    print(f"{name}: {added} inputs more are kept")
    return done.returncode


def _campaign(asked: argparse.Namespace) -> int:
    from fuzz.kept_lines import kept
    from fuzz.targets import TARGETS

    name = asked.target
    corpus = asked.corpus or Path(tempfile.mkdtemp(prefix="kodectl-corpus-"))
    crashes = corpus.with_name(f"{corpus.name}-crashes")
    for directory in (corpus, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*TARGETS[name].seeds, *kept(name)]):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = [f"-max_total_time={asked.seconds}", f"-max_len={MAX_SIZE}", f"-rss_limit_mb={MEMORY_LIMIT_MB}"]
    places = [f"-timeout={INPUT_LIMIT_S}", f"-artifact_prefix={crashes}/", "-print_final_stats=1", str(corpus)]
    code = subprocess.run([*_command(name), *limits, *places]).returncode if asked.seconds else 0
    return code or (_keep(name, corpus) if asked.keep else 0)


def main() -> int:
    asked = _arguments()
    if asked.libfuzzer:
        _fuzz(asked.target, asked.program, asked.libfuzzer)
    return _campaign(asked)


if __name__ == "__main__":
    sys.exit(main())
