"""Files that appear whole or not at all, whatever happens meanwhile. Blocking (fsync)."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kodectl.errors import EnvironmentFault
from kodectl.store.disk_faults import unwritable


class FileTaken(EnvironmentFault):
    """The name belongs to another file, which stays."""

    code = "file_exists"


def write_whole(path: Path, content: bytes, *, replace: bool) -> None:
    """The file appears whole, synced and 0600, or not at all: written beside its place, then moved there.

    Raises FileTaken (unless `replace`), also when somebody else takes the name meanwhile, and EnvironmentFault
    (path_unwritable, disk_full)."""
    try:
        if replace or not _written_without_a_name(path, content):
            with _written_beside(path, content) as beside:
                if replace:
                    os.replace(beside, path)
                else:
                    _link(beside, path, content)
        sync_directory(path.parent)
    except FileExistsError as error:
        hint = "choose another name, or replace it with --force"
        raise FileTaken(f"{path} exists and is not overwritten", hint=hint) from error
    except OSError as error:
        raise unwritable(f"cannot write {path}", error) from error


def _written_without_a_name(path: Path, content: bytes) -> bool:
    """The file has no name until it is whole: whoever is killed before leaves nothing behind. False where that cannot be done.

    Raises FileExistsError."""
    with ExitStack() as opened:
        try:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, directory)
            descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, descriptor)
            os.fchmod(descriptor, 0o600)
            with os.fdopen(descriptor, "wb", closefd=False) as stream:
                stream.write(content)
            os.fsync(descriptor)
            # With a directory it is linkat(2), which follows this link; link(2) does not.
            os.link(f"/proc/self/fd/{descriptor}", path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except FileExistsError:
            raise
        except (
            OSError
        ):  # a file system that has no such files, no /proc; what else it may be, the usual way says as well
            return False
    return True


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[str]:
    """A synced file of mode 0600 in the same directory, gone at the end unless it was moved."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _link(beside: str, path: Path, content: bytes) -> None:
    """Gives the file its name only if the name is free; `rename` would take it in any case."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _write_exclusively(path, content)  # a file system without hard links


def _write_exclusively(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def sync_directory(directory: Path) -> None:
    """After it the names in it outlive a power cut, as a sync of the files alone does not make them."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
