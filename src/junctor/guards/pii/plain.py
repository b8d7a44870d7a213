"""A text as the rules read it: blanks, dashes and letters of other widths as ASCII has them, and nothing that nobody sees.

Word processors write numbers with blanks and dashes that do not break, and who wants past a guard puts a character of no
width into an address.
"""

from __future__ import annotations

import re

UNSEEN = "\u00ad\u200b-\u200f\u2060-\u2064\ufeff"
BLANKS = "\u00a0\u2000-\u200a\u202f\u205f\u3000"
DASHES = "\u2010-\u2015\u2212\ufe58\ufe63"
ODD = re.compile(f"[{UNSEEN}{BLANKS}{DASHES}\uff01-\uff5e]")
_unseen = re.compile(f"[{UNSEEN}]")
_blank = re.compile(f"[{BLANKS}]")
_dash = re.compile(f"[{DASHES}]")
_wide = re.compile("[\uff01-\uff5e]")


def plainly(text: str) -> tuple[str, range | list[int]]:
    """The plain text, and for each of its characters the place where it stood."""
    places: range | list[int] = range(len(text))
    if _unseen.search(text):
        places = [place for place, char in enumerate(text) if not _unseen.match(char)]
        text = "".join([text[place] for place in places])
    text = _dash.sub("-", _blank.sub(" ", text))
    return _wide.sub(lambda m: chr(ord(m[0]) - 0xFEE0), text), places
