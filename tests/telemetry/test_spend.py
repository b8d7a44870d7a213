"""The books: read whole, in pieces or from the command line, they come to the same sums, worked out here by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from junctor.errors import JournalError, RequestError
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, NoteRecord, OutcomeRecord
from junctor.telemetry.spend import Books, by_team, day_start, read_books
from junctor.types import Attempt, Call, Decision, Outcome, Price, Ranked

DAY = 1_767_225_600.0
PRICES = {"good": Price(input_usd_per_mtok=1000.0, output_usd_per_mtok=2000.0), "cheap": Price(input_usd_per_mtok=10.0)}


def attempt(target: str, cost: float | None, error: str = "") -> Attempt:
    outcome = Outcome(cost_usd=cost, input_tokens=10, output_tokens=5) if not error else Outcome(cost_usd=cost)
    return Attempt(target=target, started_s=0.0, ended_s=0.1, error=error, outcome=outcome)


class Writer:
    """Writes decisions with outcomes, as an engine would."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path, fsync="never")
        self.count = 0

    def __call__(self, *attempts: Attempt, at: float = DAY, ranked=(), alias: str = "auto", policy: str = "p", **who) -> str:
        self.count += 1
        id_ = f"dec-{self.count}"
        target = attempts[-1].target if attempts else "cheap"
        rows = tuple(Ranked(target=t, score=1.0, predicted=Outcome(quality=q, cost_usd=c)) for t, q, c in ranked)
        decision = Decision(id=id_, plan=Call(target), target=target, policy=policy, ranked=rows)
        self.journal.append(DecisionRecord(at=at, decision=decision, alias=alias, **who))
        costs = [a.outcome.cost_usd for a in attempts if a.outcome.cost_usd is not None]
        error = attempts[-1].error if attempts else ""
        outcome = Outcome(cost_usd=sum(costs) if costs else None, input_tokens=10, output_tokens=5)
        served = "" if error else target
        self.journal.append(OutcomeRecord(at=at, id=id_, target=served, outcome=outcome, attempts=tuple(attempts), error=error))
        return id_


@pytest.fixture
def write(tmp_path: Path):
    writer = Writer(tmp_path / "j")
    yield writer
    writer.journal.close()


def by(books: Books, axis: str) -> dict[str, float]:
    return {row[axis]: pytest.approx(row["cost_usd"]) for row in books.table(axis)}


def test_every_call_is_billed_to_whom_was_called(write, tmp_path) -> None:
    write(attempt("cheap", 0.001), attempt("good", 0.03), tenant="acme", key="k1")
    write(attempt("cheap", 0.002), tenant="acme", key="k2")
    write(attempt("cheap", 0.004, "upstream_broken"), tenant="globex")
    books = read_books(tmp_path / "j", PRICES)
    assert by(books, "target") == {"good": 0.03, "cheap": 0.007, "": 0.0}
    assert by(books, "tenant") == {"acme": 0.033, "globex": 0.004}
    assert by(books, "key") == {"k1": 0.031, "k2": 0.002, "": 0.004}
    total = books.total()
    assert (total.decisions, total.answered, total.calls) == (3, 2, 4)
    assert total.cost_usd == pytest.approx(0.037)
    for axis in ("tenant", "key", "alias", "target", "policy", "day"):
        assert sum(row["cost_usd"] for row in books.table(axis)) == pytest.approx(total.cost_usd)
        assert sum(row["decisions"] for row in books.table(axis)) == 3


def test_days_are_told_apart_and_since_cuts(write, tmp_path) -> None:
    write(attempt("cheap", 1.0))
    write(attempt("cheap", 2.0), at=DAY + 86_400)
    books = read_books(tmp_path / "j", PRICES)
    assert {row["day"]: row["cost_usd"] for row in books.table("day")} == {"2026-01-01": 1.0, "2026-01-02": 2.0}
    assert books.total(DAY + 86_400).cost_usd == 2.0
    assert books.table("target", DAY + 86_400)[0]["cost_usd"] == 2.0


def test_savings_by_prediction_are_corrected_and_net_of_what_routing_costs(write, tmp_path) -> None:
    """Predictions are twice the bills. good would have cost 0.02 x 0.5 for each of three that cheap took, and did cost 0.01."""
    both = [("good", 0.9, 0.02), ("cheap", 0.6, 0.002)]
    for _ in range(3):
        write(attempt("cheap", 0.001), ranked=both)
    write(attempt("good", 0.01), ranked=both)
    write(attempt("cheap", 0.0005, "upstream_broken"), ranked=both)
    books = read_books(tmp_path / "j", PRICES, usd_per_cpu_hour=3.6)
    (row,) = books.savings(cpu_s_per_request=0.1)
    assert (row["best_single"], row["basis"], row["compared"]) == ("good", "predicted quality", 4)
    assert row["calibration"] == pytest.approx((3 * 0.001 + 0.01) / (3 * 0.002 + 0.02))
    would = 0.01 + 3 * 0.02 * 0.5
    assert row["single_usd"] == pytest.approx(would)
    assert row["billed_usd"] == pytest.approx(0.0135)
    assert row["failed_usd"] == pytest.approx(0.0005)
    assert row["cpu_usd"] == pytest.approx(5 * 0.1 / 3600 * 3.6)
    assert row["saved_usd"] == pytest.approx(would - 0.013 - 0.0005 - 5 * 0.0001)


def test_the_earlier_stages_of_a_cascade_are_in_the_bill_that_is_compared(write, tmp_path) -> None:
    """A cascade that ends at the best single has lost what the first stage cost: savings are negative, and said so."""
    both = [("good", 0.9, 0.01), ("cheap", 0.6, 0.001)]
    for _ in range(5):
        write(attempt("cheap", 0.001), attempt("good", 0.01), ranked=both)
    write(attempt("good", 0.01), ranked=both)
    (row,) = read_books(tmp_path / "j", PRICES, 0.0).savings()
    assert row["single_usd"] == pytest.approx(0.06)
    assert row["saved_usd"] == pytest.approx(-0.005)


def test_without_predictions_list_prices_on_the_tokens_used(write, tmp_path) -> None:
    write(attempt("cheap", 0.0001), ranked=[("good", None, None), ("cheap", None, None)])
    (row,) = read_books(tmp_path / "j", PRICES, 0.0).savings()
    assert (row["best_single"], row["basis"]) == ("good", "list price")
    assert row["single_usd"] == pytest.approx(10 * 1e-3 + 5 * 2e-3)
    assert row["saved_usd"] == pytest.approx(0.02 - 0.0001)


def test_recorded_quality_names_the_best_when_there_is_enough_of_it(write, tmp_path) -> None:
    none = [("good", None, None), ("cheap", None, None)]
    for _ in range(20):
        for target, quality in (("good", 0.2), ("cheap", 0.8)):
            id_ = write(attempt(target, 0.001), ranked=none)
            write.journal.append(FeedbackRecord(at=DAY, id=id_, outcome=Outcome(quality=quality)))
    (row,) = read_books(tmp_path / "j", PRICES, 0.0).savings()
    assert (row["best_single"], row["basis"]) == ("cheap", "recorded quality")


def test_what_is_not_known_is_left_out_and_counted(write, tmp_path) -> None:
    write(attempt("cheap", None), ranked=[("good", 0.9, None), ("cheap", 0.5, None)])
    books = read_books(tmp_path / "j", {})
    (row,) = books.savings()
    assert (row["answered"], row["compared"], row["saved_usd"]) == (1, 0, None)
    assert books.total().unknown_cost == 1


def test_cache_hits_and_calls_by_name_earn_no_savings(write, tmp_path) -> None:
    write(policy="cache")
    write(attempt("good", 0.5), alias="", policy="direct")
    books = read_books(tmp_path / "j", PRICES)
    (row,) = books.savings()
    assert (row["alias"], row["decisions"], row["from_cache"], row["saved_usd"]) == ("auto", 1, 1, None)
    assert books.total().cost_usd == 0.5


def test_read_in_pieces_it_is_the_same(write, tmp_path) -> None:
    books = Books(tmp_path / "j", PRICES)
    for number in range(50):
        id_ = write(attempt("cheap", 0.001), tenant=f"t{number % 3}", ranked=[("good", 0.9, 0.02), ("cheap", 0.6, 0.001)])
        if number % 7 == 0:
            books.catch_up()
        write.journal.append(FeedbackRecord(at=DAY, id=id_, outcome=Outcome(quality=0.5)))
    write.journal.append(NoteRecord(at=DAY, about="aliases.auto", event="updated"))
    books.catch_up(rest=True)
    books.catch_up()
    whole = read_books(tmp_path / "j", PRICES)
    assert books.table("tenant") == whole.table("tenant")
    assert books.savings() == whole.savings()
    assert books.alias_days("auto").recordings == 50


def test_torn_and_foreign_lines_are_passed_over(write, tmp_path) -> None:
    write(attempt("cheap", 0.25))
    with (tmp_path / "j").open("ab") as file:
        file.write(b"00000000 {}\nnonsense\n" + b"a" * 100)
    books = read_books(tmp_path / "j", PRICES)
    assert books.total().cost_usd == 0.25
    assert books.tail.torn == 2


def test_a_line_longer_than_a_piece_is_read(tmp_path) -> None:
    writer = Writer(tmp_path / "long")
    writer(attempt("cheap", 1.0), text="x" * (1 << 21))
    writer(attempt("cheap", 2.0))
    writer.journal.close()
    books = Books(tmp_path / "long", PRICES)
    books.catch_up(rest=True)
    assert books.total().cost_usd == 3.0


def test_no_journal_is_an_error_that_names_it(tmp_path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        read_books(tmp_path / "nowhere", {})


def test_days_of_the_calendar() -> None:
    assert day_start("2026-01-01", "since") == DAY
    assert day_start("all", "since") == 0.0
    with pytest.raises(RequestError, match="--since"):
        day_start("yesterday", "--since")


CONFIG = """
[journal]
path = "j"
[providers.embedded]
[targets.good]
provider = "embedded"
model = "arithmetic"
price = { input_usd_per_mtok = 1000.0, output_usd_per_mtok = 2000.0 }
"""


def test_the_command_tells_it_in_words_and_as_json(junctor, write, tmp_path) -> None:
    write(attempt("cheap", 0.0001), ranked=[("good", 0.9, 0.03), ("cheap", 0.5, 0.0001)])
    (tmp_path / "junctor.toml").write_text(CONFIG)
    ran = junctor("spend", "--by", "alias", "--since", "all")
    assert ran.code == 0
    assert "auto" in ran.out
    assert "always good (best by predicted quality) about 0.030000" in ran.out
    found = json.loads(junctor("spend", "--json").out)
    assert found["total"]["cost_usd"] == pytest.approx(0.0001)
    assert found["savings"][0]["saved_usd"] == pytest.approx(0.0299, rel=1e-3)
    assert set(found["tables"]) == {"tenant", "key", "alias", "target", "policy", "day"}
    wrong = junctor("spend", "--by", "tenat")
    assert wrong.code == 2
    assert "--by" in wrong.err


def test_teams_are_the_teams_of_keys(write, tmp_path) -> None:
    write(attempt("cheap", 1.0), key="k1")
    write(attempt("cheap", 2.0), key="k2")
    write(attempt("cheap", 4.0), key="gone")
    keys = read_books(tmp_path / "j", PRICES).table("key")
    assert {row["team"]: row["cost_usd"] for row in by_team(keys, {"k1": "red", "k2": "red"})} == {"": 4.0, "red": 3.0}


def test_a_long_journal_is_read_a_while_at_a_time(write, tmp_path) -> None:
    for _ in range(400):
        write(attempt("cheap", 1.0), text="x" * 1000)
    books = Books(tmp_path / "j", PRICES)
    assert books.catch_up(rest=True, most_s=0.0) is False
    assert 0 < books.total().cost_usd < 400
    assert books.tail.behind > 0
    assert books.catch_up(rest=True) is True
    assert books.total().cost_usd == 400
