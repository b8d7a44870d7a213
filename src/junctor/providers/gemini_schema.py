"""A JSON schema in the words of Gemini's `Schema`, which knows a part of OpenAPI 3.0; None where it has no words for it.

References are written out, `oneOf` becomes `anyOf`, "or null" becomes `nullable`, `const` an `enum`. What only annotates
(`$schema`, `examples`, `additionalProperties`, …) is left out. What would change the meaning (`not`, `if`, an `enum` of
numbers, a schema that contains itself, …) cannot be said: then the JSON schema itself is sent, to a field that newer models
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = (
    "title",
    "description",
    "format",
    "default",
    "example",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "propertyOrdering",
    "required",
    "nullable",
)
ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "examples", "additionalProperties", "deprecated", "strict"}
)
READ = frozenset({"type", "enum", "const", "properties", "items", "anyOf", "oneOf", "allOf", "$ref"})
TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})
FORMATS = frozenset({"enum", "date-time", "float", "double", "int32", "int64"})
DEEPEST = 32
MOST_PARTS = 2000


class _NoWords(Exception):
    """Gemini's schema cannot say it."""


def reduced(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema as Gemini takes it, or None."""
    try:
        return _Reduction(schema).of(schema, 0)
    except _NoWords:
        return None


class _Reduction:
    """One schema on its way; a schema that contains itself, or is huge written out, ends it."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = MOST_PARTS

    def of(self, schema: Any, depth: int) -> dict[str, Any]:
        """A part of the schema, reduced."""
        self._left -= 1
        if not isinstance(schema, Mapping) or depth > DEEPEST or self._left < 0:
            raise _NoWords
        schema = _flat(schema, self._root)
        if any(key not in KEPT and key not in READ and key not in ANNOTATIONS for key in schema):
            raise _NoWords
        out = {key: schema[key] for key in KEPT if key in schema}
        if out.get("format") not in (None, *FORMATS):
            del out["format"]  # a hint (email, uri, …) that Gemini does not know
        _put_type(out, schema)
        _put_values(out, schema)
        if isinstance(found := schema.get("properties"), Mapping):
            out["properties"] = {name: self.of(inner, depth + 1) for name, inner in found.items()}
        if "items" in schema:
            out["items"] = self.of(schema["items"], depth + 1)
        self._put_choices(out, schema, depth)
        return out

    def _put_choices(self, out: dict[str, Any], schema: Mapping[str, Any], depth: int) -> None:
        choices = schema.get("anyOf", schema.get("oneOf"))
        if choices is None:
            return
        if not isinstance(choices, list) or ("anyOf" in schema and "oneOf" in schema):
            raise _NoWords
        real = [one for one in choices if not (isinstance(one, Mapping) and one.get("type") == "null")]
        if len(real) < len(choices):
            out["nullable"] = True
        if len(real) == 1:
            out.update({**self.of(real[0], depth + 1), **out})
        else:
            out["anyOf"] = [self.of(one, depth + 1) for one in real]


def _flat(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """References followed, an `allOf` of one part opened."""
    for _ in range(DEEPEST):
        if isinstance(ref := schema.get("$ref"), str):
            schema = {**_found(ref, root), **{key: value for key, value in schema.items() if key != "$ref"}}
        elif "allOf" in schema:
            parts = schema["allOf"]
            if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], Mapping):
                raise _NoWords
            schema = {**parts[0], **{key: value for key, value in schema.items() if key != "allOf"}}
        else:
            return schema
    raise _NoWords


def _found(ref: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    place: Any = root
    if not ref.startswith("#"):
        raise _NoWords
    for step in ref.removeprefix("#").strip("/").split("/"):
        if step:
            place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        raise _NoWords
    return place


def _put_type(out: dict[str, Any], schema: Mapping[str, Any]) -> None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in kind if one != "null"]
        if len(kinds) < len(kind):
            out["nullable"] = True
        if len(kinds) != 1:
            raise _NoWords
        kind = kinds[0]
    if kind is None:
        return
    if not isinstance(kind, str) or kind not in TYPES:
        raise _NoWords
    out["type"] = kind.upper()


def _put_values(out: dict[str, Any], schema: Mapping[str, Any]) -> None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None:
        return
    texts = [value for value in values if value is not None] if isinstance(values, list) else []
    if not texts or not all(isinstance(value, str) for value in texts):
        raise _NoWords
    if len(texts) < len(values):
        out["nullable"] = True
    out |= {"type": "STRING", "format": "enum", "enum": texts}
