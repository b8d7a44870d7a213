"""The error tree: each error is one line, knows its HTTP status, and stands in the drawing on top of its file."""

from __future__ import annotations

import inspect

import pytest

from junctor import errors
from junctor.errors import JunctorError, NoTarget, UpstreamStatus, UserError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, JunctorError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_in_the_drawing_under_its_parent(kind: type[JunctorError]) -> None:
    assert errors.__doc__ is not None
    lines = errors.__doc__.splitlines()
    depths = {
        line.replace("│", " ").replace("├── ", "    ").replace("└── ", "    ").split()[0]: _depth(line)
        for line in lines
        if _drawn(line)
    }
    assert kind.__name__ in depths
    if kind is not JunctorError:
        assert depths[kind.__name__] == depths[kind.__bases__[0].__name__] + 1


def _drawn(line: str) -> bool:
    return "──" in line or line.strip() == "JunctorError"


def _depth(line: str) -> int:
    return (len(line) - len(line.lstrip(" │├└─"))) // 4


def test_codes_are_distinct_and_statuses_fit_the_kind() -> None:
    codes = [c.code for c in CLASSES]
    assert len(codes) == len(set(codes))
    for kind in CLASSES:
        assert (400 <= kind.status < 500) == issubclass(kind, UserError), kind


def test_an_error_is_one_line_with_field_and_fix() -> None:
    assert str(UserError("is wrong", field="a.b", fix="mend it")) == "a.b: is wrong (mend it)"
    assert str(UserError("is wrong")) == "is wrong"
    refused = NoTarget("nobody can take it", refusals={"x": "no tools", "y": "too long"}, field="auto")
    assert str(refused) == "auto: nobody can take it [x: no tools; y: too long]"


@pytest.mark.parametrize(
    ("upstream", "retryable", "status"),
    [
        (400, False, 400),
        (401, False, 502),
        (403, False, 502),
        (404, False, 404),
        (408, True, 408),
        (429, True, 429),
        (500, True, 502),
        (503, True, 502),
    ],
)
def test_client_errors_pass_and_server_errors_are_a_bad_gateway(upstream: int, retryable: bool, status: int) -> None:
    error = UpstreamStatus("said no", upstream_status=upstream, target="t")
    assert (error.retryable, error.http_status) == (retryable, status)
