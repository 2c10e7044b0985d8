"""The state file of a crawl, cut anywhere, and opened by others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.errors import EnvironmentFault
from kodectl.node.crawl_views import SilentLine
from kodectl.store.crawl_file import open_crawl

LINES = [SilentLine(f"{number:02x}" * 32, "203.0.113.7", number, "timeout") for number in range(5)]


def written(path, lines=LINES):
    with open_crawl(path, resume=True) as file:
        found = list(file.lines())
        file.begin("kodechain")
        for line in lines:
            file.append(line)
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_anywhere_it_has_the_lines_before_and_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("crawl") / "state"
    written(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = whole[:cut].count(b"\n")
    assert written(path, LINES[-1:]) == LINES[: max(0, ends - 1)]
    assert written(path, []) == [*LINES[: max(0, ends - 1)], LINES[-1]]


def test_a_file_that_is_no_crawl_s_is_not_cut(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"somebody's text\nand its end")
    with open_crawl(path, resume=True) as file, pytest.raises(EnvironmentFault) as raised:
        list(file.lines())
    assert raised.value.code == "crawl_file_unreadable"
    assert path.read_bytes() == b"somebody's text\nand its end"


def test_one_line_without_an_end_is_nobody_s_crawl(tmp_path):
    """A text of one unfinished line may be anything: it is not cut away as if it were the first line of a crawl."""
    path = tmp_path / "state"
    path.write_bytes(b"my notes")
    with open_crawl(path, resume=True) as file, pytest.raises(EnvironmentFault):
        list(file.lines())
    assert path.read_bytes() == b"my notes"
