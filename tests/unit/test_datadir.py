"""A data directory and its one holder."""

import os
import resource
from pathlib import Path

import pytest

from kodectl.errors import EnvironmentFault
from kodectl.store.datadir import LOCK_FILE, hold, is_held


def test_it_is_made_private_and_held_until_the_end(tmp_path: Path) -> None:
    datadir = tmp_path / "deep" / "data"
    with hold(datadir):
        assert datadir.stat().st_mode & 0o777 == 0o700
        assert is_held(datadir)
        with pytest.raises(EnvironmentFault, match=f"process {os.getpid()}") as caught, hold(datadir):
            pass
        assert caught.value.code == "datadir_in_use"
    assert not is_held(datadir)


def test_a_disk_without_room_for_the_process_id_does_not_matter(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with hold(tmp_path):
            assert is_held(tmp_path)
            assert (tmp_path / LOCK_FILE).read_bytes() == b""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_in_the_place_of_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(EnvironmentFault, match=f"{tmp_path / LOCK_FILE}: Is a directory"), hold(tmp_path):
        pass


@pytest.mark.parametrize("place", ["/dev/null", "/proc/kodectl", "/" + "x" * 300])
def test_a_place_that_cannot_be_used_is_named(place: str) -> None:
    with pytest.raises(EnvironmentFault, match=place) as caught, hold(Path(place)):
        pass
    assert caught.value.code == "path_unwritable"
