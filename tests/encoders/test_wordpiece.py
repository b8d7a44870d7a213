"""Tokenisation: hand-made cases, and agreement with the reference implementation on any text."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.encoders import wordpiece
from junctor.encoders.static import DATA
from junctor.encoders.wordpiece import HEAD_CHARS, TAIL_CHARS, WordPiece, clip, is_punctuation, read_vocabulary, words

TOY = {t: i for i, t in enumerate(["[UNK]", "un", "##aff", "##able", "##ab", "a", "##a", "hello", "!", "café", "cafe", "中"])}


def toy(text: str) -> list[int]:
    return WordPiece(TOY).ids(text).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n\t ", []),
        ("hello", ["hello"]),
        ("HeLLo!", ["hello", "!"]),
        ("unaffable", ["un", "##aff", "##able"]),  # the longest match: ##able, not ##ab
        ("unaffab", ["un", "##aff", "##ab"]),
        ("unx", ["[UNK]"]),  # no match for a part: the whole word is unknown
        ("Café", ["cafe"]),  # the accent goes, whatever the vocabulary says
        ("hello中hello", ["hello", "中", "hello"]),
        ("hel\x00l\x0bo", ["hello"]),  # control characters vanish inside a word
        ("hello\u00a0hello", ["hello", "hello"]),  # a no-break space breaks here
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        ("hello\ud800", ["hello"]),  # half a surrogate pair
        ("[UNK]", ["[UNK]", "[UNK]", "[UNK]"]),  # plain text: bracket, word, bracket
    ],
)
def test_ids_of_hand_made_cases(text: str, expected: list[str]) -> None:
    assert toy(text) == [TOY[token] for token in expected]


def test_a_text_within_both_limits_is_whole_and_a_longer_one_keeps_head_and_tail() -> None:
    whole = "x" * (HEAD_CHARS + TAIL_CHARS)
    assert clip(whole) is whole
    long = "h" * HEAD_CHARS + "m" * 1_000_000 + "t" * TAIL_CHARS
    assert clip(long) == "h" * HEAD_CHARS + "\n" + "t" * TAIL_CHARS


def test_the_cache_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_CACHED_CHUNKS", 10)
    pieces = WordPiece(TOY)
    for i in range(100):
        pieces.ids(f"hello{i}")
    pieces.ids("x" * 5_000)
    assert len(pieces._cache) <= 10 + len(pieces._cache._plain)
    assert max(map(len, pieces._cache)) < 50  # a chunk that fills a prompt is not kept


def test_the_cache_of_characters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_CACHED_CHARACTERS", 10)
    assert words("".join(chr(c) for c in range(0x4E00, 0x4F00))) == [chr(c) for c in range(0x4E00, 0x4F00)]
    assert len(wordpiece._NORMALISED) <= 10


def test_words_come_out_the_same_from_cache_and_afresh() -> None:
    pieces = WordPiece(TOY)
    assert pieces.ids("unaffable hello").tolist() == pieces.ids("unaffable hello").tolist() == [1, 2, 3, 7]


@cache
def reference() -> object:
    """The tokenizers package's BERT tokeniser over the shipped vocabulary, without special tokens."""
    tokenizers = pytest.importorskip("tokenizers", reason="the reference tokeniser is not installed")
    model = tokenizers.models.WordPiece(
        read_vocabulary(DATA / "vocab.txt"), unk_token="[UNK]", max_input_chars_per_word=100, continuing_subword_prefix="##"
    )
    whole = tokenizers.Tokenizer(model)
    whole.normalizer = tokenizers.normalizers.BertNormalizer()
    whole.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return whole


@cache
def disputed() -> frozenset[str]:
    """Characters that one of the two normalises or splits differently: those newer than the reference's Unicode tables."""
    whole = reference()
    found = []
    for code in (*range(0xD800), *range(0xE000, sys.maxunicode + 1)):
        char = chr(code)
        theirs = [t for t, _ in whole.pre_tokenizer.pre_tokenize_str(whole.normalizer.normalize_str(f"a{char}b"))]
        if theirs != words(f"a{char}b"):
            found.append(char)
    return frozenset(found)


@pytest.mark.slow
def test_only_rare_new_characters_are_disputed(vocabulary: dict[str, int]) -> None:
    chars = disputed()
    assert len(chars) < 700
    assert min(map(ord, chars)) > 0x600
    assert not chars & set("".join(vocabulary))
    assert {unicodedata.category(c) for c in chars} <= {"Mn", "Mc", "Po", "Pd", "Ps", "Pe", "So", "Cf", "Cn", "Lu", "Ll", "Lo"}


# What people write: every block here is old enough that both sides know all of its characters.
WRITTEN = st.one_of(
    st.characters(min_codepoint=0, max_codepoint=0x5FF),
    st.characters(min_codepoint=0x20, max_codepoint=0x7E),
    st.characters(min_codepoint=0x1E00, max_codepoint=0x1FFF),  # Latin and Greek with accents
    st.characters(min_codepoint=0x2000, max_codepoint=0x22FF),  # punctuation, symbols, arrows, mathematics
    st.characters(min_codepoint=0x3000, max_codepoint=0x30FF),  # CJK punctuation, kana
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5),
    st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),  # Hangul
    st.characters(min_codepoint=0xE000, max_codepoint=0xF8FF),  # private use
    st.characters(min_codepoint=0xFE00, max_codepoint=0xFFFF),
    st.characters(min_codepoint=0x1F300, max_codepoint=0x1F64F),  # emoji
    st.sampled_from(
        [" ", "\n", "İ", "Σ", "ß", "\u0301", "\u0345", "\u1e9b\u0323", "é", "’", "—", "\u200d", "\ufeff", "naïve ", "the "]
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(WRITTEN, max_size=40).map("".join))
def test_ids_equal_the_reference_on_any_written_text(text: str) -> None:
    whole = reference()
    assert WORDPIECE.ids(text).tolist() == whole.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=60))
def test_no_text_whatever_makes_it_fail(text: str) -> None:
    """Lone surrogates and unassigned characters included."""
    assert WORDPIECE.ids(text).max(initial=0) < 30_522


WORDPIECE = WordPiece(read_vocabulary(DATA / "vocab.txt"))


@pytest.mark.parametrize("char", list("!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»、。"))
def test_punctuation_stands_alone(char: str) -> None:
    assert is_punctuation(char)
    assert words(f"a{char}b") == ["a", char, "b"]


@pytest.mark.parametrize("char", list("aZ0 é中\t"))
def test_what_is_no_punctuation(char: str) -> None:
    assert not is_punctuation(char)
