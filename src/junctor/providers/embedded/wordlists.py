"""Word lists as one string: easier to read and to extend than a column of quotes."""

from __future__ import annotations


def listed(words: str) -> tuple[str, ...]:
    """The words, parted by white space."""
    return tuple(words.split())
