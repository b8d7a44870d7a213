"""Tokens, pieces and bodies."""

from __future__ import annotations

import json

import pytest

from junctor.providers import answers
from junctor.providers.base import Usage
from junctor.types import Message, Request


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("  \n", 0), ("Hi!", 2), ("letter", 1), ("letters", 2), ("a b c", 3), ("x" * 13, 3)]
)
def test_tokens_are_marks_and_words_by_sixes(text: str, tokens: int) -> None:
    assert answers.count_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "one", "one two", "  lead and tail \n ", "a\n\nb", " "])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(answers.words(text)) == text


def test_content_is_text_or_its_text_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, "stray", {"type": "text", "text": "b"}]
    assert answers.content_text(parts) == "a\nb"
    assert answers.content_text(None) == ""
    assert answers.prompt_text(Request()) == ""
    assert answers.prompt_text(Request(messages=(Message("user", "x"), Message("assistant", "y")))) == "x"


def test_cutting_keeps_whole_words() -> None:
    assert answers.cut("one two three", 2) == ("one two", "length")
    assert answers.cut("one two three", 3) == ("one two three", "stop")
    assert answers.cut("incomprehensibilities", 1) == ("", "length")


def test_usage_shows_parts_only_where_known() -> None:
    plain = answers.usage_json(Usage(input_tokens=3, output_tokens=4))
    assert plain == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    full = answers.usage_json(Usage(input_tokens=3, output_tokens=4, cached_tokens=1, reasoning_tokens=2))
    assert full["prompt_tokens_details"] == {"cached_tokens": 1}
    assert full["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_lone_surrogates_can_be_written() -> None:
    body = answers.completion_body("i", "m", "caf\udce9", Usage())
    assert json.loads(body)["choices"][0]["message"]["content"] == "caf?"


def test_an_output_limit_is_a_positive_integer() -> None:
    assert answers.output_limit(Request(params={"max_tokens": 5})) == 5
    assert answers.output_limit(Request(params={"max_completion_tokens": 2, "max_tokens": 5})) == 2
    assert answers.output_limit(Request(params={"max_tokens": "5"})) is None


async def test_a_ready_stream_can_be_closed_early() -> None:
    from junctor.providers.base import Reply

    stream = answers.ReadyStream(Request(), "m", "a b c d", Reply(body=b"", finish_reason="stop"))
    seen = []
    async for event in stream:
        seen.append(event)
        await stream.aclose()
    assert len(seen) == 1


def test_ids_follow_the_request() -> None:
    assert answers.new_id(Request(id="r")) == "chatcmpl-r"
    assert answers.new_id(Request()) != answers.new_id(Request())
