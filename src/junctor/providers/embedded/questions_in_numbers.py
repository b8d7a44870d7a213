"""Questions that are about numbers from the start: arithmetic, percentages, sequences, equations."""

from __future__ import annotations

import numpy as np

from junctor.providers.embedded.checks import Check, number_check
from junctor.providers.embedded.drawing import draw, maybe_say, pick

Drawn = tuple[str, Check]
_ASK = (
    "What is {}?", "What's {}?", "Work out {}.", "Calculate {}.", "How much is {}?", "{} = ?", "Can you compute {}?",
    "Evaluate {}.", "What do I get for {}?", "Tell me the value of {}.", "I need {} worked out.",
)  # fmt: skip


def arithmetic(rng: np.random.Generator) -> Drawn:
    """Written expressions, spoken ones, spoken in turned order, chains of instructions, and long numbers."""
    return pick(rng, (_written, _written, _nested, _spoken, _turned, _chain, _long))(rng)


def _written(rng: np.random.Generator) -> Drawn:
    a, b, c = draw(rng, 12, 400), draw(rng, 2, 60), draw(rng, 2, 30)
    text, right = pick(
        rng,
        (
            (f"{a} + {b} * {c}", a + b * c),
            (f"{a} - {b} + {c}", a - b + c),
            (f"{a} x {b}", a * b),
            (f"{a * b} / {b}", a),
            (f"{a}*{c} - {b}", a * c - b),
            (f"{c}^2 + {a}", c * c + a),
            (f"{a}.5 + {b}.25", a + b + 0.75),
        ),
    )
    return pick(rng, _ASK).format(text), number_check(right)


def _nested(rng: np.random.Generator) -> Drawn:
    a, b, c, d = (draw(rng, 2, 40) for _ in range(4))
    text, right = pick(
        rng,
        (
            (f"({a} + {b}) * ({c} - {d})", (a + b) * (c - d)),
            (f"{a} * ({b} + {c} * ({d} - 1))", a * (b + c * (d - 1))),
            (f"(({a} + {b}) * {c} - {d}) * 2", ((a + b) * c - d) * 2),
        ),
    )
    return pick(rng, _ASK).format(text), number_check(right)


def _spoken(rng: np.random.Generator) -> Drawn:
    a, b, c = draw(rng, 11, 900), draw(rng, 2, 90), draw(rng, 2, 20)
    x, y, z = (maybe_say(rng, n, 0.5) for n in (a, b, c))
    text, right = pick(
        rng,
        (
            (f"{x} plus {y}", a + b),
            (f"{x} minus {y}", a - b),
            (f"{y} times {z}", b * c),
            (f"the sum of {a} and {b}", a + b),
            (f"the product of {b} and {c}", b * c),
            (f"{y} multiplied by {z} plus {x}", b * c + a),
            (f"{z} squared plus {y}", c * c + b),
        ),
    )
    return pick(rng, _ASK).format(text), number_check(right)


def _turned(rng: np.random.Generator) -> Drawn:
    a, b, c = draw(rng, 40, 900), draw(rng, 2, 39), draw(rng, 2, 15)
    return pick(
        rng,
        (
            (f"Subtract {maybe_say(rng, b)} from {a}.", number_check(a - b)),
            (f"What number is {b} less than {a}?", number_check(a - b)),
            (f"If you take {b} away from {a}, what remains?", number_check(a - b)),
            (f"Divide {b * c} by {c}.", number_check(b)),
            (f"How much is twice {a}?", number_check(2 * a)),
            (f"Multiply {b} by {c} and tell me the outcome.", number_check(b * c)),
            (f"What is half of {2 * a}?", number_check(a)),
            (f"I would like {b} more than {a}, as one figure.", number_check(a + b)),
        ),
    )


def _chain(rng: np.random.Generator) -> Drawn:
    a, b, c, d = draw(rng, 3, 60), draw(rng, 2, 40), draw(rng, 2, 9), draw(rng, 1, 30)
    return pick(
        rng,
        (
            (f"Add {a} and {b}, then multiply the result by {c}.", number_check((a + b) * c)),
            (f"Start with {a}, multiply by {c}, then subtract {d}. Where do you end up?", number_check(a * c - d)),
            (f"Take {a} times {c}, add {b} and then double it.", number_check((a * c + b) * 2)),
            (f"Multiply {a} by {c}. Subtract {d} from that.", number_check(a * c - d)),
        ),
    )


def _long(rng: np.random.Generator) -> Drawn:
    a, b = draw(rng, 10**8, 10**10), draw(rng, 10**6, 10**8)
    sign, right = pick(rng, (("*", a * b), ("x", a * b), ("+", a + b)))
    return pick(rng, _ASK).format(f"{a} {sign} {b}"), _digits_check(right)


def _digits_check(right: int) -> Check:
    """All digits of a long integer; thousands commas and spaces do not matter."""

    def check(answer: str) -> float:
        digits = "".join(c for c in answer[:300] if c not in ", ").strip(".")
        return float(str(right) in digits.split("=")[-1])

    return check


def percentage(rng: np.random.Generator) -> Drawn:
    """Shares, changes, discounts, and which number a share is of."""
    p, n = draw(rng, 2, 19) * 5, draw(rng, 3, 60) * 20
    odd = draw(rng, 3, 47)
    part = n * p / 100
    return pick(
        rng,
        (
            (f"What is {p}% of {n}?", number_check(part)),
            (f"How much is {odd} percent of {n}?", number_check(n * odd / 100)),
            (f"Find {maybe_say(rng, p, 0.5)} percent of {n}.", number_check(part)),
            (f"I'm after {p} per cent of {n} euros.", number_check(part)),
            (f"{part:g} is what percentage of {n}?", number_check(p)),
            (f"What percentage of {n} is {part:g}?", number_check(p)),
            (f"Increase {n} by {p}%.", number_check(n + part)),
            (f"What does {n} become when reduced by {p}%?", number_check(n - part)),
            (f"A coat for ${n} is now {p}% off. What do I pay?", number_check(n - part)),
            (f"With a discount of {p}%, what is left to pay on a bill of {n} dollars?", number_check(n - part)),
            (f"{part:g} is {p}% of what number?", number_check(n)),
            (f"A rent of {n} goes up by {p} percent. What is the new rent?", number_check(n + part)),
            (f"Out of {n} voters, {p}% said yes. How many is that?", number_check(part)),
        ),
    )


def sequence(rng: np.random.Generator) -> Drawn:
    """The next or a later term: arithmetic, geometric, quadratic, cubic, affine, Fibonacci-like, interleaved."""
    terms = pick(rng, (_steps, _steps, _powers, _squares, _affine, _sums, _woven))(rng)
    given = 6 if len(terms) > 12 else draw(rng, 5, 6)
    shown = ", ".join(str(t) for t in terms[:given])
    if rng.random() < 0.2:
        place = given + 3
        ask = pick(rng, ("What is the {}th term of {}?", "Give me the {}th number in the pattern {}, and so on."))
        return ask.format(place, shown), number_check(terms[place - 1])
    ask = pick(
        rng,
        (
            "What comes next: {}?", "Continue the series {}.", "{}, ... which number follows?", "Find the next term of {}.",
            "Which number should come after {}?", "Complete the pattern: {}, ?", "{} and then?",
        ),
    )  # fmt: skip
    return ask.format(shown), number_check(terms[given])


def _steps(rng: np.random.Generator) -> list[int]:
    a, d = draw(rng, -20, 60), draw(rng, -12, 25) or 3
    return [a + d * i for i in range(12)]


def _powers(rng: np.random.Generator) -> list[int]:
    a, r = draw(rng, 1, 7), draw(rng, 2, 4)
    return [a * r**i for i in range(12)]


def _squares(rng: np.random.Generator) -> list[int]:
    a, b, c, d = draw(rng, 0, 1), draw(rng, 1, 4), draw(rng, -5, 9), draw(rng, -5, 20)
    return [a * i**3 + b * i * i + c * i + d for i in range(12)]


def _affine(rng: np.random.Generator) -> list[int]:
    out, k, c = [draw(rng, 1, 9)], draw(rng, 2, 4), draw(rng, 1, 9)
    for _ in range(11):
        out.append(out[-1] * k + c)
    return out


def _sums(rng: np.random.Generator) -> list[int]:
    out, p, c = [draw(rng, 1, 6), draw(rng, 1, 9)], draw(rng, 1, 2), draw(rng, 0, 3)
    for _ in range(10):
        out.append(p * out[-1] + out[-2] + c)
    return out


def _woven(rng: np.random.Generator) -> list[int]:
    first, second = _steps(rng), _steps(rng)
    return [n for pair in zip(first, second, strict=True) for n in pair]


def equation(rng: np.random.Generator) -> Drawn:
    """Linear equations written and spoken, riddles, squares, and pairs of equations."""
    return pick(rng, (_linear, _linear, _both_sides, _riddle, _told, _square, _pair))(rng)


def _linear(rng: np.random.Generator) -> Drawn:
    x, a, b = draw(rng, -9, 30), draw(rng, 2, 12), draw(rng, 1, 40)
    v = pick(rng, ("x", "y", "n", "t", "k"))
    left = pick(rng, (f"{a}{v} + {b}", f"{a} * {v} + {b}", f"{b} + {a}{v}"))
    ask = pick(rng, ("Solve {e}.", "Solve for {v}: {e}", "If {e}, what is {v}?", "Find {v} when {e}.", "{e}. Which {v} fits?"))
    return ask.format(e=f"{left} = {a * x + b}", v=v), number_check(x)


def _both_sides(rng: np.random.Generator) -> Drawn:
    x, a, b, c = draw(rng, 1, 30), draw(rng, 5, 12), draw(rng, 1, 40), draw(rng, 2, 4)
    right = f"{c}x + {a * x + b - c * x}"
    ask = pick(rng, ("Solve {}.", "For which x does {} hold?", "What must x be so that {}?"))
    return ask.format(f"{a}x + {b} = {right}"), number_check(x)


def _riddle(rng: np.random.Generator) -> Drawn:
    x, a, b = draw(rng, 2, 30), draw(rng, 2, 9), draw(rng, 1, 40)
    start = pick(rng, ("I think of a number", "I picked a secret number", "Take a number"))
    told = pick(
        rng,
        (
            (f"{start}, multiply it by {a} and add {b}; the result is {a * x + b}. Which number was it?", x),
            (f"{start}, add {b} and then multiply by {a}. I get {a * (x + b)}. What is the number?", x),
            (f"{start}, double it, subtract {b}, and I end up with {2 * x - b}. What did I start from?", x),
        ),
    )
    return told[0], number_check(told[1])


def _told(rng: np.random.Generator) -> Drawn:
    x, a, b = draw(rng, 2, 40), draw(rng, 2, 9), draw(rng, 1, 40)
    return pick(
        rng,
        (
            (f"{a} times a number plus {b} is {a * x + b}. Find the number.", number_check(x)),
            (f"{b} more than a number is {x + b}. What is the number?", number_check(x)),
            (f"Twice a number equals {2 * x}. Which number?", number_check(x)),
            (f"When a number is multiplied by {a}, it gives {a * x}. Name it.", number_check(x)),
        ),
    )


def _square(rng: np.random.Generator) -> Drawn:
    x, b = draw(rng, 2, 25), draw(rng, 1, 40)
    ask = pick(rng, ("Find the positive x with {}.", "Solve {} for the positive root.", "{}, x > 0, x?"))
    return ask.format(f"x^2 + {b} = {x * x + b}"), number_check(x)


def _pair(rng: np.random.Generator) -> Drawn:
    x, y, a, b = draw(rng, 1, 20), draw(rng, 1, 20), draw(rng, 2, 6), draw(rng, 1, 5)
    ask = pick(rng, ("If {} and {}, what is {}?", "Solve {} and {}. Give me {}.", "Given {} and {}, find {}."))
    wanted, right = pick(rng, (("x", x), ("y", y)))
    return ask.format(f"{a}x + {b}y = {a * x + b * y}", f"x - y = {x - y}", wanted), number_check(right)
