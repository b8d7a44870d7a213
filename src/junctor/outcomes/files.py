"""Table files: Parquet, CSV and JSONL into a polars frame, and a file replaced in one step. Bad files are typed errors."""

from __future__ import annotations

import contextlib
import csv
import difflib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from junctor.errors import MissingExtra, TableError

if TYPE_CHECKING:
    import polars as pl

FORMATS = ".parquet, .csv, .jsonl or .ndjson"
PICKLES = (".pkl", ".pickle")


def require_polars(path: Path | str) -> None:
    """Raise MissingExtra with the install line when polars is not there."""
    try:
        import polars as pl  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package polars", field=str(path), fix="pip install 'junctor[bench]'") from error


def load_frame(path: Path | str) -> pl.DataFrame:
    """The table in a file, by its suffix. Columns of a CSV file are all text; nothing is guessed.

    Raises TableError when the file is missing, damaged, empty, not UTF-8 or of another format, MissingExtra without polars.
    """
    path = Path(path)
    check_exists(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        pickled = path.suffix.lower() in PICKLES
        fix = "`junctor import` turns public formats into tables" if pickled else f"give it one of {FORMATS}"
        raise TableError(f"has no known table suffix ({path.suffix or 'none'})", field=str(path), fix=fix)
    require_polars(path)
    import polars as pl

    try:
        frame = reader(path)
    except pl.exceptions.PolarsError as error:
        kind = path.suffix.lower().lstrip(".").capitalize() if path.suffix != ".csv" else "CSV"
        raise TableError(
            f"cannot be read as {kind}: {first_line(error)}", field=str(path), fix="write the file anew"
        ) from error
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", field=str(path), fix="name a file that you may read") from error
    if frame.height == 0:
        raise TableError("has no rows", field=str(path), fix="one row per query")
    return frame


def check_exists(path: Path, *, folder: bool = False) -> None:
    """Raise TableError unless the path is a file (or, where allowed, a folder)."""
    if not path.exists():
        raise TableError("does not exist", field=str(path), fix="check the path")
    if path.is_dir() and not folder:
        raise TableError("is a folder, not a table", field=str(path), fix="name one file")


def first_line(error: Exception) -> str:
    """The first line of an error's text, without its full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _parquet(path: Path) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(path)


def _csv(path: Path) -> pl.DataFrame:
    import polars as pl

    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TableError("this column is there twice", field=f"{path}: {twice[0]}", fix="rename or drop one")
    try:
        return pl.read_csv(path, infer_schema=False)
    except pl.exceptions.ComputeError as error:
        line = _undecodable(path)
        if line is None:
            raise
        raise TableError("is not UTF-8", field=f"{path}: line {line}", fix="save the file as UTF-8") from error


def _undecodable(path: Path) -> int | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; raises TableError naming the line that is none."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                where = f"{path}: line {number}"
                raise TableError(f"is not a JSON object: {first_line(error)}", field=where, fix="one object a line") from error
    return found


def _jsonl(path: Path) -> pl.DataFrame:
    import polars as pl

    rows = load_lines(path)
    names = {name: None for row in rows for name in row}
    columns = [series_of(name, [row.get(name) for row in rows]) for name in names]
    return pl.DataFrame([column for column in columns if column is not None])


def series_of(name: str, values: list[Any]) -> pl.Series | None:
    """A column of scalars or of lists of text; anything deeper is no column of a table and is left out."""
    import polars as pl

    kinds = {type(value) for value in values} - {type(None)}
    if list in kinds:
        flat = kinds == {list} and all(isinstance(item, str) for value in values if value for item in value)
        return pl.Series(name, values, dtype=pl.List(pl.String)) if flat else None
    if dict in kinds:
        return None
    if kinds <= {int, float, bool}:
        plain = values if kinds <= {bool} else [None if v is None else float(v) for v in values]
        if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
            return pl.Series(name, values, dtype=pl.Int64)
        return pl.Series(name, plain)
    return pl.Series(name, [value if value is None else str(value) for value in values], dtype=pl.String)


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}


def save_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as Parquet or CSV, replacing the file in one step: readers see the old file or the new one."""
    writers: dict[str, Callable[[Path], None]] = {
        ".parquet": lambda place: frame.write_parquet(place, compression="zstd"),
        ".csv": lambda place: frame.write_csv(place),
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise TableError(
            f"cannot be written as {path.suffix or 'a file without suffix'}", field=str(path), fix=".parquet or .csv"
        )
    replace_file(path, writer)


def replace_file(path: Path, content: bytes | Callable[[Path], None]) -> None:
    """Write the bytes, or let a writer fill a new file beside `path`, then put it in place; a failure leaves the old file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            content(draft)
        draft.replace(path)
    except OSError as error:
        raise TableError(
            f"cannot be written: {error.strerror or error}", field=str(path), fix="name a folder you may write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def near(name: str, known: Sequence[str]) -> str:
    """A hint for a name that was not found: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known)}"
