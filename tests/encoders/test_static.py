"""The static table: arithmetic on a small one, and the shipped one against the model that it was made from."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from junctor.encoders import bert
from junctor.encoders.static import (
    DATA,
    ORIGIN_FILE,
    SMOOTHING,
    TABLE_FILE,
    VOCABULARY_FILE,
    StaticEncoder,
    quantise,
    token_weights,
)
from junctor.errors import ArtefactError

from .conftest import SENTENCES


def test_a_text_is_the_unit_sum_of_its_token_rows(small_folder: Path) -> None:
    encoder = StaticEncoder(small_folder)
    found = encoder.encode_one("red green Green unheard")  # e0 + 2 e1, and an unknown word that counts for nothing
    assert found[:3] == pytest.approx(np.array([1, 2, 0]) / 5**0.5)
    assert found.dtype == np.float32
    assert encoder.encode_one("reds")[:3] == pytest.approx(np.array([1, 0, 3]) / 10**0.5)
    assert encoder.encode_one("blue") == pytest.approx(encoder.encode_one("red"))


@pytest.mark.parametrize("text", ["", "   ", "unheard", "\ud800", "\x00"])
def test_text_without_a_known_token_is_the_zero_vector(small_folder: Path, text: str) -> None:
    assert not StaticEncoder(small_folder).encode_one(text).any()


def test_a_batch_is_exactly_its_rows(static: StaticEncoder) -> None:
    texts = [*SENTENCES, "", "naïve café — “quoted”"]
    batch = static.encode(texts)
    assert batch.shape == (len(texts), static.dim)
    for row, text in zip(batch, texts, strict=True):
        assert np.array_equal(row, static.encode_one(text))
    norms = np.linalg.norm(batch, axis=1)
    assert norms == pytest.approx([1] * len(SENTENCES) + [0, 1], abs=1e-6)
    assert static.encode([]).shape == (0, static.dim)


def test_the_caller_may_write_into_a_vector(static: StaticEncoder) -> None:
    before = static.encode_one("hello world")
    static.encode_one("hello world")[:] = 0
    assert np.array_equal(static.encode_one("hello world"), before)


def test_a_megabyte_reads_as_its_head_and_tail(static: StaticEncoder) -> None:
    middle = static.encode_one("cats " * 2_000 + "zebra " * 200_000 + "dogs " * 2_000)
    assert np.array_equal(middle, static.encode_one("cats " * 2_000 + "dogs " * 2_000))


def test_threads_get_the_same_vectors(small_folder: Path) -> None:
    encoder = StaticEncoder(small_folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encoder.encode_one, ["red green"] * 64))
    assert all(np.array_equal(one, found[0]) for one in found)


def test_like_means_near_and_unlike_far(static: StaticEncoder) -> None:
    a, b, c = static.encode(["transfer money to my savings account", "move funds into the bank", "why is the sky blue"])
    assert a @ b > 0.4 > a @ c


def test_importing_and_making_one_reads_no_table() -> None:
    code = (
        "import sys; from junctor.encoders.static import StaticEncoder; e = StaticEncoder();"
        "assert e._table is None; assert not {'tokenizers', 'onnxruntime', 'safetensors', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_digest_follows_the_files(small_folder: Path, static: StaticEncoder) -> None:
    before = StaticEncoder(small_folder).digest
    assert StaticEncoder(small_folder).digest == before != static.digest
    (small_folder / VOCABULARY_FILE).write_text("[UNK]\nred\ngreen\n##s\nbrown\n", encoding="utf-8")
    assert StaticEncoder(small_folder).digest != before


@pytest.mark.parametrize("file", [TABLE_FILE, VOCABULARY_FILE])
def test_a_missing_file_is_named_with_its_fix(small_folder: Path, file: str) -> None:
    (small_folder / file).unlink()
    with pytest.raises(ArtefactError, match=r"distill_encoder\.py") as caught:
        StaticEncoder(small_folder).encode_one("red")
    assert file in str(caught.value)


def test_a_damaged_table_is_refused(small_folder: Path) -> None:
    (small_folder / TABLE_FILE).write_bytes(b"not a table")
    with pytest.raises(ArtefactError, match="cannot be read"):
        StaticEncoder(small_folder).encode_one("red")


def test_a_table_that_does_not_fit_its_vocabulary_is_refused(small_folder: Path) -> None:
    save_file({"rows": np.zeros((4, 256), np.int8), "scales": np.zeros(4, np.float32)}, small_folder / TABLE_FILE)
    with pytest.raises(ArtefactError, match="shape"):
        StaticEncoder(small_folder).encode_one("red")


def test_quantise_rounds_to_half_a_step_and_leaves_zero_rows_zero() -> None:
    rows, scales = quantise(np.array([[127.0, -63.5, 0.4], [0, 0, 0]]))
    assert rows.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert scales.tolist() == [1, 0]


def test_weights_fall_with_frequency_and_are_zero_for_what_is_no_word() -> None:
    weights = token_weights({"[PAD]": 0, "the": 1, "[unused5]": 2, "zebra": 3})
    shares = np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (1 + 1 / 2 + 1 / 3 + 1 / 4)
    expected = SMOOTHING / (SMOOTHING + shares) * [0, 1, 0, 1]
    assert weights == pytest.approx(expected)


def test_the_shipped_files_are_small_enough() -> None:
    assert sum((DATA / name).stat().st_size for name in (TABLE_FILE, VOCABULARY_FILE, ORIGIN_FILE)) < 10_000_000


WORDS = ["the", "capital", "france", "##ing", "python", "account", "zebra", "?", "7", "##s", "moon", "schedule", "música"]
SAMPLE = [*WORDS[:-1], "[PAD]", "[MASK]", "##able", "return"]


def rows_made_again(vocabulary: dict[str, int], weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The sample's rows from the model and the kept mean and map alone, and the shipped ones."""
    places = [vocabulary[token] for token in SAMPLE]
    ids = np.array([[bert.CLS, place, bert.SEP] for place in places], np.int64)
    alone = bert.sentence_vectors(weights, ids, np.ones_like(ids))
    origin = load_file(DATA / ORIGIN_FILE)
    made = token_weights(vocabulary)[places, None] * ((alone - origin["mean"]) @ origin["matrix"])
    table = StaticEncoder().table
    return made, table.rows[places] * table.scales[places, None]


def test_shipped_rows_are_made_again_from_the_model(vocabulary: dict[str, int], weights: dict[str, np.ndarray]) -> None:
    """16 tokens through MiniLM in numpy, times the kept map: equal to the shipped rows within one rounding step."""
    made, shipped = rows_made_again(vocabulary, weights)
    step = np.abs(made).max(axis=1, keepdims=True) / 127
    assert (np.abs(made - shipped) <= 0.51 * step + 1e-6).all()
    assert not shipped[SAMPLE.index("[PAD]")].any()


def test_the_check_of_rows_can_fail(vocabulary: dict[str, int], weights: dict[str, np.ndarray]) -> None:
    made, shipped = rows_made_again(vocabulary, weights)
    step = np.abs(made).max(axis=1, keepdims=True) / 127
    assert (np.abs(made - np.roll(shipped, 1, axis=0)) > 0.51 * step + 1e-6).any(axis=1).sum() >= len(SAMPLE) - 2


def test_the_vocabulary_is_the_model_s(teacher_folder: Path) -> None:
    assert (DATA / VOCABULARY_FILE).read_bytes() == (teacher_folder / VOCABULARY_FILE).read_bytes()


def test_the_map_was_fitted_to_the_teacher(static: StaticEncoder, teacher_folder: Path, weights: dict[str, np.ndarray]) -> None:
    """Pairs of sentences are about as near to each other in the table as in MiniLM."""
    del teacher_folder
    rng = np.random.default_rng(0)
    things = ["train to paris", "python function", "bank account", "heart disease", "moon orbit", "pizza recipe"]
    actions = ["book the", "explain my", "how does a {} work", "find the best", "who invented the", "delete the"]
    texts = [a.format(t) if "{}" in a else f"{a} {t}" for a in actions for t in things]
    framed = [bert.frame(static.table.tokens.ids(text)) for text in texts]
    theirs = np.stack([bert.sentence_vectors(weights, f[None], np.ones_like(f)[None])[0] for f in framed])
    pairs = np.triu_indices(len(texts), 1)
    near, ours = (theirs @ theirs.T)[pairs], (static.encode(texts) @ static.encode(texts).T)[pairs]
    assert np.corrcoef(near, ours)[0, 1] > 0.8
    assert abs(np.corrcoef(near, rng.permutation(ours))[0, 1]) < 0.3
