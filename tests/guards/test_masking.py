"""Masks: consistent, reversible whole and in pieces, in every place where words stand; and nothing else is touched."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import ConfigError, GuardRefused
from junctor.guards.contracts import Chain
from junctor.guards.masking import PiiGuard

from .conftest import DONE, asked, chunk, content_of, heard, replied, streamed

MAIL, OTHER = "ana@example.org", "bo@example.org"


def chain(**settings: object) -> Chain:
    return Chain([PiiGuard.from_settings(settings)])


def test_every_place_where_words_stand_is_masked_and_nothing_else_is_touched() -> None:
    image = {"type": "image_url", "image_url": {"url": f"https://x.example/{MAIL}"}}
    sent = asked(
        {"role": "system", "content": f"you serve {MAIL}"},
        {"role": "user", "content": [{"type": "text", "text": f"I am {OTHER}"}, image]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "mail", "arguments": json.dumps({"to": [OTHER], "n": 1})}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": f"sent to {MAIL}"},
        {"role": "user", "content": "thanks"},
        user=MAIL,
        temperature=0.5,
    )
    request, noticed = chain().before(sent)
    messages = request.params["messages"]
    assert messages[0]["content"] == "you serve <EMAIL_1>"
    assert messages[1]["content"] == [{"type": "text", "text": "I am <EMAIL_2>"}, image]
    assert json.loads(messages[2]["tool_calls"][0]["function"]["arguments"]) == {"to": ["<EMAIL_2>"], "n": 1}
    assert messages[3] == {"role": "tool", "tool_call_id": "1", "content": "sent to <EMAIL_1>"}
    assert request.params["user"] == "<EMAIL_1>"
    assert request.params["temperature"] == 0.5
    assert request.messages[1].content[0]["text"] == "I am <EMAIL_2>"
    assert sent.params["messages"][0]["content"] == f"you serve {MAIL}"
    assert noticed.findings == ["pii: email 5"]


def test_a_call_of_a_custom_tool_and_a_prediction_are_masked_too() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "mail", "input": f"to {MAIL}"}}
    request, noticed = chain().before(asked({"role": "assistant", "content": None, "tool_calls": [call]}))
    assert request.params["messages"][0]["tool_calls"][0]["custom"] == {"name": "mail", "input": "to <EMAIL_1>"}
    assert noticed.findings == ["pii: email 1"]
    request, _ = chain().before(asked("mend it", prediction={"type": "content", "content": f"mail {MAIL}"}))
    assert request.params["prediction"]["content"] == "mail <EMAIL_1>"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ana\u200b@exam\u00adple.org!", "<EMAIL_1>!"),
        ("\u201cana\uff20example.org\u201d", "\u201c<EMAIL_1>\u201d"),
        ("card 4111\u00a01111\u00a01111\u00a01111.", "card <CARD_1>."),
        ("card 4111\u20111111\u20111111\u20111111", "card <CARD_1>"),
        ("DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00", "<IBAN_1>"),
        ("see https://x.example/?mail=ana@example.org", None),
        ("\u2013 nothing\u00a0here \uff01", "\u2013 nothing\u00a0here \uff01"),
    ],
)
def test_other_blanks_dashes_and_what_nobody_sees_hide_nothing(text: str, masked: str | None) -> None:
    """The placeholder stands where the value stood, and gives back exactly what was written."""
    request, noticed = chain().before(asked(text))
    sent = request.params["messages"][0]["content"]
    assert sent == masked or (masked is None and MAIL not in sent)
    reply = json.loads(chain().after(request, replied(sent), noticed))
    assert reply["choices"][0]["message"]["content"] == text


def test_what_encoders_and_the_journal_read_is_masked_too() -> None:
    request, _ = chain().before(asked(f"I am {MAIL}"))
    assert request.text == "I am <EMAIL_1>"


def test_a_name_that_is_known_is_masked_where_rules_alone_would_miss_it() -> None:
    request, _ = chain().before(asked("My name is Oduya Zephyrin", "tell them that Oduya Zephyrin asks"))
    assert [m["content"] for m in request.params["messages"]] == ["My name is <PERSON_1>", "tell them that <PERSON_1> asks"]


def test_a_longer_conversation_keeps_the_numbers_of_its_beginning() -> None:
    first, _ = chain().before(asked(f"a {MAIL}"))
    later, _ = chain().before(asked(f"a {MAIL}", {"role": "assistant", "content": "ok"}, f"b {OTHER} {MAIL}"))
    assert later.params["messages"][0] == first.params["messages"][0]
    assert later.params["messages"][2]["content"] == "b <EMAIL_2> <EMAIL_1>"


def test_a_placeholder_that_somebody_wrote_himself_is_not_used_again() -> None:
    links = chain()
    request, noticed = links.before(asked(f"what is <EMAIL_1>? mine is {MAIL}"))
    assert request.params["messages"][0]["content"] == "what is <EMAIL_1>? mine is <EMAIL_2>"
    assert content_of(links.after(request, replied("<EMAIL_1> <EMAIL_2>"), noticed)) == f"<EMAIL_1> {MAIL}"


def test_nothing_found_is_nothing_changed() -> None:
    links, sent = chain(), asked("What is the weather like?")
    request, noticed = links.before(sent)
    assert request is sent
    assert links.filters(request, noticed) == []
    assert links.after(request, b"not even json <", noticed) == b"not even json <"


def test_more_than_can_be_looked_through_is_refused_not_let_through() -> None:
    links = chain(most_characters=100)
    links.before(asked("x" * 100))
    with pytest.raises(GuardRefused, match="101 characters"):
        links.before(asked("x" * 101))


def test_many_values_take_no_long_time() -> None:
    links = chain()
    mails = " <X_1> ".join(f"u{i}@example.org" for i in range(3_000))
    began = time.process_time()
    request, noticed = links.before(asked(mails))
    said = request.params["messages"][0]["content"]
    assert "@" not in said
    assert content_of(links.after(request, replied(said), noticed)) == mails
    assert time.process_time() - began < 5


def test_modes_by_kind() -> None:
    links = chain(mode="annotate", kinds={"email": "mask", "card": "block", "url": "annotate"})
    request, noticed = links.before(asked(f"{MAIL} https://example.org/ 078-05-1120"))
    assert request.params["messages"][0]["content"] == "<EMAIL_1> https://example.org/ 078-05-1120"
    assert noticed.findings == ["pii: email 1, ssn 1, url 1"]
    with pytest.raises(GuardRefused, match="card") as refused:
        links.before(asked("4111 1111 1111 1111"))
    assert "4111" not in str(refused.value)


@pytest.mark.parametrize("settings", [{"kinds": {"emial": "mask"}}, {"mode": "hide"}, {"least": 2}, {"knids": {}}])
def test_wrong_settings_name_the_field(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as wrong:
        PiiGuard.from_settings(settings)
    assert wrong.value.field
    assert wrong.value.fix


@pytest.mark.parametrize("form", ["<EMAIL_1>", "\\u003cEMAIL_1\\u003e", "\\u003CEMAIL_1\\u003E", "&lt;EMAIL_1&gt;"])
def test_tool_arguments_are_undone_as_json_whatever_form_the_brackets_have(form: str) -> None:
    odd = 'The "Acme" Road 12'
    links = chain()
    request, noticed = links.before(asked(f"mail {MAIL}"))
    noticed.state["masks of pii"].values["<EMAIL_1>"] = odd
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": f'{{"to": "{form}"}}'}}
    body = links.after(request, replied(None, tool_calls=[call]), noticed)
    assert json.loads(json.loads(body)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"to": odd}
    events = [chunk({"tool_calls": [{"index": 0, "function": {"arguments": c}}]}) for c in f'{{"to": "{form}"}}']
    out = heard(streamed(links, request, noticed, [*events, chunk({}, finish="tool_calls"), DONE]))
    assert json.loads(out["arguments"][0]) == {"to": odd}
    assert out["finish"] == "tool_calls"


SAID = st.lists(
    st.sampled_from(
        ["<EMAIL_1>", "<EMAIL_2>", "<EMAIL_12>", "<", "<EMAIL_", "&lt;EMAIL_2&gt;", "&", "\\", "x", " y ", "é😀", ">"]
    ),
    max_size=9,
)


@settings(max_examples=100, deadline=None)
@given(SAID, SAID, st.data())
def test_a_stream_cut_anywhere_says_what_the_whole_reply_says(
    text: list[str], arguments: list[str], data: st.DataObject
) -> None:
    links = chain()
    request, noticed = links.before(asked(f"{MAIL} {OTHER}"))
    said, args = "".join(text), "".join(arguments)
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": args}}
    whole = json.loads(links.after(request, replied(said, tool_calls=[call]), noticed))["choices"][0]["message"]
    events = [chunk({"content": piece}) for piece in cuts(data, said)]
    events += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in cuts(data, args)]
    stream = b"".join([chunk({"role": "assistant", "content": ""}), *events, chunk({}, finish="stop"), DONE]).split(b"\n\n")[
        :-1
    ]
    pieces: list[bytes] = []
    while stream:  # several whole events may come in one piece
        size = data.draw(st.integers(1, len(stream)))
        pieces.append(b"".join(event + b"\n\n" for event in stream[:size]))
        stream = stream[size:]
    out = heard(streamed(links, request, noticed, pieces))
    assert out["content"] == whole["content"]
    assert out["arguments"].get(0, "") == whole["tool_calls"][0]["function"]["arguments"]
    assert (out["finish"], out["done"]) == ("stop", True)


def cuts(data: st.DataObject, text: str) -> list[str]:
    """A text in pieces."""
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True) if b > a]


def test_pieces_without_a_bracket_pass_as_the_very_same_bytes() -> None:
    links = chain()
    request, noticed = links.before(asked(MAIL))
    event = b'data: {"choices":[{"index":0,"delta":{"content":"plain words"}}]}\n\n'
    assert links.filters(request, noticed)[0].push(event) is event


def test_in_a_json_reply_values_are_escaped() -> None:
    links = chain(kinds={"address": "mask"})
    address = "12 Main Street\nSpringfield"
    request, noticed = links.before(asked(f"I live at {address}", response_format={"type": "json_object"}))
    assert "<ADDRESS_1>" in request.params["messages"][0]["content"]
    body = links.after(request, replied('{"at": "<ADDRESS_1>"}'), noticed)
    assert json.loads(content_of(body)) == {"at": address}
