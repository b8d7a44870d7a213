"""Stories with a number at the end, and questions that need two skills."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from junctor.providers.embedded.checks import Check, exact_check, number_check, phrase_check
from junctor.providers.embedded.drawing import NAMES, draw, maybe_say, pick, two
from junctor.providers.embedded.knowledge import FACTS
from junctor.providers.embedded.wordlists import listed

Drawn = tuple[str, Check]
_THINGS = listed("apples pencils marbles stickers books shells coins postcards plums eggs buttons muffins")
_BOXES = ["boxes", "bags", "packs", "crates"]


def word_problem(rng: np.random.Generator) -> Drawn:
    """One to three steps; some tell a number that does not matter."""
    return pick(rng, (_gain_loss, _gain_loss, _groups, _groups_less, _share, _shop, _travel, _compare, _bus, _idle, _work))(rng)


def _gain_loss(rng: np.random.Generator) -> Drawn:
    name, other = two(rng, NAMES)
    thing = pick(rng, _THINGS)
    a, b, c = draw(rng, 30, 90), draw(rng, 3, 25), draw(rng, 3, 25)
    x = maybe_say(rng, b)
    return pick(
        rng,
        (
            (f"{name} has {a} {thing} and gives {x} of them to {other}. How many {thing} are left?", number_check(a - b)),
            (f"{name} had {a} {thing}, lost {x} and then found {c} more. How many now?", number_check(a - b + c)),
            (
                f"There were {a} {thing} on the table. {name} took {b} and {other} took {c}. What remains?",
                number_check(a - b - c),
            ),
            (f"{name} owns {a} {thing}. {other} brings {x} more. How many {thing} in total?", number_check(a + b)),
            (f"{name} picked {a} {thing} and {other} picked {b}. How many did they pick altogether?", number_check(a + b)),
        ),
    )


def _groups(rng: np.random.Generator) -> Drawn:
    name = pick(rng, NAMES)
    thing, box = pick(rng, _THINGS), pick(rng, _BOXES)
    a, b = draw(rng, 3, 14), draw(rng, 4, 24)
    return pick(
        rng,
        (
            (f"{name} buys {a} {box} with {b} {thing} each. How many {thing} is that?", number_check(a * b)),
            (f"Each of {a} {box} holds {b} {thing}. How many {thing} are there in all?", number_check(a * b)),
            (f"A shelf has {a} rows of {b} {thing}. How many {thing} stand there?", number_check(a * b)),
            (f"{name} reads {b} pages every day for {a} days. How many pages is that?", number_check(a * b)),
        ),
    )


def _groups_less(rng: np.random.Generator) -> Drawn:
    name = pick(rng, NAMES)
    thing, box = pick(rng, _THINGS), pick(rng, _BOXES)
    a, b, c = draw(rng, 3, 12), draw(rng, 6, 24), draw(rng, 2, 15)
    return pick(
        rng,
        (
            (f"{name} has {a} {box} with {b} {thing} each and sells {c} {thing}. How many are left?", number_check(a * b - c)),
            (f"{a} {box} of {b} {thing} arrive, but {c} {thing} are broken. How many good ones?", number_check(a * b - c)),
            (f"{name} packs {a} {box}, {b} {thing} in each, and finds {c} more {thing}. Total?", number_check(a * b + c)),
        ),
    )


def _share(rng: np.random.Generator) -> Drawn:
    name = pick(rng, NAMES)
    thing = pick(rng, _THINGS)
    a, b, c = draw(rng, 3, 12), draw(rng, 3, 15), draw(rng, 2, 9)
    return pick(
        rng,
        (
            (f"{name} shares {a * b} {thing} equally among {a} friends. How many does each get?", number_check(b)),
            (f"{a * b} {thing} are split between {a} children. How many per child?", number_check(b)),
            (
                f"{name} had {a * b + c} {thing}, ate {c} and divided the rest equally among {a} friends. How many each?",
                number_check(b),
            ),
            (f"How many {pick(rng, _BOXES)} of {a} can {name} fill with {a * b} {thing}?", number_check(b)),
        ),
    )


def _shop(rng: np.random.Generator) -> Drawn:
    name = pick(rng, NAMES)
    one, other = two(rng, _THINGS)
    a, p, b, q = draw(rng, 2, 8), draw(rng, 2, 12), draw(rng, 2, 8), draw(rng, 2, 12)
    note = 50 * (1 + a * p // 50)
    return pick(
        rng,
        (
            (f"{name} buys {a} {one} at ${p} each. What does it cost?", number_check(a * p)),
            (
                f"{name} buys {a} {one} at ${p} each and {b} {other} at ${q} each. What is the bill?",
                number_check(a * p + b * q),
            ),
            (
                f"{name} pays for {a} {one} at ${p} each with a ${note} note. How much change comes back?",
                number_check(note - a * p),
            ),
            (f"If {a} {one} cost ${a * p}, what is the price of one?", number_check(p)),
        ),
    )


def _travel(rng: np.random.Generator) -> Drawn:
    v, t, w = draw(rng, 4, 12) * 10, draw(rng, 2, 7), draw(rng, 2, 5)
    return pick(
        rng,
        (
            (f"A train travels {v} km per hour for {t} hours. How far does it get?", number_check(v * t)),
            (f"A car covers {v * t} km in {t} hours. What is its average speed in km per hour?", number_check(v)),
            (f"Cycling {v // 5} km every hour, how long do I need for {v // 5 * t} km?", number_check(t)),
            (
                f"A lorry drives {v} km per hour for {t} hours and then {w} km to the depot. How many km?",
                number_check(v * t + w),
            ),
        ),
    )


def _compare(rng: np.random.Generator) -> Drawn:
    name, other = two(rng, NAMES)
    thing = pick(rng, _THINGS)
    a, b, k = draw(rng, 30, 80), draw(rng, 4, 28), draw(rng, 2, 5)
    return pick(
        rng,
        (
            (f"{name} has {a} {thing} and {other} has {b}. How many more does {name} have?", number_check(a - b)),
            (f"{name} is {a} years old, {other} is {b}. What is the difference in age?", number_check(a - b)),
            (f"{name} has {k} times as many {thing} as {other}, who has {b}. How many does {name} have?", number_check(k * b)),
            (f"{name} has {b} fewer {thing} than {other}, who has {a}. How many does {name} have?", number_check(a - b)),
            (f"{name} has {b} more {thing} than {other}. {name} has {a}. How many does {other} have?", number_check(a - b)),
        ),
    )


def _bus(rng: np.random.Generator) -> Drawn:
    a, b, c = draw(rng, 25, 60), draw(rng, 3, 20), draw(rng, 3, 20)
    return pick(
        rng,
        (
            (f"A bus carries {a} people. At the stop {b} get off and {c} get on. How many ride on?", number_check(a - b + c)),
            (f"{a} birds sit on a wire. {b} fly away and {c} others join. How many birds now?", number_check(a - b + c)),
            (f"A tank holds {a} litres. {b} litres leak out, then {c} are added. What is in it?", number_check(a - b + c)),
        ),
    )


def _idle(rng: np.random.Generator) -> Drawn:
    """A number too many."""
    name = pick(rng, NAMES)
    thing = pick(rng, _THINGS)
    a, b, age = draw(rng, 30, 90), draw(rng, 3, 25), draw(rng, 6, 12)
    return pick(
        rng,
        (
            (f"{name}, who is {age} years old, has {a} {thing} and loses {b}. How many are left?", number_check(a - b)),
            (
                f"In {draw(rng, 1990, 2020)} {name} owned {a} {thing}; then {b} were sold. How many were still there?",
                number_check(a - b),
            ),
        ),
    )


def _work(rng: np.random.Generator) -> Drawn:
    a, b, c = draw(rng, 3, 9), draw(rng, 3, 9), draw(rng, 4, 20)
    d = draw(rng, 5, 40)
    return pick(
        rng,
        (
            (f"{a} workers lay {c} bricks an hour each. How many bricks after {b} hours?", number_check(a * b * c)),
            (
                f"A class of {a} groups with {b} pupils each raises ${c} per pupil. How much money is it?",
                number_check(a * b * c),
            ),
            (
                f"A baker fills {a} trays with {c} rolls each, {b} times a day, and sells {d}. What is left?",
                number_check(a * b * c - d),
            ),
        ),
    )


def mixed(rng: np.random.Generator) -> Drawn:
    """Two skills in one question: look up and reckon, convert and reckon, count and reckon, or two text steps."""
    return pick(rng, (_convert_add, _convert_add, _count_times, _look_up, _days, _two_texts, _share_of))(rng)


_CONVERSIONS = (
    ("km", "metres", 1000),
    ("hours", "minutes", 60),
    ("weeks", "days", 7),
    ("kg", "grams", 1000),
    ("days", "hours", 24),
)


def _convert_add(rng: np.random.Generator) -> Drawn:
    u, v, k = pick(rng, _CONVERSIONS)
    a, b = draw(rng, 2, 30), draw(rng, 3, 200)
    return pick(
        rng,
        (
            (f"Convert {a} {u} to {v} and add {b}.", number_check(a * k + b)),
            (f"What is {a} {u} in {v}, plus {b}?", number_check(a * k + b)),
            (f"Take the number of {v} in {a} {u} and multiply it by {b % 9 + 2}.", number_check(a * k * (b % 9 + 2))),
            (f"How many {v} are in {a} {u}, minus {b % 7 + 1}?", number_check(a * k - b % 7 - 1)),
        ),
    )


_MIXED_WORDS = listed("umbrella library mountain keyboard orchestra cathedral elephant pineapple lantern strawberry committee")


def _count_times(rng: np.random.Generator) -> Drawn:
    word, n = pick(rng, _MIXED_WORDS), draw(rng, 3, 40)
    vowels = sum(word.count(v) for v in "aeiou")
    return pick(
        rng,
        (
            (f"What is the number of letters in '{word}' times {n}?", number_check(len(word) * n)),
            (f"Count the vowels in '{word}' and add {n}.", number_check(vowels + n)),
            (f"How many letters has the word {word}, plus {n}?", number_check(len(word) + n)),
        ),
    )


def _look_up(rng: np.random.Generator) -> Drawn:
    (one, a), (other, b) = two(rng, tuple(FACTS["atomic_number"][2].items()))
    thing, c = pick(rng, tuple(FACTS["count"][2].items()))
    n = draw(rng, 2, 30)
    return pick(
        rng,
        (
            (f"What is the atomic number of {one} plus {n}?", number_check(int(a) + n)),
            (f"Add the atomic number of {one} to the atomic number of {other}.", number_check(int(a) + int(b))),
            (f"Take the number of {thing} and multiply it by {n}.", number_check(int(c) * n)),
            (f"How many letters does the capital of {_COUNTRY[n % len(_COUNTRY)][0]} have?", _capital_letters(n)),
        ),
    )


_COUNTRY = tuple(item for item in FACTS["capital"][2].items() if item[1].isascii() and " " not in item[1])


def _capital_letters(n: int) -> Check:
    return number_check(len(_COUNTRY[n % len(_COUNTRY)][1]))


def _days(rng: np.random.Generator) -> Drawn:
    first = date(1950, 1, 1) + timedelta(days=draw(rng, 0, 27_000))
    days, n = draw(rng, 5, 300), draw(rng, 2, 24)
    last = first + timedelta(days=days)
    return pick(
        rng,
        (
            (f"The number of days between {first} and {last}, times {n}, is?", number_check(days * n)),
            (f"At {n} dollars a day, what does a stay from {first} to {last} cost?", number_check(days * n)),
        ),
    )


def _two_texts(rng: np.random.Generator) -> Drawn:
    word = pick(rng, _MIXED_WORDS)
    return pick(
        rng,
        (
            (f"Reverse '{word}' and write it in capital letters.", exact_check(word[::-1].upper())),
            (f"What is the first letter of '{word}' when it is spelt backwards?", phrase_check(word[-1])),
        ),
    )


def _share_of(rng: np.random.Generator) -> Drawn:
    p, h = draw(rng, 1, 9) * 10, draw(rng, 2, 20)
    return pick(
        rng,
        (
            (f"How many minutes is {p}% of {h} hours?", number_check(p * h * 60 / 100)),
            (f"{p}% of {h} km, in metres?", number_check(p * h * 10)),
        ),
    )
