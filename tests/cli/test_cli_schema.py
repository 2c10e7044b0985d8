"""`--schema`: every command says what its documents look like, and needs nothing for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError
from published import check_documents

from kodectl.cli.command import Branch
from kodectl.cli.documents import DOCUMENTS, schema_of
from kodectl.cli.main import cli
from kodectl.cli.tree import TREE

ENVELOPE = {"schema", "ok", "ts", "elapsed_ms", "warnings"}


def leaves(tree: Mapping[str, str | Branch], words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, child in tree.items():
        if isinstance(child, Branch):
            yield from leaves(child.children, (*words, name))
        else:
            yield (*words, name)


def test_every_command_and_no_other_has_documents() -> None:
    assert set(DOCUMENTS) == {".".join(words) for words in leaves(TREE)}


@pytest.mark.parametrize("words", list(leaves(TREE)), ids=" ".join)
def test_the_schema_is_one_and_needs_no_arguments(words: tuple[str, ...]) -> None:
    for more in ([], ["--json"], ["--jsonl"]):
        done = CliRunner().invoke(cli, [*words, *more, "--schema"])
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        schema = json.loads(done.stdout)
        Draft202012Validator.check_schema(schema)
        assert schema["title"] == f"kodectl.{'.'.join(words)}/1"
        good, bad, *_ = schema["oneOf"]
        assert (set(good["required"]), set(bad["required"])) == (ENVELOPE | {"data"}, ENVELOPE | {"error"})


def test_lines_have_a_schema_of_their_own() -> None:
    document, line = (schema_of("node.peers", lines=lines) for lines in (False, True))
    assert document["oneOf"][0]["properties"]["data"] == {"$ref": "#/$defs/PeersView"}
    assert line["oneOf"][0]["properties"]["data"] == {"$ref": "#/$defs/PeerView"}


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"id": 7}},
        {"data": {}},
        {"data": {"id": "ab", "more": 1}},
        {"ok": False},
        {"schema": "kodectl.key.id/2"},
        {"warnings": [{"code": "x"}]},
        {"extra": 1},
    ],
    ids=str,
)
def test_what_is_not_so_is_noticed(change: dict[str, object]) -> None:
    good = {
        "schema": "kodectl.key.id/1",
        "ok": True,
        "ts": "2026-01-01T00:00:00.000Z",
        "elapsed_ms": 1.0,
        "data": {"id": "ab"},
        "warnings": [],
    }
    check_documents(json.dumps(good, separators=(",", ":")))
    with pytest.raises(ValidationError):
        check_documents(json.dumps(good | change, separators=(",", ":")))
