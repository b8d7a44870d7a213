"""Reading learned state back, strictly: what is missing, misshapen or not finite is an ArtefactError that names it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError
from junctor.estimators.measured import PREDICTED, Columns
from junctor.policy import State

T = TypeVar("T")
FIX = "save the policy again from its data"


def entry(state: State, key: str, kind: type[T]) -> T:
    """The config entry `key`, checked to be of this type."""
    if key not in state.config:
        raise ArtefactError("is missing", field=key, fix=FIX)
    try:
        return msgspec.convert(state.config[key], kind)
    except msgspec.ValidationError as error:
        raise ArtefactError(str(error), field=key, fix=FIX) from error


def array(
    state: State, key: str, shape: tuple[int | None, ...], dtype: type[np.generic] = np.float64, *, finite: bool = True
) -> NDArray[Any]:
    """The array `key`, checked for type, shape (None = any length) and, unless NaN has a meaning there, finite values."""
    if key not in state.arrays:
        raise ArtefactError("is missing", field=key, fix=FIX)
    found = np.asarray(state.arrays[key])
    if found.dtype != np.dtype(dtype):
        raise ArtefactError(f"holds {found.dtype}, not {np.dtype(dtype)}", field=key, fix=FIX)
    if found.ndim != len(shape) or any(want not in (None, has) for want, has in zip(shape, found.shape, strict=True)):
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise ArtefactError(f"has shape {found.shape}, not {wanted}", field=key, fix=FIX)
    if np.issubdtype(found.dtype, np.floating) and np.isinf(found).any():
        raise ArtefactError("holds infinite values", field=key, fix=FIX)
    if finite and not np.isfinite(found).all():
        raise ArtefactError("holds NaN", field=key, fix=FIX)
    return np.ascontiguousarray(found)


def columns(state: State) -> Columns:
    """The columns that an estimator was fitted on."""
    targets = entry(state, "targets", list[str])
    measures = entry(state, "measures", list[str])
    if len(set(targets)) != len(targets) or not set(measures) <= set(PREDICTED) or measures[:1] != ["quality"]:
        raise ArtefactError("does not describe columns", field="targets", fix=FIX)
    return Columns(tuple(targets), tuple(measures))


def described(found: Columns) -> dict[str, Any]:
    """The inverse of `columns`: the entries to put into a state's config."""
    return {"targets": list(found.targets), "measures": list(found.measures)}
