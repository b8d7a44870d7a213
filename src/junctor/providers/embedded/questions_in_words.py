"""Questions about units, dates, texts and facts."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from junctor.providers.embedded.checks import Check, date_check, exact_check, number_check, phrase_check
from junctor.providers.embedded.drawing import draw, maybe_say, pick, two
from junctor.providers.embedded.knowledge import FACTS
from junctor.providers.embedded.wordlists import listed

Drawn = tuple[str, Check]

# (one, many, other unit, how many of the other in one): known to everybody or fixed by law.
_PAIRS: tuple[tuple[str, str, str, float], ...] = (
    ("kilometre", "kilometres", "metres", 1000), ("km", "km", "miles", 1 / 1.609344), ("mile", "miles", "km", 1.609344),
    ("metre", "metres", "feet", 1 / 0.3048), ("foot", "feet", "centimetres", 30.48), ("inch", "inches", "cm", 2.54),
    ("yard", "yards", "feet", 3), ("kilogram", "kilograms", "pounds", 1 / 0.45359237), ("pound", "pounds", "kg", 0.45359237),
    ("kg", "kg", "grams", 1000), ("ounce", "ounces", "grams", 28.349523125), ("stone", "stone", "kg", 6.35029318),
    ("hour", "hours", "minutes", 60), ("day", "days", "hours", 24), ("week", "weeks", "days", 7),
    ("week", "weeks", "hours", 168),
    ("day", "days", "minutes", 1440), ("minute", "minutes", "seconds", 60), ("litre", "litres", "millilitres", 1000),
    ("gallon", "gallons", "litres", 3.785411784), ("hectare", "hectares", "acres", 10000 / 4046.8564224),
    ("gigabyte", "gigabytes", "megabytes", 1000), ("mph", "mph", "km/h", 1.609344),
)  # fmt: skip
_CONVERT = (
    "Convert {n} {u} to {v}.", "How many {v} are in {n} {u}?", "What is {n} {u} in {v}?", "{n} {u} in {v}?",
    "Express {n} {u} in {v}.", "I have {n} {u}; what is that in {v}?", "Turn {n} {u} into {v} for me.",
    "The label says {n} {u}. How many {v} would that be?", "My recipe wants {v}, I measured {n} {u}. How many {v}?",
)  # fmt: skip


def units(rng: np.random.Generator) -> Drawn:
    """Plain conversions, temperatures, and compound quantities."""
    kind = rng.random()
    if kind < 0.2:
        return _temperature(rng)
    if kind < 0.45:
        return _compound(rng)
    one, many, other, factor = pick(rng, _PAIRS)
    n = draw(rng, 2, 120)
    half = 0.5 if rng.random() < 0.2 else 0.0
    shown = f"{n + half:g}" if half else maybe_say(rng, n)
    ask = pick(rng, _CONVERT)
    return ask.format(n=shown, u=many if n > 1 else one, v=other), number_check((n + half) * factor)


def _temperature(rng: np.random.Generator) -> Drawn:
    t = draw(rng, -20, 45) * 5
    return pick(
        rng,
        (
            (f"What is {t} degrees Celsius in Fahrenheit?", number_check(t * 9 / 5 + 32)),
            (f"The forecast says {t} °F. What is that in celsius?", number_check((t - 32) * 5 / 9)),
            (f"Convert {t} °C to kelvin.", number_check(t + 273.15)),
            (f"My oven shows {abs(t)} fahrenheit, how hot is that in celsius?", number_check((abs(t) - 32) * 5 / 9)),
        ),
    )


def _compound(rng: np.random.Generator) -> Drawn:
    a, b = draw(rng, 2, 9), draw(rng, 1, 11)
    return pick(
        rng,
        (
            (f"Someone is {a} feet {b} inches tall. How much is that in cm?", number_check((12 * a + b) * 2.54)),
            (f"How many minutes are in {a} hours and {b} minutes?", number_check(60 * a + b)),
            (f"What is {a} pounds {b} ounces in grams?", number_check((16 * a + b) * 28.349523125)),
            (f"A film runs {a} hours {b * 5} minutes; how many seconds is that?", number_check(3600 * a + 300 * b)),
            (f"Convert {a} kg and {b * 10} grams to grams.", number_check(1000 * a + 10 * b)),
            (f"Express {a} weeks and {b} days in hours.", number_check((7 * a + b) * 24)),
        ),
    )


_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _day(rng: np.random.Generator) -> date:
    return date(1930, 1, 1) + timedelta(days=draw(rng, 0, 40_000))


def _spell(rng: np.random.Generator, day: date) -> str:
    month = _MONTHS[day.month - 1]
    forms = (
        f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", day.isoformat(),
        f"{month[:3]} {day.day}, {day.year}",
        f"{day.day} {month} {day.year}", f"{day.month}/{day.day}/{day.year}",
    )  # fmt: skip
    return pick(rng, forms)


def dates(rng: np.random.Generator) -> Drawn:
    """Weekdays, spans and shifted dates; some written day first, some by months, which the specialist does not know."""
    return pick(rng, (_weekday, _weekday, _span, _span, _shift, _shift, _day_first, _months))(rng)


def _weekday(rng: np.random.Generator) -> Drawn:
    day = _day(rng)
    ask = pick(
        rng,
        (
            "What day of the week is {}?", "On which weekday does {} fall?", "Which day of the week was {}?",
            "I was born on {}. What weekday was that?", "Is {} a Monday, a Tuesday, or what day of the week?",
            "What day was {}?",
        ),
    )  # fmt: skip
    return ask.format(_spell(rng, day)), phrase_check(_WEEKDAYS[day.weekday()])


def _span(rng: np.random.Generator) -> Drawn:
    first = _day(rng)
    days = draw(rng, 2, 900)
    second = first + timedelta(days=days)
    ask = pick(
        rng,
        (
            "How many days are there between {} and {}?", "How many days lie from {} to {}?",
            "Our lease ran from {} until {}. For how many days?", "Count the days from {} to {}.",
            "Two letters are dated {} and {}. How many days apart are they?",
        ),
    )  # fmt: skip
    return ask.format(_spell(rng, first), _spell(rng, second)), number_check(days)


def _shift(rng: np.random.Generator) -> Drawn:
    day = _day(rng)
    n = draw(rng, 2, 200)
    amount, days = pick(rng, ((f"{n} days", n), (f"{maybe_say(rng, n % 12 + 2)} weeks", 7 * (n % 12 + 2))))
    ask, sign = pick(
        rng,
        (
            ("What date is {a} after {d}?", 1), ("Which date comes {a} before {d}?", -1), ("Add {a} to {d}.", 1),
            ("The parcel left on {d} and took {a}. When did it arrive?", 1), ("{a} from {d}: which date?", 1),
        ),
    )  # fmt: skip
    return ask.format(a=amount, d=_spell(rng, day)), date_check(day + timedelta(days=sign * days))


def _day_first(rng: np.random.Generator) -> Drawn:
    day = _day(rng)
    shown = f"{day.day}/{day.month}/{day.year}"
    ask = pick(rng, ("Written the European way, {} was what day of the week?", "Day first, month second: {}. Which weekday?"))
    return ask.format(shown), phrase_check(_WEEKDAYS[day.weekday()])


def _months(rng: np.random.Generator) -> Drawn:
    day = _day(rng).replace(day=draw(rng, 1, 28))
    n = draw(rng, 2, 11)
    total = day.month - 1 + n
    end = date(day.year + total // 12, total % 12 + 1, day.day)
    ask = pick(rng, ("What date is {} months after {}?", "A contract of {} months starts on {}. On which date is it over?"))
    return ask.format(n, _spell(rng, day)), date_check(end)


_WORDS = listed(
    "umbrella library mountain keyboard orchestra blanket cathedral elephant notebook harvest pineapple "
    "television magnet lantern bicycle horizon velvet puzzle giraffe compass treasure sandwich galaxy balloon "
    "kingdom whisper avocado engine mississippi bookkeeper strawberry committee parallel rhythm queue island"
)
_PALINDROMES = ("level", "racecar", "rotator", "refer", "noon", "civic", "kayak", "reviver", "deified", "radar")
_ANAGRAMS = (
    ("listen", "silent"),
    ("earth", "heart"),
    ("night", "thing"),
    ("study", "dusty"),
    ("state", "taste"),
    ("below", "elbow"),
)
_NTH = ("first", "second", "third", "fourth")


def text(rng: np.random.Generator) -> Drawn:
    """One operation on a word, a list or a sentence."""
    return pick(rng, (_letters, _letters, _turned_word, _word_list, _sentence, _yes_no, _slang))(rng)


def _letters(rng: np.random.Generator) -> Drawn:
    word = pick(rng, _WORDS)
    letter = word[draw(rng, 0, len(word) - 1)]
    vowels = sum(word.count(v) for v in "aeiou")
    return pick(
        rng,
        (
            (f"How many letters does the word {word} have?", number_check(len(word))),
            (f"Count the letters in '{word}'.", number_check(len(word))),
            (f"How many times does the letter {letter} appear in '{word}'?", number_check(word.count(letter))),
            (f'How often do you find the letter "{letter}" in "{word}"?', number_check(word.count(letter))),
            (f"How many vowels are there in the word {word}?", number_check(vowels)),
            (f'The vowels of "{word}": how many?', number_check(vowels)),
        ),
    )


def _turned_word(rng: np.random.Generator) -> Drawn:
    word = pick(rng, _WORDS)
    return pick(
        rng,
        (
            (f"Reverse the word '{word}'.", exact_check(word[::-1])),
            (f'Write "{word}" backwards.', exact_check(word[::-1])),
            (f"What do you get when you read '{word}' from right to left?", exact_check(word[::-1])),
            (f"Put the word {word} in capital letters.", exact_check(word.upper())),
            (f'Make "{word}" all caps.', exact_check(word.upper())),
            (f"Sort the letters of '{word}' alphabetically.", exact_check("".join(sorted(word)))),
        ),
    )


def _some_words(rng: np.random.Generator, n: int) -> list[str]:
    return [_WORDS[int(i)] for i in rng.choice(len(_WORDS), n, replace=False)]


def _word_list(rng: np.random.Generator) -> Drawn:
    chosen = _some_words(rng, draw(rng, 3, 5))
    ask = pick(
        rng,
        ("Put these in alphabetical order: {}", "Sort these words from a to z: {}", "Which order would a dictionary have? {}"),
    )
    return ask.format(", ".join(chosen)), exact_check(" ".join(sorted(chosen)))


def _sentence(rng: np.random.Generator) -> Drawn:
    chosen = _some_words(rng, draw(rng, 5, 8))
    line = " ".join(chosen)
    place = draw(rng, 0, 3)
    return pick(
        rng,
        (
            (f"How many words are in '{line}'?", number_check(len(chosen))),
            (f'Give me the {_NTH[place]} word of "{line}".', exact_check(chosen[place])),
            (f'What is the last word in "{line}"?', exact_check(chosen[-1])),
            (f"In the line '{line}', which is the {_NTH[place]} word?", exact_check(chosen[place])),
        ),
    )


def _yes_no(rng: np.random.Generator) -> Drawn:
    if rng.random() < 0.5:
        word = pick(rng, _PALINDROMES if rng.random() < 0.5 else _WORDS)
        right = word == word[::-1]
        ask = pick(rng, ("Is '{}' a palindrome?", 'Does "{}" read the same backwards, that is, is it a palindrome?'))
        return ask.format(word), phrase_check("Yes" if right else "No")
    pair = pick(rng, _ANAGRAMS) if rng.random() < 0.5 else two(rng, _WORDS)
    right = sorted(pair[0]) == sorted(pair[1])
    ask = pick(rng, ("Are '{}' and '{}' anagrams?", 'Do "{}" and "{}" use exactly the same letters?'))
    return ask.format(*pair), phrase_check("Yes" if right else "No")


def _slang(rng: np.random.Generator) -> Drawn:
    """Ways of asking that the specialist was not told about."""
    word, other = two(rng, _WORDS)
    return pick(
        rng,
        (
            (f"Spell {word} in reverse.", exact_check(word[::-1])),
            (f"Flip {word} so the last letter comes first.", exact_check(word[::-1])),
            (f"Glue {word} and {other} together with a hyphen.", exact_check(f"{word}-{other}")),
            (f"Shout {word}, I mean in upper case.", exact_check(word.upper())),
        ),
    )


_ASKED: dict[str, tuple[str, ...]] = {
    "capital": ("What is the capital of {}?", "Name the capital city of {}.", "{}'s capital is?", "Which city governs {}?"),
    "symbol": (
        "What is the chemical symbol for {}?",
        "Which symbol does {} have in the periodic table?",
        "{} is abbreviated how?",
    ),
    "atomic_number": (
        "What is the atomic number of {}?",
        "How many protons does {} have?",
        "Where in the periodic table is {}?",
    ),
    "currency": ("What is the currency of {}?", "What money do people pay with in {}?", "Which banknotes would I need in {}?"),
    "year": ("In what year was {}?", "When did {} happen?", "{}: which year?"),
    "author": ("Who wrote {}?", "Who is the author of {}?", "Whose work is {}?", "Which pen gave us {}?"),
    "inventor": ("Who invented or discovered {}?", "Who came up with {}?", "Whom do we thank for {}?"),
    "place": ("Where is {}?", "In which place do you find {}?", "To see {}, where must I go?"),
    "extreme": ("What is the {}?", "Name the {}.", "Do you know the {}?"),
    "count": ("What is the number of {}?", "How many are there: {}?", "{}, how many?"),
    "language": ("What language do they speak in {}?", "What is the main language of {}?"),
}
# Right, but not in the specialist's memory, or not in its words.
_OTHER: tuple[tuple[str, str], ...] = (
    ("What is the capital of Bolivia?", "Sucre"), ("What is the capital of Slovenia?", "Ljubljana"),
    ("What is the capital of Uruguay?", "Montevideo"), ("Name the capital city of Tunisia.", "Tunis"),
    ("What is the capital city of Latvia?", "Riga"), ("Which city is the capital of the Philippines?", "Manila"),
    ("What is the chemical symbol for cobalt?", "Co"), ("What is the chemical symbol of barium?", "Ba"),
    ("Who wrote The Magic Mountain?", "Thomas Mann"), ("Who wrote One Hundred Years of Solitude?", "Gabriel García Márquez"),
    ("Who is the author of The Name of the Rose?", "Umberto Eco"), ("Which river flows through Vienna?", "Danube"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("What gas do plants take in for photosynthesis?", "carbon dioxide"),
    ("Which organ pumps blood?", "heart"), ("What is frozen water called?", "ice"),
    ("Which country gave the world pizza?", "Italy"),
    ("Which sea separates Europe from Africa?", "Mediterranean"), ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("Who composed the Ninth Symphony with the Ode to Joy?", "Beethoven"), ("In which country is Kraków?", "Poland"),
    ("What is the currency of Norway?", "krone"), ("Which planet has the famous rings?", "Saturn"),
)  # fmt: skip


def facts(rng: np.random.Generator) -> Drawn:
    """General knowledge, in the specialist's words, in others, and beyond its memory."""
    if rng.random() < 0.2:
        question, right = pick(rng, _OTHER)
        return question, phrase_check(right)
    relation = pick(rng, ("capital", *_ASKED))
    subject, right = pick(rng, tuple(FACTS[relation][2].items()))
    asked = pick(rng, _ASKED[relation]).format(subject)
    return asked[0].upper() + asked[1:], phrase_check(right)
