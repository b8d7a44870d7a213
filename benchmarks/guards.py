"""How good and how quick the guards are, on recorded public data: figures of docs/gateway/guards.md.

    python benchmarks/guards.py [--data ../shared/data] [--only pii,unsafe,overrefusal,speed] [--json -]

`pii` is measured on Presidio's synthetic sentences (guard_presidio_synth). Their templates are divided: rules were mended while
looking at the first part, the least score is chosen on the second, the third is reported. `unsafe` is OpenAI's moderation
set (guard_openai_moderation), five folds: thresholds and the ridge of the learned scorer are chosen inside the training folds.
`overrefusal` is XSTest (guard_xstest), which nothing is fitted on. `speed` is microseconds of one call on one thread.
A part whose data is absent is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import timeit
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.guards import injection, pii, unsafe
from junctor.guards.scorer import RIDGES, auprc, auroc, best_threshold, choose, features, fit_line, fit_scorer, folds_of

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
FIXED_RIDGE = 3.0
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


CATEGORY_OF = {
    "S": "sexual",
    "S3": "minors",
    "H": "hate",
    "H2": "hate",
    "HR": "harassment",
    "V": "violence",
    "V2": "violence",
    "SH": "self-harm",
}
FOLDS = 5
Floats = NDArray[np.float64]


def moderation(data: Path) -> tuple[list[str], dict[str, list[int | None]]]:
    """Texts and the labels of each category; None: not labelled. `any`: at least one category."""
    import polars as pl

    table = pl.read_parquet(data / "guard_openai_moderation" / "samples_1680.parquet")
    labels: dict[str, list[int | None]] = {c: table[c].to_list() for c in CATEGORY_OF}
    labels["any"] = [int(any(row)) for row in zip(*(labels[c] for c in CATEGORY_OF), strict=True)]
    return table["text"].to_list(), labels


def at_threshold(y: Floats, flagged: NDArray[np.bool_]) -> dict[str, float]:
    """Precision and recall of what was flagged, and the share of the others that was."""
    right = float((flagged & (y > 0)).sum())
    return {
        "precision": right / max(1.0, float(flagged.sum())),
        "recall": right / float(y.sum()),
        "false_alarms": float((flagged & (y == 0)).sum()) / float((y == 0).sum()),
    }


def measure_unsafe(data: Path) -> dict[str, Any]:
    """The lists, and a scorer fitted on four folds and asked about the fifth."""
    texts, labels = moderation(data)
    listed = [unsafe.scores(text) for text in texts]
    X = features(texts)
    out: dict[str, Any] = {"texts": len(texts), "lists": {}, "fitted": {}}
    for name, values in labels.items():
        known = np.array([v is not None for v in values])
        y = np.array([v or 0 for v in values], dtype=np.float64)[known]
        scores = np.array([s[CATEGORY_OF[name]] if name != "any" else max(s.values()) for s in listed])[known]
        out["lists"][name] = _judged(y, *_thresholds(y, scores))
        out["lists"][name]["at_half"] = at_threshold(y, scores >= 0.5)
        out["fitted"][name] = _judged(y, *_fitted(X[known], y, nested=name == "any"))
    return out


def _judged(y: Floats, scores: Floats, flagged: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "rows": len(y),
        "positives": int(y.sum()),
        "auroc": auroc(y, scores),
        "auprc": auprc(y, scores),
        "chosen": at_threshold(y, flagged),
    }


def _thresholds(y: Floats, scores: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Fixed scores, flagged by a threshold that the other folds chose."""
    folds, flagged = folds_of(y, 0), np.zeros(len(y), dtype=bool)
    for fold in range(FOLDS):
        held = folds == fold
        flagged[held] = scores[held] >= best_threshold(y[~held], scores[~held])
    return scores, flagged


def _fitted(X: Floats, y: Floats, *, nested: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of weights fitted on the other folds, flagged by a threshold chosen inside of those. `nested`: the ridge too."""
    folds, scores, flagged = folds_of(y, 0), np.zeros(len(y)), np.zeros(len(y), dtype=bool)
    for fold in range(FOLDS):
        held = folds == fold
        choice = choose(X[~held], y[~held], ridges=RIDGES if nested else (FIXED_RIDGE,))
        weights, bias = fit_line(X[~held], y[~held], choice.ridge)
        scores[held] = 1 / (1 + np.exp(-np.clip(X[held] @ weights + bias, -40, 40)))
        flagged[held] = scores[held] >= choice.threshold
    return scores, flagged


def xstest(data: Path) -> tuple[list[str], Floats]:
    """Prompts, and 1 for those that are unsafe."""
    import polars as pl

    table = pl.read_parquet(data / "guard_xstest" / "xstest_v2_5models.parquet")
    return table["prompt"].to_list(), (~table["is_safe_prompt"].to_numpy()).astype(np.float64)


def lists_on_xstest(data: Path) -> dict[str, Any]:
    """What nothing was fitted for: the two lists."""
    texts, y = xstest(data)
    lists = np.array([unsafe.score(text) for text in texts])
    attempts = np.array([injection.score(text) for text in texts])
    return {
        "safe": int((y == 0).sum()),
        "unsafe": int(y.sum()),
        "lists": _refusals(y, lists, lists >= 0.5),
        "injection": _refusals(y, attempts, attempts >= 0.5),
    }


def measure_overrefusal(data: Path) -> dict[str, Any]:
    """XSTest: how many safe prompts are flagged, and how many of the unsafe ones."""
    texts, y = xstest(data)
    out = lists_on_xstest(data)
    out["fitted_on_xstest_other_folds"] = _refusals(y, *_fitted(features(texts), y, nested=True))
    if (data / "guard_openai_moderation").is_dir():
        known, labels = moderation(data)
        scorer = fit_scorer(known, [bool(v) for v in labels["any"]])
        scores = np.array([scorer.score(text) for text in texts])
        out["fitted_on_moderation"] = _refusals(y, scores, scores >= scorer.threshold)
        said = np.array([injection.score(text) for text in known])
        out["injection_false_alarms_on_moderation"] = float((said >= 0.5).mean())
    return out


def _refusals(y: Floats, scores: Floats, flagged: NDArray[np.bool_]) -> dict[str, float]:
    found = at_threshold(y, flagged)
    return {"over_refusal": found["false_alarms"], "recall": found["recall"], "auroc": auroc(y, scores)}


ORDINARY = (
    "Please write a short summary of the text that follows, and say which parts are new. It is about a study of bees and "
    "flowers in spring, which took several years and involved many people from all over the world. They counted 1200 plants. "
    "Please write a short summary of the text that follows, and say w"
)
PERSONAL = (
    "My name is Tomasz Zieliński and I live at 12 Main Street, Springfield, IL 62704. Mail ana@example.org or call "
    "+44 20 7946 0958. My card is 4111 1111 1111 1111 and my account GB29 NWBK 6016 1331 9268 19. Dr. Maria Lopez of Acme Ltd. "
    "in Berlin knows me. Please write a short summary of all of that now."
)


def measure_speed(data: Path) -> dict[str, Any]:
    """Microseconds of processor time of one call on texts of about 300 characters, best of five."""
    del data
    calls: dict[str, Callable[[str], Any]] = {"pii": pii.find, "injection": injection.score, "unsafe": unsafe.score}
    return {
        f"{name}_{kind}_us": round(
            min(timeit.repeat(partial(call, text), number=200, repeat=5, timer=time.process_time)) / 200 * 1e6, 1
        )
        for name, call in calls.items()
        for kind, text in (("ordinary", ORDINARY), ("personal", PERSONAL))
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


MEASURES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pii": ("guard_presidio_synth", measure_pii),
    "unsafe": ("guard_openai_moderation", measure_unsafe),
    "overrefusal": ("guard_xstest", measure_overrefusal),
    "speed": ("", measure_speed),
}

if __name__ == "__main__":
    main()
