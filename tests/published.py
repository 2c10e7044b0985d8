"""Whether what a command printed is what `kodectl COMMAND --schema` says."""

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from kodectl.cli.command import Branch
from kodectl.cli.documents import schema_of
from kodectl.cli.tree import TREE

PREFIX = "kodectl."
GROUPS = {"kodectl", *(name for name, child in TREE.items() if isinstance(child, Branch))}
"""What prints nothing but errors in its arguments: they come before there is a command."""


def check_documents(output: str | bytes, *, lines: bool = False) -> list[dict[str, Any]]:
    """Each line of JSON in `output` is valid by the schema of the command that it names; answers all of them. `lines`:
    it was asked for with --jsonl."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    documents = [json.loads(line) for line in text.splitlines() if line.startswith('{"schema":"kodectl')]
    for document in documents:
        name = document["schema"].removeprefix(PREFIX).rpartition("/")[0]
        if name not in GROUPS:
            validator_of(name, lines).validate(document)
    return documents


@cache
def validator_of(command: str, lines: bool) -> Draft202012Validator:
    """Stricter than what is published, which lets fields be added: here each must be in it."""
    schema = schema_of(command, lines=lines)
    for definition in schema["$defs"].values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
