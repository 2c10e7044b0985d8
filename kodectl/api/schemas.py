"""JSON Schema of the views, for the description of the API and of what commands print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


def schemas(shapes: Iterable[Any], ref_template: str) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The schema of each shape, and by name those that they refer to."""
    return msgspec.json.schema_components(shapes, schema_hook=schema_of_other, ref_template=ref_template)


def complete_schemas(shapes: Iterable[Any], ref_template: str) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """As `schemas`, of what is answered: it has all its fields, also those with a default. Unknown is null, and never
    left out."""
    references, components = schemas(shapes, ref_template)
    for schema in components.values():
        if "properties" in schema:
            schema["required"] = list(schema["properties"])
    return references, components


def schema_of_other(shape: Any) -> dict[str, Any]:
    """Of what msgspec has no schema for: any value at all."""
    if shape is object:
        return {"description": "Any value."}
    raise NotImplementedError(shape)
