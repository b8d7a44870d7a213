"""Which language a text is in, from its script and its commonest words: a signal that costs microseconds and no model.

Good for routing ("not English", "Chinese") on a sentence or more. Two closely related languages, or three words, can fool it:
then it says "" rather than guess.
"""

from __future__ import annotations

import re
from collections import Counter

_WORDS = {
    "en": "the of and to in is that it for on with as was are this you not be have from what how which my can do i me a",
    "de": "der die das und ist nicht ein eine zu den mit von auf für wie ich sie es dem im was kann mir wir bitte auch sich",
    "fr": "le la les des et est une un pas que qui dans pour sur avec je vous nous ce il elle au du plus comment quel mon",
    "es": "el la los las de y es una un no que en por para con como yo usted se su al lo qué cómo cuál mi más del",
    "it": "il lo la gli di e è una un non che in per con come io si su al del della quale mi più sono questo cosa",
    "pt": "o os as de e é uma um não que em por para com como eu se seu ao do da qual meu mais você isso na no",
    "nl": "de het een en is niet van in op te dat die voor met zijn ik hoe wat je mijn kan ook aan om er maar naar",
    "pl": "i w na nie jest się do że z o jak to co czy mnie dla od po jego który proszę są tak ale mi",
    "sv": "och att det en ett är inte som på för med av jag hur vad kan min till den har de om så",
    "tr": "ve bir bu için ile ne nasıl de da mi ben çok var değil olarak gibi daha en kadar bana",
}
_STOP = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
LANGUAGES = (*_WORDS, *(language for language, _ in _SCRIPTS))
_LETTERS = re.compile(r"[^\W\d_]+")
SCRIPT_SHARE = 0.2
"""Of a text's letters: so many in one script decide it. Japanese goes before Chinese, because it uses both."""
LONGEST = 2000
"""Characters that are read."""


def language_of(text: str) -> str:
    """ISO 639-1 code, or "" when it cannot be told."""
    read = text[:LONGEST].lower()
    words = _LETTERS.findall(read)
    letters = sum(map(len, words))
    if not letters:
        return ""
    if not read.isascii():
        for language, script in _SCRIPTS:
            if len(script.findall(read)) >= SCRIPT_SHARE * letters:
                return language
    counts = Counter({language: sum(word in stop for word in words) for language, stop in _STOP.items()})
    (first, most), (_, second) = counts.most_common(2)
    return first if most > second else ""
