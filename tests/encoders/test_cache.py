"""The embedding cache: hits are exact, misses are computed once, damage is repaired, processes do not disturb each other."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from junctor.encoders.base import Encoder
from junctor.encoders.cache import BATCH, EmbeddingCache, cache_folder
from junctor.errors import UserError


class Counting(Encoder):
    """A vector per text from its hash; counts the texts that it was asked for."""

    name = "counting"
    dim = 8

    def __init__(self, digest: str = "d1") -> None:
        self.asked: list[str] = []
        self._digest = digest

    @property
    def digest(self) -> str:
        return self._digest

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        seeds = [int.from_bytes(hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest()[:8]) for t in texts]
        return np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds]).astype(np.float32)


def test_a_hit_has_the_same_bytes_and_asks_nobody(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "", "\ud800 é"]
    expected = Counting().encode(texts)
    encoder = Counting()
    assert EmbeddingCache(encoder, tmp_path).encode(texts).tobytes() == expected.tobytes()
    assert encoder.asked == ["a", "b", "", "\ud800 é"]  # a repeated text is asked for once
    second = Counting()
    assert EmbeddingCache(second, tmp_path).encode(texts).tobytes() == expected.tobytes()
    assert second.asked == []


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    EmbeddingCache(Counting(), tmp_path).encode(["a", "b"])
    encoder = Counting()
    EmbeddingCache(encoder, tmp_path).encode(["b", "c", "a"])
    assert encoder.asked == ["c"]


def test_progress_counts_hits_first_and_ends_at_the_total(tmp_path: Path) -> None:
    texts = [str(i) for i in range(2 * BATCH + 10)]
    EmbeddingCache(Counting(), tmp_path).encode(texts[:10])
    seen: list[tuple[int, int]] = []
    EmbeddingCache(Counting(), tmp_path).encode(texts, lambda done, total: seen.append((done, total)))
    total = len(texts)
    assert seen == [(10, total), (10 + BATCH, total), (total, total)]


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    assert EmbeddingCache(Counting(), tmp_path).encode([]).shape == (0, 8)


def test_another_digest_is_another_file(tmp_path: Path) -> None:
    EmbeddingCache(Counting("d1"), tmp_path).encode(["a"])
    other = Counting("d2")
    EmbeddingCache(other, tmp_path).encode(["a"])
    assert other.asked == ["a"]


@pytest.mark.parametrize("damage", ["junk", "cut", "overwritten middle", "short vector"])
def test_a_damaged_file_is_filled_again(tmp_path: Path, damage: str) -> None:
    texts = [str(i) for i in range(2_000)]
    cache = EmbeddingCache(Counting(), tmp_path)
    expected = cache.encode(texts)
    raw = cache.path.read_bytes()
    if damage == "junk":
        cache.path.write_bytes(b"this is no database" * 100)
    elif damage == "cut":
        cache.path.write_bytes(raw[: len(raw) // 2])
    elif damage == "overwritten middle":
        cache.path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 8192) + raw[-4096:])
    else:
        database = sqlite3.connect(cache.path)
        with database:
            database.execute("UPDATE vectors SET vector = x'0102'")
        database.close()
    again = EmbeddingCache(Counting(), tmp_path)
    assert again.encode(texts).tobytes() == expected.tobytes()
    last = Counting()
    assert EmbeddingCache(last, tmp_path).encode(texts).tobytes() == expected.tobytes()
    assert last.asked == []


def test_a_batch_that_was_finished_before_a_crash_is_kept(tmp_path: Path) -> None:
    class Crashing(Counting):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            if self.asked:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [str(i) for i in range(BATCH + 5)]
    with pytest.raises(KeyboardInterrupt):
        EmbeddingCache(Crashing(), tmp_path).encode(texts)
    after = Counting()
    EmbeddingCache(after, tmp_path).encode(texts)
    assert after.asked == texts[BATCH:]


def test_two_processes_fill_one_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from junctor.encoders.lexical import LexicalEncoder as L;"
        "from junctor.encoders.cache import EmbeddingCache as C; n = int(sys.argv[2]);"
        "C(L(), Path(sys.argv[1])).encode([str(i) for i in range(n, n + 1500)])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in (0, 750)]
    assert [one.wait(timeout=60) for one in running] == [0, 0]
    from junctor.encoders.lexical import LexicalEncoder

    texts = [str(i) for i in range(2_250)]
    cache = EmbeddingCache(LexicalEncoder(), tmp_path)
    seen: list[int] = []
    found = cache.encode(texts, lambda done, total: seen.append(done))
    assert seen == [2_250]  # all were there
    assert found.tobytes() == LexicalEncoder().encode(texts).tobytes()


def test_a_folder_that_cannot_be_made_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        EmbeddingCache(Counting(), tmp_path / "file" / "below").encode(["a"])


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EmbeddingCache(Counting()).path == tmp_path / "junctor" / "embeddings" / "counting-d1.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("x") == tmp_path / "home" / ".cache" / "junctor" / "x"
