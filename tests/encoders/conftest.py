"""What the encoder tests share: the vocabulary, a small static table, and the teacher where its package is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from junctor.encoders import bert
from junctor.encoders.static import DATA, TABLE_FILE, VOCABULARY_FILE, StaticEncoder, quantise
from junctor.encoders.wordpiece import WordPiece, read_vocabulary
from junctor.errors import MissingExtra

SENTENCES = [
    "hello world",
    "What is the capital of France, and how far is it from Berlin by train?",
    "book a flight to new york for two adults next tuesday",
    "Write a python function to remove the duplicate elements of a given list.",
    "zebra",
    "List all storage accounts in my subscription, with their location and sku.",
    "The moon's gravity causes the tides; explain briefly why there are two high tides a day.",
]


@pytest.fixture(scope="session")
def vocabulary() -> dict[str, int]:
    return read_vocabulary(DATA / VOCABULARY_FILE)


@pytest.fixture(scope="session")
def tokens(vocabulary: dict[str, int]) -> WordPiece:
    return WordPiece(vocabulary)


@pytest.fixture(scope="session")
def static() -> StaticEncoder:
    return StaticEncoder()


@pytest.fixture(scope="session")
def teacher_folder() -> Path:
    """The folder of MiniLM's weights."""
    try:
        return bert.model_folder()
    except MissingExtra as error:
        pytest.skip(f"the teacher's weights are not installed ({error.fix})")


@pytest.fixture(scope="session")
def weights(teacher_folder: Path) -> dict[str, np.ndarray]:
    return bert.load_weights(teacher_folder)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """A static table over five tokens: [UNK] 0, red = e0, green = e1, ##s = 3 e2, blue = 2 e0."""
    rows = np.zeros((5, StaticEncoder.dim), np.float32)
    rows[1, 0] = rows[2, 1] = 1
    rows[3, 2], rows[4, 0] = 3, 2
    table, scales = quantise(rows)
    save_file({"rows": table, "scales": scales}, tmp_path / TABLE_FILE)
    (tmp_path / VOCABULARY_FILE).write_text("[UNK]\nred\ngreen\n##s\nblue\n", encoding="utf-8")
    return tmp_path
