"""TEP by hand, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.elasticity import tep


def of(quality: float, tokens: float, base_quality: float = 0.5, base_tokens: float = 1000.0) -> float:
    values = (np.array([v]) for v in (quality, tokens, base_quality, base_tokens))
    return float(tep(*values)[0])


def test_by_hand() -> None:
    # 20 % better for 50 % more tokens
    assert of(0.6, 1500.0) == pytest.approx(0.4)
    assert of(0.5, 1500.0) == 0.0


def test_the_same_gain_for_fewer_tokens_is_more_elastic() -> None:
    assert of(0.6, 1200.0) > of(0.6, 1500.0)


def test_says_nothing_when_quality_falls() -> None:
    assert np.isnan(of(0.4, 800.0)), "a cut in quality and tokens is no elasticity of 1"
    assert np.isnan(of(0.4, 1500.0))


def test_says_nothing_next_to_the_base() -> None:
    assert np.isnan(of(0.5001, 1000.1))
    assert np.isnan(of(0.6, 1000.0))
    assert np.isnan(of(0.6, 900.0)), "better and cheaper is dominance, not elasticity"


def test_says_nothing_without_a_base() -> None:
    assert np.isnan(of(0.6, 1500.0, base_quality=0.0))
    assert np.isnan(of(0.6, 1500.0, base_tokens=0.0))
