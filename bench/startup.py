"""Start-up of the light commands, as a ratio to `python -c "import click"`: `python bench/startup.py`.

The runs are interleaved, so that a busy machine slows both sides; the mark is 1.5.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 21
MARK = 1.5
ENODE = f"enode://{'ab' * 32}@203.0.113.5:30303?discport=30301"
BASELINE = [sys.executable, "-c", "import click"]


def cases() -> dict[str, tuple[list[str], dict[str, str]]]:
    module = [sys.executable, "-m", "kodectl"]
    completing = {"_KODECTL_COMPLETE": "1"}
    found = {
        "-m kodectl --help": ([*module, "--help"], {}),
        "-m kodectl enode parse": ([*module, "enode", "parse", ENODE], {}),
        "-m kodectl <TAB>": ([*module, ""], completing),
        "-m kodectl key gen --<TAB>": ([*module, "key", "gen", "--"], completing),
        "-m kodectl node ban <TAB>": ([*module, "node", "ban", ""], completing),
    }
    script = shutil.which("kodectl", path=str(Path(sys.executable).parent))
    if script:
        found["kodectl --help"] = ([script, "--help"], {})
        found["kodectl enode parse"] = ([script, "enode", "parse", ENODE], {})
        found["kodectl <TAB>"] = ([script, ""], completing)
    return found


def seconds(command: list[str], extra: dict[str, str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env={**environment, **extra}, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> int:
    measured = {"import click": (BASELINE, {}), **cases()}
    with tempfile.TemporaryDirectory() as compiled:
        # As installed: with bytecode, wherever the sources are.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        times: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(RUNS + 1):
            for name, (command, extra) in measured.items():
                took_s = seconds(command, extra, environment)
                if number:  # the first round compiles
                    times[name].append(took_s)
    base_s = statistics.median(times["import click"])
    ratios = {name: statistics.median(found) / base_s for name, found in times.items()}
    for name, ratio in ratios.items():
        print(f"{statistics.median(times[name]) * 1000:7.1f} ms  {ratio:5.2f}  {name}")
    return int(max(ratios.values()) > MARK)


if __name__ == "__main__":
    sys.exit(main())
