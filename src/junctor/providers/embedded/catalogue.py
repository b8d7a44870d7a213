"""The embedded pool: its targets, what they are good for, and what they cost.

The prices are declared, like any list price, and are of the size that small and large hosted models ask. `general` is one model
with two reasoning budgets; the price per token is the same, the tokens are not.
"""

from __future__ import annotations

from junctor.types import Catalogue, Limits, Price, Target

CONTEXT_TOKENS = 512
_CAPABILITIES = frozenset({"stream"})


def _specialist(id_: str, description: str, price: Price) -> Target:
    return Target(
        id=id_,
        description=description,
        provider="embedded",
        model=id_,
        price=price,
        limits=Limits(context_tokens=CONTEXT_TOKENS, output_tokens=512, timeout_s=2.0),
        capabilities=_CAPABILITIES,
    )


def _general(effort: str, description: str) -> Target:
    return Target(
        id=f"general@{effort}",
        description=description,
        provider="embedded",
        model="general",
        settings={"reasoning_effort": effort},
        price=Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0),
        limits=Limits(context_tokens=CONTEXT_TOKENS, output_tokens=4096, timeout_s=5.0),
        capabilities=_CAPABILITIES | {"reasoning"},
    )


_SMALL = Price(input_usd_per_mtok=0.10, output_usd_per_mtok=0.40, usd_per_call=1e-6)
_LOOKUP = Price(input_usd_per_mtok=0.15, output_usd_per_mtok=0.60, usd_per_call=2e-6)

EMBEDDED = Catalogue(
    [
        _specialist(
            "arithmetic",
            "Works out one written arithmetic expression: plus, minus, times, divided by, powers, parentheses, percentages.",
            _SMALL,
        ),
        _specialist(
            "units",
            "Converts a quantity between units of length, mass, time, volume, area, speed, data and temperature.",
            _SMALL,
        ),
        _specialist(
            "dates", "Calendar questions: weekday of a date, days between two dates, the date some days or weeks away.", _SMALL
        ),
        _specialist(
            "text", "Counts, reverses, sorts and picks letters and words; vowels, upper case, palindromes, anagrams.", _SMALL
        ),
        _specialist(
            "facts",
            "General knowledge: capitals, currencies, chemical elements, authors, inventors, famous years, records, landmarks.",
            _LOOKUP,
        ),
        _general("low", "Numbers: spoken arithmetic, equations, simple sequences and stories, with little reasoning."),
        _general("high", "Numbers: word problems, equations, sequences and questions of several parts, with long reasoning."),
    ]
)
"""The targets that ship with us."""
