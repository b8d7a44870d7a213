"""Cutting streams into events: Amazon's frames and server-sent events, in any portions, damaged or not."""

import contextlib
import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junctor.providers import event_lines, event_stream
from junctor.providers.event_lines import BadEvent, EventLines
from junctor.providers.event_stream import Frames

from .fakes.bedrock import framed

HEADERS = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=4)
MESSAGES = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=5)


def portions(data, cuts):
    places = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(MESSAGES, st.lists(st.integers(0, 2000), max_size=20))
def test_frames_come_out_as_they_went_in(messages, cuts):
    frames = Frames()
    data = b"".join(framed(headers, payload) for headers, payload in messages)
    found = [frame for piece in portions(data, cuts) for frame in frames.feed(piece)]
    assert [(f.headers, f.payload) for f in found] == messages


@given(HEADERS, st.binary(max_size=100), st.data())
def test_a_flipped_bit_is_found(headers, payload, data):
    """Wherever it is."""
    whole = bytearray(framed(headers, payload))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadEvent):
        Frames().feed(bytes(whole))


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_bad(data):
    """No other exception, and no event out of noise."""
    with contextlib.suppress(BadEvent):
        assert Frames().feed(data) == []


def sealed(head, payload=b""):
    """A message with right checksums and these header bytes."""
    start = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = start + struct.pack(">I", zlib.crc32(start)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))


def test_header_types_that_nobody_reads_are_stepped_over():
    head = b"\x01a\x00" + b"\x01b\x02\x07" + b"\x01c\x08" + b"\0" * 8 + b"\x01d\x06\0\x02xy" + b"\x01e\x07\0\x02hi"
    assert Frames().feed(sealed(head))[0].headers == {"e": "hi"}


@pytest.mark.parametrize(
    "head", [b"\x05ab", b"\x01a\x63", b"\x01a\x07\0\x09xy", b"\x01\xff\x07\0\x01x", b"\x01a\x07\0\x01\xff"]
)
def test_damaged_headers(head):
    with pytest.raises(BadEvent):
        Frames().feed(sealed(head))


def test_events_are_bounded(monkeypatch):
    monkeypatch.setattr(event_stream, "EVENT_BYTES", 100)
    monkeypatch.setattr(event_lines, "EVENT_BYTES", 100)
    with pytest.raises(BadEvent, match="over 100"):
        Frames().feed(framed({}, b"x" * 100))
    for drip in (b"data: " + b"x" * 200, b"data: x\n" * 50):
        with pytest.raises(BadEvent, match="over 100"):
            EventLines().feed(drip)


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 900), max_size=20),
)
def test_event_lines_come_out_as_they_went_in(texts, end, cuts):
    data = "".join(f"event: x{end}: comment{end}data: {text}{end}{end}" for text in texts).encode()
    lines = EventLines()
    found = [event for piece in portions(data, cuts) for event in lines.feed(piece)]
    assert found == [text.encode() for text in texts]


def test_data_of_several_lines_is_one_event():
    assert EventLines().feed(b"data: a\ndata:b\n\n\n\ndata: c\n\n") == [b"a\nb", b"c"]
