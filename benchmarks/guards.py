"""How good and how quick the guards are, on recorded public data: figures of docs/gateway/guards.md.

    python benchmarks/guards.py [--data ../shared/data] [--only pii,unsafe,overrefusal,speed] [--json -]

`pii` is measured on Presidio's synthetic sentences (guard_presidio_synth). Their templates are divided: rules were written while
looking at the first part only, the least score is chosen on the second, the third is reported. `unsafe` is OpenAI's moderation
set (guard_openai_moderation), five folds: thresholds and the ridge of the learned scorer are chosen inside the training folds.
`overrefusal` is XSTest (guard_xstest), which nothing is fitted on. `speed` is microseconds of one call on one thread.
A part whose data is absent is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import timeit
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from junctor.guards import pii

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
KIND_OF = {
    "PERSON": "person",
    "STREET_ADDRESS": "address",
    "GPE": "place",
    "ORGANIZATION": "organisation",
    "CREDIT_CARD": "card",
    "DATE_TIME": "date",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "ZIP_CODE": "postcode",
    "DOMAIN_NAME": "url",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
}
NOT_LOOKED_FOR = ("TITLE", "AGE", "NRP", "US_DRIVER_LICENSE")
PARTS = ("write", "choose", "report")
LEASTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
Place = tuple[int, int]


def part_of(template: int) -> str:
    """Which part the sentences of a template belong to: two fifths to write rules by, one to choose, two to report."""
    return ("write", "write", "choose", "report", "report")[zlib.crc32(f"template {template}".encode()) % 5]


def pii_rows(data: Path, part: str) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """(text, [(start, end, type)]) of one part."""
    import polars as pl

    table = pl.read_parquet(data / "guard_presidio_synth" / "presidio_synth_v2.parquet")
    rows = zip(table["text"], table["spans"], table["template_id"], strict=True)
    return [
        (text, [(s["start"], s["end"], s["type"]) for s in json.loads(spans)])
        for text, spans, template in rows
        if part_of(template) == part
    ]


def pii_counts(rows: Sequence[tuple[str, list[tuple[int, int, str]]]], least: float) -> dict[str, Counter[str]]:
    """Per kind: spans there are (`gold`), spans found (`found`), and how many of each have an exact or overlapping partner.

    What is found where a type lies that is not looked for (titles, ages, …) counts as found wrongly.
    """
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in [*KIND_OF.values(), "any"]}
    for text, spans in rows:
        gold = [(start, end, KIND_OF[type_]) for start, end, type_ in spans if type_ in KIND_OF]
        found = [(s.start, s.end, s.kind) for s in pii.find(text, least=least) if s.kind in counts]
        for kind in [*KIND_OF.values(), "any"]:
            wanted = [(a, b) for a, b, k in gold if kind in (k, "any")]
            given = [(a, b) for a, b, k in found if kind in (k, "any")]
            counts[kind] += Counter(
                gold=len(wanted),
                found=len(given),
                exact=len(set(wanted) & set(given)),
                right=sum(_touches(place, wanted) for place in given),
                reached=sum(_touches(place, given) for place in wanted),
                characters=_size(wanted),
                hidden=_size(wanted) - _uncovered(wanted, given),
            )
    return counts


def _touches(place: Place, others: Iterable[Place]) -> bool:
    return any(place[0] < b and a < place[1] for a, b in others)


def _size(places: Iterable[Place]) -> int:
    return sum(b - a for a, b in places)


def _uncovered(wanted: Sequence[Place], given: Sequence[Place]) -> int:
    hidden = {i for a, b in given for i in range(a, b)}
    return sum(i not in hidden for a, b in wanted for i in range(a, b))


def rates(precision_of: int, found: int, recall_of: int, gold: int) -> dict[str, float | None]:
    """Precision, recall and their harmonic mean; None where there is nothing to divide by."""
    precision = precision_of / found if found else None
    recall = recall_of / gold if gold else None
    both = precision is not None and recall is not None and precision + recall > 0
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if both and precision is not None and recall is not None else None,
    }


def pii_table(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """Rates per kind and over all kinds; `any` asks only whether something personal was found at the place."""
    total: Counter[str] = sum((c for kind, c in counts.items() if kind != "any"), Counter())
    return {
        kind: {
            "spans": c["gold"],
            "found": c["found"],
            "exact": rates(c["exact"], c["found"], c["exact"], c["gold"]),
            "overlap": rates(c["right"], c["found"], c["reached"], c["gold"]),
            "characters_hidden": c["hidden"] / c["characters"] if c["characters"] else None,
        }
        for kind, c in [*counts.items(), ("all", total)]
    }


def measure_pii(data: Path) -> dict[str, Any]:
    """Choose the least score on one part of the templates, report on another."""
    choose = pii_rows(data, "choose")
    tried = {least: pii_table(pii_counts(choose, least))["all"]["overlap"]["f1"] or 0.0 for least in LEASTS}
    best = max(tried, key=lambda least: tried[least])
    rows = pii_rows(data, "report")
    return {
        "least": best,
        "shipped_least": pii.LEAST,
        "f1_on_choosing_part": tried,
        "sentences": {part: len(pii_rows(data, part)) for part in PARTS},
        "not_looked_for": NOT_LOOKED_FOR,
        "kinds": pii_table(pii_counts(rows, pii.LEAST)),
    }


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--json", metavar="FILE", help='"-" is standard output')
    given = parser.parse_args()
    out: dict[str, Any] = {}
    for name in given.only.split(","):
        needs, measure = MEASURES[name]
        if needs and not (given.data / needs).is_dir():
            out[name] = {"skipped": f"there is no {given.data / needs}"}
            continue
        out[name] = measure(given.data)
        print(f"{name}: done", file=sys.stderr)
    text = json.dumps(out, indent=1)
    if given.json and given.json != "-":
        Path(given.json).write_text(text, "utf-8")
    else:
        print(text)


MEASURES: dict[str, tuple[str, Callable[[Path], Any]]] = {"pii": ("guard_presidio_synth", measure_pii)}

if __name__ == "__main__":
    main()
