"""What each hyper-parameter means, read from the docstring of its config class, so that it is said once.

Two manners of writing are read, which may be mixed:

    k: neighbours; weights: all alike or by similarity          (clauses)

    top, last     how many are positives, how many negatives    (columns: a name, or several, then two spaces)
    temperature   divides the cosines

A class inherits what its bases say of the fields that it inherits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc

ELSEWHERE: Mapping[str, str] = {
    "alpha": "L2 penalty",
    "cost_weight": "quality given up for the mean cost of the dearest single target",
    "decay": "AdamW's weight decay",
    "encoder": "the encoder that made the features",
    "epochs": "at most so many passes; held-out rows end it sooner",
    "estimator_settings": "hyper-parameters of that estimator",
    "fallbacks": "how many of the next best stand by in the plan",
    "label": "what people call it",
    "rate": "AdamW's learning rate",
    "selector_settings": "hyper-parameters of that estimator",
    "shrinkage": "pseudo-observations of the target's mean",
    "width": "units of the hidden layer",
}
"""What names mean wherever a docstring does not say it, or says "as elsewhere"."""


def meanings(config: type, names: Sequence[str]) -> dict[str, str]:
    """Field name -> its meaning, of those that some docstring of the class or its bases speaks of."""
    texts = [chunk for base in config.__mro__ for chunk in _chunks(_own_docstring(base), names)]
    found: dict[str, str] = {}
    for text in texts:
        for name, meaning in _clauses(text, names):
            found.setdefault(name, meaning)
    for name in names:
        if name not in found or found[name].endswith("as elsewhere"):
            said = _aside(name, texts) or ELSEWHERE.get(name) or _mention(name, texts) or found.get(name)
            if said:
                found[name] = said
    return found


def _own_docstring(base: type) -> str:
    """The class's own words; what `dataclass` writes for a class without any is not words."""
    said = str(base.__dict__.get("__doc__") or "")
    return "" if said.startswith(f"{base.__name__}(") or not base.__module__.partition(".")[0] else cleandoc(said)


def _one_of(names: Sequence[str]) -> str:
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return rf"(?:{one})(?:(?:, | and )(?:{one}))*"


def _chunks(docstring: str, names: Sequence[str]) -> Iterator[str]:
    """Paragraphs, each on one line, and rows of columns written as clauses."""
    if not names or not docstring:
        return
    head = re.compile(rf"({_one_of(names)})\s{{2,}}(\S.*)")
    open_: list[str] = []
    for line in [*docstring.splitlines(), ""]:
        row = head.fullmatch(line)
        if open_ and (row or not line.strip()):
            yield " ".join(open_)
            open_ = []
        if row:
            open_ = [f"{row[1]}: {row[2]}"]
        elif line.strip():
            open_.append(line.strip())


def _clauses(text: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The (name, meaning) pairs of "a: what it is; b, c: what they are"."""
    heads = list(re.finditer(rf"(?:^|(?<=[;.,] ))({_one_of(names)})(?: [^\s:,;]{{1,2}})?: ?", text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):
        bare = re.sub(rf"(?:; {_one_of(names)})+$", "", text[head.end() : end].strip(" ;.,"))
        for name in re.split(r", | and ", head[1]):
            yield name, bare


def _aside(name: str, texts: Sequence[str]) -> str:
    """What another field's meaning says of this one in passing.

    "cost_weight ...; latency_weight likewise for the slowest", or "algorithm: linucb (alpha), thompson (sigma)".
    """
    for text in texts:
        of = re.match(r"(\w+)[^:]*: ", text)
        within = re.search(rf"([\w-]+) \([^)]*\b{re.escape(name)}\b[^)]*\)", text)
        if of and within:
            return f"of {within[1]}, see `{of[1]}`"
        after = re.search(rf"[;,] {re.escape(name)} (\w[^;]+)", text)
        if of and after and name != "estimator_settings":
            return f"(after `{of[1]}`) {after[1].strip(' .')}"
    return ""


def _mention(name: str, texts: Sequence[str]) -> str:
    """Where else this field is spoken of."""
    for text in texts:
        of = re.match(r"(\w+)[^:]*: ", text)
        if of and re.search(rf"\b{re.escape(name)}\b", text[of.end() :]):
            return f"see `{of[1]}`"
    return ""
