"""Opening other people's pickles, which can run any code: only when the caller says so, and never for anything of ours."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

from junctor.errors import MissingExtra, TableError
from junctor.outcomes.files import PICKLES, check_exists, first_line

# What numpy arrays and their scalars need; nothing here can do more than build them.
ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
# Whatever a damaged pickle makes the reader stumble over.
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


def is_pickle(path: Path) -> bool:
    """Whether the suffix says pickle."""
    return path.suffix.lower() in PICKLES


def demand_trust(path: Path, trust: bool) -> None:
    """Raise TableError, which explains the risk, unless the caller trusts the file."""
    check_exists(path)
    if not trust:
        fix = "pass trust_pickle=True (--trust-pickle) if you trust where it came from, or convert it to Parquet in a sandbox"
        raise TableError("is a pickle, and opening one runs whatever code it holds", field=str(path), fix=fix)


def load_dataframe(path: Path) -> Any:
    """The pandas DataFrame in a pickle; raises MissingExtra without pandas, TableError when there is no DataFrame in it."""
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise MissingExtra("a pickled DataFrame needs the package pandas", field=str(path), fix="pip install pandas") from error
    try:
        found = pandas.read_pickle(path)
    except DAMAGE as error:
        raise TableError(f"cannot be unpickled: {first_line(error)}", field=str(path), fix="download it anew") from error
    if not hasattr(found, "columns"):
        raise TableError(f"holds a {type(found).__name__}, not a DataFrame", field=str(path), fix="name the published file")
    return found


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither plain data nor a numpy array")
        return super().find_class(module, name)


def load_arrays(path: Path) -> Any:
    """Plain data and numpy arrays in a pickle; anything else that it asks for is refused. Raises TableError."""
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file).load()
    except DAMAGE as error:
        raise TableError(f"cannot be unpickled: {first_line(error)}", field=str(path), fix="download it anew") from error
