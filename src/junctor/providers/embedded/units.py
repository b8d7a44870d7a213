"""The units specialist: converts one quantity into one other unit by a table of factors.

Limits: one quantity only, so "5 feet 11 inches" is read as 5 feet; no currencies; answers have six significant digits.
"""

from __future__ import annotations

import re
from fractions import Fraction

from junctor.providers.embedded.answer import Answer, declined
from junctor.providers.embedded.numbers import NUMBER, read_number, show, words_to_digits

# Factors to the first unit of each row. Feet, pounds, gallons and the rest are the exact legal definitions.
_TABLE = {
    "length": "m metre meter 1|km kilometre kilometer 1000|cm centimetre centimeter 0.01|mm millimetre millimeter 0.001"
    "|mile 1609.344|yard yd 0.9144|foot feet ft 0.3048|inch inches 0.0254|nautical_mile 1852",
    "mass": "g gram 1|kg kilogram kilo 1000|mg milligram 0.001|t tonne 1000000|lb pound 453.59237|oz ounce 28.349523125"
    "|stone 6350.29318",
    "time": "s second sec 1|min minute 60|h hour hr 3600|day 86400|week 604800|fortnight 1209600|ms millisecond 0.001",
    "volume": "l litre liter 1|ml millilitre milliliter 0.001|gallon 3.785411784|pint 0.473176473|quart 0.946352946"
    "|cup 0.2365882365",
    "area": "square_metre square_meter 1|hectare 10000|acre 4046.8564224|square_kilometre square_kilometer 1000000"
    "|square_foot square_feet 0.09290304",
    "speed": "m/s metres_per_second meters_per_second 1|km/h kph kilometres_per_hour kilometers_per_hour 1/3.6"
    "|mph miles_per_hour 0.44704|knot 463/900",
    "data": "byte 1|kilobyte kb 1000|megabyte mb 1000000|gigabyte gb 1000000000|terabyte tb 1000000000000|bit 0.125",
    "temperature": "c celsius centigrade 1|f fahrenheit 1|k kelvin 1",
}


def _factor(text: str) -> Fraction:
    top, _, bottom = text.partition("/")
    return Fraction(top) / Fraction(bottom or 1)


def _aliases() -> dict[str, tuple[str, str, Fraction]]:
    out: dict[str, tuple[str, str, Fraction]] = {}
    for dimension, row in _TABLE.items():
        for unit in row.split("|"):
            *names, factor = unit.split(" ")
            for name in names:
                spoken = name.replace("_", " ")
                entry = (dimension, names[0], _factor(factor))
                out[spoken] = entry
                if len(spoken) > 2 and "/" not in spoken:
                    out[spoken + "s"] = entry
    return out


_UNITS = _aliases()
_NAMES = "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
_QUANTITY = re.compile(rf"(?<![\d.,])(-?)({NUMBER.pattern})[\s-]*(?:degrees? |°\s*)?({_NAMES})(?![\w/])")
_WANTED = re.compile(rf"\b(?:how many|how much in|to|in|into|as|of)\b (?:degrees |°)?({_NAMES})(?![\w/])")


def quantities(text: str) -> list[tuple[Fraction, str, int]]:
    """(value, unit name, position) of each number that stands before a unit."""
    found = []
    for match in _QUANTITY.finditer(text):
        value = read_number(match.group(2))
        found.append((-value if match.group(1) else value, match.group(3), match.start()))
    return found


def convert(value: Fraction, source: str, wanted: str) -> Fraction | None:
    """The value in the wanted unit; None when the two measure different things."""
    kind, name, factor = _UNITS[source]
    wanted_kind, wanted_name, wanted_factor = _UNITS[wanted]
    if kind != wanted_kind:
        return None
    if kind == "temperature":
        return _from_celsius(_to_celsius(value, name), wanted_name)
    return value * factor / wanted_factor


def _to_celsius(value: Fraction, scale: str) -> Fraction:
    if scale == "f":
        return (value - 32) * Fraction(5, 9)
    return value - Fraction("273.15") if scale == "k" else value


def _from_celsius(value: Fraction, scale: str) -> Fraction:
    if scale == "f":
        return value * Fraction(9, 5) + 32
    return value + Fraction("273.15") if scale == "k" else value


def wanted_units(text: str) -> list[str]:
    """The units that the text asks for, in order."""
    return _WANTED.findall(text)


def solve(text: str) -> Answer:
    """Convert the first quantity into the first unit that is asked for and fits."""
    text = words_to_digits(text.lower())
    found = quantities(text)
    if not found:
        return declined("find a quantity with a unit that I know")
    for wanted in wanted_units(text):
        result = convert(found[0][0], found[0][1], wanted)
        if result is not None and _UNITS[wanted][1] != _UNITS[found[0][1]][1]:
            short = Fraction(f"{float(result):.6g}")
            return Answer(f"{show(short)} {wanted}", result, work=len(found))
    return declined("tell which unit to convert to")
