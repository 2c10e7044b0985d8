"""Which key file a command means, and its passphrase."""

from __future__ import annotations

from pathlib import Path

from kodectl.cli.output import Output
from kodectl.errors import EnvironmentFault
from kodectl.store.keyfile import StoredKey, create_key, load_key, read_passphrase

KEY_FILE = "node.key"


def key_path(given: str | None, datadir: Path) -> Path:
    """The file that was named, else the data directory's."""
    return Path(given) if given is not None else datadir / KEY_FILE


def passphrase_of(passphrase_file: str | None) -> bytes | None:
    return None if passphrase_file is None else read_passphrase(Path(passphrase_file))


def open_key(output: Output, path: Path, passphrase_file: str | None) -> StoredKey:
    """Reads the key, and warns when others could too."""
    key = load_key(path, passphrase_of(passphrase_file))
    if key.exposed:
        output.warn("key_exposed", f"{path} is open to others (mode {key.mode:o})", f"chmod 600 {path}")
    return key


def open_or_make(output: Output, path: Path, passphrase_file: str | None) -> StoredKey:
    if not path.exists():
        make_directory(path.parent)
        create_key(path, passphrase_of(passphrase_file))
        output.note(f"made a new identity in {path}")
    return open_key(output, path, passphrase_file)


def make_directory(directory: Path) -> None:
    """The data directory: nobody else has business in it. Raises EnvironmentFault (path_unwritable)."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot make {directory}: {error.strerror}", code="path_unwritable") from error
