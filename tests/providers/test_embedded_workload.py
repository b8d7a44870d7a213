"""The workload: seeded, varied, right by construction, and no category can be told by a fixed beginning."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import junctor.providers.embedded as pool
from junctor.errors import UserError
from junctor.outcomes import normalise
from junctor.providers.embedded import questions_in_numbers, questions_in_words, stories_told
from junctor.providers.embedded.checks import date_check, exact_check, number_check, numbers_in, phrase_check
from junctor.providers.embedded.drawing import say
from junctor.providers.embedded.workload import CATEGORIES, MAKERS, Task, make_tasks

HERE = Path(pool.__file__).parent
MADE_WITHOUT = {"arithmetic", "units", "dates", "text", "facts", "general", "expressions", "equations", "sequences", "stories"}


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return make_tasks(1000, np.random.default_rng(7))


def solvers_imported(path: Path) -> set[str]:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("junctor.providers.embedded"):
            imported.add((node.module or "").rpartition(".")[2])
            imported |= {alias.name for alias in node.names if node.module == "junctor.providers.embedded"}
    return imported & MADE_WITHOUT


def test_right_answers_do_not_come_from_the_solvers() -> None:
    for module in ("workload", "questions_in_numbers", "questions_in_words", "stories_told", "checks", "drawing", "knowledge"):
        assert solvers_imported(HERE / f"{module}.py") == set(), module
    assert solvers_imported(HERE / "general.py")  # the check finds what it looks for


def test_the_same_seed_gives_the_same_tasks() -> None:
    one, two, other = (make_tasks(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [(t.id, t.prompt, t.category) for t in one] == [(t.id, t.prompt, t.category) for t in two]
    assert [t.prompt for t in one] != [t.prompt for t in other]


def test_categories_come_in_equal_shares_and_mixed_order(tasks: list[Task]) -> None:
    assert Counter(t.category for t in tasks) == dict.fromkeys(CATEGORIES, 100)
    assert len({t.category for t in tasks[:20]}) > 5


def test_prompts_are_distinct(tasks: list[Task]) -> None:
    assert len({normalise(t.prompt) for t in tasks}) == len(tasks)
    assert len({t.id for t in tasks}) == len(tasks)


def test_no_beginning_gives_a_category_away(tasks: list[Task]) -> None:
    """No first three words belong to many prompts of a category and hardly any of the others."""
    starts: dict[str, Counter[str]] = defaultdict(Counter)
    for task in tasks:
        starts[" ".join(re.findall(r"\w+", task.prompt.lower())[:3])][task.category] += 1
    telling = [(s, c) for s, c in starts.items() if max(c.values()) >= 25 and max(c.values()) >= 0.9 * c.total()]
    assert telling == []


def test_each_category_has_many_phrasings(tasks: list[Task]) -> None:
    """Numbers and quoted words taken out, what is left is still varied."""
    for category in CATEGORIES:
        shapes = {re.sub(r"['\"].*?['\"]|\d+", "#", t.prompt) for t in tasks if t.category == category}
        assert len(shapes) >= 40, category


def test_too_many_facts_are_refused_not_repeated() -> None:
    with pytest.raises(UserError, match="at least one"):
        make_tasks(0, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    crowd = {"facts": lambda _: ("Same question?", phrase_check("x"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("junctor.providers.embedded.workload.MAKERS", {**MAKERS, **crowd})
        with pytest.raises(UserError, match="facts"):
            make_tasks(5000, rng)


def test_no_task_takes_silence_or_refusal_for_right(tasks: list[Task]) -> None:
    for task in tasks:
        assert task.check("") == 0
        assert task.check("I cannot do this.") == 0
        assert task.check("x" * 5000) == 0


REFERENCES = [
    (questions_in_numbers.arithmetic, r"^What is (\d+) x (\d+)\?$", lambda a, b: int(a) * int(b)),
    (questions_in_numbers.percentage, r"^What is (\d+)% of (\d+)\?$", lambda p, n: int(p) * int(n) / 100),
    (questions_in_numbers.equation, r"^Solve (\d+)n \+ (\d+) = (-?\d+)\.$", lambda a, b, c: (int(c) - int(b)) / int(a)),
    (questions_in_words.units, r"^Convert (\d+) kg to grams\.$", lambda n: int(n) * 1000),
    (stories_told.word_problem, r"^Each of (\d+) \w+ holds (\d+) \w+\. ", lambda a, b: int(a) * int(b)),
    (stories_told.mixed, r"^Convert (\d+) km to metres and add (\d+)\.$", lambda a, b: int(a) * 1000 + int(b)),
]  # fmt: skip


@pytest.mark.parametrize(("maker", "shape", "right"), REFERENCES, ids=[m.__name__ for m, _, _ in REFERENCES])
def test_right_answers_agree_with_a_second_reckoning(maker, shape, right) -> None:
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(3000):
        question, check = maker(rng)
        match = re.match(shape, question)
        if match:
            seen += 1
            assert check(f"It is {right(*match.groups())}.") == 1.0
            assert check(f"It is {right(*match.groups()) * 3 + 701}.") == 0.0
    assert seen >= 3


def test_sequences_go_on_as_they_began() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        terms = questions_in_numbers._squares(rng)
        thirds = np.diff(terms, 3)
        assert len(set(thirds.tolist())) == 1


def test_dates_agree_with_the_calendar() -> None:
    rng = np.random.default_rng(11)
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    seen = 0
    for _ in range(400):
        question, check = questions_in_words.dates(rng)
        match = re.match(r"^(?:What day was|On which weekday does) (\d{4}-\d\d-\d\d)", question)
        if match:
            seen += 1
            day = date.fromisoformat(match[1])
            assert check(days[day.weekday()]) == 1
            assert check(days[(day.weekday() + 1) % 7]) == 0
    assert seen


@pytest.mark.parametrize(
    ("answer", "quality"),
    [("9.6", 1), ("The answer is 9.60.", 1), ("12% of 80 = 9.6", 1), ("9.65", 0.5), ("96", 0), ("nine", 0), ("-9.6", 0)],
)
def test_numbers_are_judged_by_value(answer: str, quality: float) -> None:
    assert number_check(9.6)(answer) == quality


def test_integers_must_be_exact_but_may_have_commas() -> None:
    assert number_check(12_500)("12,500 metres") == 1
    assert number_check(12_500)("12,501") == 0.5
    assert number_check(0)("0") == 1
    assert numbers_in("1,000 and -2.5 and 1e3") == [1000, -2.5, 1000]


def test_long_integers_need_all_their_digits() -> None:
    check = questions_in_numbers._digits_check(121932631112635269)
    assert check("121,932,631,112,635,269") == 1
    assert check("1.21932631113e+17") == 0


def test_phrases_are_whole_words_in_any_case() -> None:
    check = phrase_check("Rome")
    assert check("It is rome!") == 1
    assert check("Romeo") == 0
    assert phrase_check("Bogotá")("bogota") == 1
    assert phrase_check("złoty")("The currency is the zloty.") == 1


def test_texts_are_judged_letter_by_letter() -> None:
    assert exact_check("LOUD")("LOUD") == 1
    assert exact_check("LOUD")("'loud'") == 0.5
    assert exact_check("a b")("a, b") == 1
    assert exact_check("LOUD")("very LOUD") == 0


def test_dates_may_be_written_in_three_ways() -> None:
    check = date_check(date(2024, 3, 5))
    assert [check(a) for a in ("2024-03-05", "March 5, 2024", "It is 5 March 2024.", "2024-05-03")] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (42, "forty-two"), (105, "one hundred and five"), (2310, "two thousand three hundred and ten")],
)
def test_numbers_are_said_in_words(number: int, words: str) -> None:
    assert say(number) == words
