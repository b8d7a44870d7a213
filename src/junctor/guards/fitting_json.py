"""Values that a schema refuses, changed where it leaves one way to read them: "3" for 3, "yes" stays what it is."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

ROUNDS = 4
MOST_ERRORS = 200
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
BOOLEANS = {"true": True, "false": False}


def fit_to(value: Any, validator: Any) -> Any:
    """A value in which what the schema refuses was changed where that is unambiguous; it may still be refused."""
    fitted = value
    for _ in range(ROUNDS):
        errors = [error for error, _ in zip(validator.iter_errors(fitted), range(MOST_ERRORS), strict=False)]
        changes = [(list(error.instance_path), change) for error in errors if (change := _change(error)) is not None]
        if not changes:
            return fitted
        if fitted is value:
            fitted = copy.deepcopy(value)
        for path, (new,) in changes:
            fitted = _put(fitted, path, new)
    return fitted


def _put(root: Any, path: list[Any], new: Any) -> Any:
    if not path:
        return new
    holder = root
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = new
    return root


def _change(error: Any) -> tuple[Any] | None:
    """The one value that would do instead, in a tuple; None when there is none, or more than one."""
    kind = error.kind
    if kind.name == "type":
        options = _of_types(error.instance, list(kind.types))
    elif kind.name == "enum":
        options = _of_options(error.instance, list(kind.options))
    else:
        return None
    return (options[0],) if len(options) == 1 else None


def _of_options(value: Any, options: list[Any]) -> list[Any]:
    """Options that differ from a text only in case and blanks."""
    if not isinstance(value, str):
        return [option for option in options if isinstance(option, str) and option == json.dumps(value)]
    plain = value.strip().casefold()
    return [option for option in options if isinstance(option, str) and option.strip().casefold() == plain] or [
        option for option in options if not isinstance(option, str) and json.dumps(option) == plain
    ]


def _of_types(value: Any, types: list[str]) -> list[Any]:
    if isinstance(value, str):
        return _read(value.strip(), types)
    if isinstance(value, bool):
        return []
    if isinstance(value, (int, float)) and types == ["string"]:
        return [json.dumps(value)]
    return []


def _read(text: str, types: list[str]) -> list[Any]:
    """What a text says, as one of these types."""
    if NUMBER.fullmatch(text):
        number = json.loads(text)
        if "number" in types:
            return [number]
        return [int(number)] if "integer" in types and number == int(number) else []
    if "boolean" in types and text.lower() in BOOLEANS:
        return [BOOLEANS[text.lower()]]
    return [None] if types == ["null"] and text.lower() in ("null", "none", "") else []
