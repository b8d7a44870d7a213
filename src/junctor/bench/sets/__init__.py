"""The published sets: what each is called, which files it is read from, and who reads it.

Nothing of them ships with junctor. They are read from one folder (`--data DIR`, else the environment's JUNCTOR_DATA, else
`shared/data` beside the checkout); a set whose files are not there is named and left out. Each reader answers the traps that
are known of its files, and says in the table's notes what it did.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from junctor.errors import TableError, UnknownName
from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import near

Reader = Callable[[Path], OutcomeTable]
ENVIRONMENT = "JUNCTOR_DATA"
HERE = "junctor.bench.sets"


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """One set.

    name, title   for people and for files
    files         what it is read from, relative to the data folder (or absolute)
    where         "module:function" of its reader: folder -> OutcomeTable
    experiments   the only experiments that are asked on it; all when empty
    split         the ratio it is split by where no split is recorded; 60/20/20 when empty
    vectors       what is encoded: its texts, the names of its labels (it has no texts), or nothing
    """

    name: str
    title: str
    files: tuple[str, ...]
    where: str
    experiments: tuple[str, ...] = ()
    split: str = ""
    vectors: Literal["texts", "labels", "none"] = "texts"

    def missing(self, folder: Path | None) -> tuple[str, ...]:
        """The files that are not there."""
        places = {name: Path(name) if folder is None else folder / name for name in self.files}
        nowhere = {name for name, place in places.items() if folder is None and not place.is_absolute()}
        return tuple(name for name, place in places.items() if name in nowhere or not place.is_file())

    def load(self, folder: Path) -> OutcomeTable:
        """Read it. Raises TableError when the files are not what the reader expects, or when there is no such reader."""
        module, _, function = self.where.partition(":")
        try:
            read: Reader = getattr(importlib.import_module(module), function)
        except (ModuleNotFoundError, AttributeError) as error:
            raise TableError(f"its reader {self.where} cannot be loaded: {error}", field=self.name, fix="mend it") from error
        return read(folder)

    def digest(self, folder: Path) -> str:
        """SHA-256 of what its figures depend on: the files, byte by byte, and how they are read."""
        h = hashlib.sha256(f"{self.where} {self.split} {self.vectors}".encode())
        for name in self.files:
            h.update((folder / name).read_bytes())
        return h.hexdigest()


def _matrix(name: str, title: str, files: Sequence[str], function: str, **more: object) -> PublishedSet:
    module, _, reader = function.partition(":")
    return PublishedSet(name, title, tuple(files), f"{HERE}.{module}:{reader}", **more)  # type: ignore[arg-type]


_BFCL = tuple(f"bfcl_v1_outcomes/{name}.parquet" for name in ("queries", "outcomes", "models"))
_ROUTELLM = ("routellm/routellm_mmlu_gsm8k.parquet",)
_GREENSERV = ("greenserv_logs/queries.parquet", "greenserv_logs/x0_bandit_logs.parquet")

PUBLISHED: tuple[PublishedSet, ...] = (
    _matrix("routerdc-en", "RouterDC, English, 7 models", ["routerdc/routerdc_7models_en.parquet"], "matrices:routerdc_en"),
    _matrix("routerdc-zh", "RouterDC, Chinese, 7 models", ["routerdc/routerdc_7models_zh_nc.parquet"], "matrices:routerdc_zh"),
    _matrix(
        "routerbench",
        "RouterBench, ARC + MBPP + WinoGrande, 11 models",
        ["routerbench_subset/routerbench_arc_mbpp_winogrande.parquet"],
        "matrices:routerbench",
    ),
    _matrix("routellm-mmlu", "RouteLLM, MMLU, 2 models", _ROUTELLM, "matrices:routellm_mmlu", split="8/3/89"),
    _matrix("routellm-gsm8k", "RouteLLM, GSM8K, 2 models", _ROUTELLM, "matrices:routellm_gsm8k"),
    _matrix(
        "mt-bench",
        "MT-Bench, 4 systems",
        ["routellm/mt_bench_judgements.parquet", "routellm/mt_bench_questions.parquet"],
        "judged:mt_bench",
    ),
    _matrix("bfcl", "BFCL v1, 71 models", _BFCL, "bfcl:everyone", split="48/12/40"),
    _matrix("bfcl-priced", "BFCL v1, the 49 priced models", _BFCL, "bfcl:priced", split="48/12/40"),
    _matrix(
        "lookahead",
        "Lookahead, 7 benchmarks, 5 models",
        ["lookahead/test_queries.parquet", "lookahead/test_outcomes.parquet"],
        "judged:lookahead",
    ),
    _matrix("selfoss", "Lookahead, code training set, 5 models", ["lookahead/train_selfoss_code.parquet"], "matrices:selfoss"),
    _matrix(
        "llmrouter",
        "LLMRouter, 13 tasks, 9 models",
        ["llmrouter_ulab/llmrouter_13tasks_9models.parquet", "llmrouter_ulab/models.parquet"],
        "matrices:llmrouter",
    ),
    _matrix(
        "llmrouter-nq",
        "LLMRouter, Natural Questions, 6 models",
        ["llmrouter_ulab/nq_6models_history.parquet"],
        "matrices:llmrouter_nq",
    ),
    _matrix(
        "routerarena",
        "RouterArena, public tenth, 2 models",
        ["routerarena_sub10/routerarena_sub10_2models.parquet"],
        "matrices:routerarena",
    ),
    _matrix(
        "open-llm-v2",
        "Open LLM Leaderboard v2 (CARROT), 18 models, no texts",
        ["carrot_openllm_v2_numeric/correctness.parquet"],
        "judged:open_llm_v2",
        split="8/2/90",
        vectors="labels",
    ),
    _matrix(
        "wildbench",
        "WildBench v2, 12 models, neither texts nor labels",
        ["wildbench_numeric/wildbench_v2_0522_scores.parquet"],
        "judged:wildbench",
        vectors="none",
    ),
    _matrix("clinc150", "CLINC150", ["clinc150/clinc150_full.parquet"], "intents:clinc150", experiments=("guarded",)),
    _matrix("hwu64", "HWU64, fold 1", ["hwu64/hwu64_fold1.csv"], "intents:hwu64", experiments=("guarded",)),
    _matrix(
        "greenserv",
        "GreenServ's logged bandit feedback, 16 models",
        _GREENSERV,
        "greenserv:greenserv",
        experiments=("off-policy",),
    ),
)


def of_file(path: Path) -> PublishedSet:
    """A set made of one's own outcome table."""
    where = str(path.resolve())
    return PublishedSet(path.stem, f"{path.name}, a table of yours", (where,), f"{HERE}.matrices:own", experiments=())


def chosen(names: Sequence[str] | None) -> tuple[PublishedSet, ...]:
    """The sets of these names; a name that is a file is a set of its own. Raises UnknownName."""
    if names is None:
        return PUBLISHED
    known = {one.name: one for one in PUBLISHED}
    found = []
    for name in dict.fromkeys(names):
        if name not in known and not Path(name).is_file():
            raise UnknownName("is neither a published set nor a file", field=f"sets: {name}", fix=near(name, list(known)))
        found.append(known.get(name) or of_file(Path(name)))
    return tuple(found)


def data_folder(given: Path | None) -> Path | None:
    """Where the published sets lie: as given, else $JUNCTOR_DATA, else shared/data beside the checkout; None when nowhere.

    Raises TableError for a folder that was named and is not there.
    """
    named = given or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if named is not None:
        if not named.is_dir():
            raise TableError("is not a folder", field=str(named), fix=f"name the folder of the sets by --data or {ENVIRONMENT}")
        return named.resolve()
    beside = Path(__file__).resolve().parents[5] / "shared" / "data"
    return beside if beside.is_dir() else None
