"""Figures that outlive their process: numbers in a memory-mapped file of each worker, and the sum over all of them.

A worker writes its own file only, one machine word at a time, so nothing is locked and a worker that is killed at any moment
loses nothing that it had counted. The names stand in a second file, one JSON line each. A file whose worker is gone is still
summed: counters never go back. Whether its worker lives is told by the lock that the worker holds on it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

fcntl: Any
try:
    fcntl = import_module("fcntl")
except ImportError:  # pragma: no cover - Windows has one worker and needs no locks
    fcntl = None

CAPACITY = 131_072
"""Numbers in a file: 1 MiB, of which only what is written takes space."""
WORD = 8
Key = tuple[str, tuple[str, ...]]


class Slots:
    """The numbers of one worker. `values[i]` are floats; `take` gives places for a kind and its labels.

    folder   where the files lie; None keeps everything in memory (one worker, nothing to sum)
    worker   the worker's name; when a file of this name is in use by another process, a free name beside it is taken
    """

    def __init__(self, folder: Path | None, worker: str) -> None:
        self.folder = folder
        self._places: dict[Key, int] = {}
        self._widths: dict[Key, int] = {}
        self._next = 0
        self._names_fd = -1
        if folder is None:
            self._memory: Any = bytearray(CAPACITY * WORD)
        else:
            self._memory = self._open(folder, worker)
        self.values: Any = memoryview(self._memory).cast("d")

    def _open(self, folder: Path, worker: str) -> mmap.mmap:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1024):
            path = folder / (f"{worker}.slots" if not number else f"{worker}+{number}.slots")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _lock(fd):
                break
            os.close(fd)
        os.ftruncate(fd, CAPACITY * WORD)
        self.path = path
        self._fd = fd
        self._names_fd = os.open(path.with_suffix(".names"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for key, place, width in read_names(path.with_suffix(".names")):
            self._places[key], self._widths[key] = place, width
            self._next = max(self._next, place + width)
        return mmap.mmap(fd, CAPACITY * WORD)

    def take(self, kind: str, labels: tuple[str, ...], width: int) -> int | None:
        """The place of the first of `width` numbers; the same for the same labels, after a restart too. None when full."""
        key = (kind, labels)
        place = self._places.get(key)
        if place is not None:
            return place
        if self._next + width > CAPACITY:
            return None
        place = self._next
        self._next += width
        if self._names_fd >= 0:
            os.write(self._names_fd, msgspec.json.encode([kind, labels, place, width]) + b"\n")
        self._places[key], self._widths[key] = place, width
        return place

    def clear(self, kind: str) -> None:
        """Set all numbers of a kind to 0: those that a worker of this name left behind."""
        for key, place in self._places.items():
            if key[0] == kind:
                self.values[place] = 0.0

    def own(self) -> dict[Key, list[float]]:
        """Everything that this worker has."""
        return {key: list(self.values[place : place + self._widths[key]]) for key, place in list(self._places.items())}

    def touch(self) -> None:
        """Tell those who clean temporary folders that the files are in use: writing to mapped memory does not."""
        if self._names_fd >= 0:
            for path in (self.path, self.path.with_suffix(".names")):
                with contextlib.suppress(OSError):
                    os.utime(path)

    def close(self) -> None:
        """Let go of the files; they stay."""
        if self._names_fd < 0:
            return
        self.values.release()
        self._memory.close()
        os.close(self._names_fd)
        os.close(self._fd)
        self._names_fd = -1


def _lock(fd: int) -> bool:
    if fcntl is None:  # pragma: no cover
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_names(path: Path) -> list[tuple[Key, int, int]]:
    """The names in a file: kind and labels, place, width. A torn last line is not counted yet."""
    found: list[tuple[Key, int, int]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                kind, labels, place, width = msgspec.json.decode(line, type=tuple[str, tuple[str, ...], int, int])
                found.append(((kind, labels), place, width))
    return found


class _File:
    """Another worker's file, as it is read again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[tuple[Key, int, int]] = []
        self._size = -1
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def read(self) -> dict[Key, list[float]]:
        names = self.path.with_suffix(".names")
        size = names.stat().st_size if names.exists() else 0
        if size != self._size:
            self._names, self._size = read_names(names), size
        used = max((place + width for _, place, width in self._names), default=0)
        numbers = array("d")
        numbers.frombytes(os.pread(self._fd, used * WORD, 0))
        return {key: list(numbers[place : place + width]) for key, place, width in self._names if place + width <= len(numbers)}

    def lives(self) -> bool:
        """Whether its worker still holds it."""
        if fcntl is None:  # pragma: no cover
            return True
        if not _lock(self._fd):
            return True
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        os.close(self._fd)


class Workers:
    """All the files of a folder. `ours` is read from memory."""

    def __init__(self, ours: Slots) -> None:
        self._ours = ours
        self._files: dict[Path, _File] = {}

    def read(self) -> list[tuple[str, bool, dict[Key, list[float]]]]:
        """(worker, whether it lives, its numbers), for every worker that ever was."""
        if self._ours.folder is None:
            return [("0", True, self._ours.own())]
        for path in sorted(self._ours.folder.glob("*.slots")):
            if path not in self._files and path != self._ours.path:
                self._files[path] = _File(path)
        found = [(self._ours.path.stem, True, self._ours.own())]
        found += [(path.stem, file.lives(), file.read()) for path, file in self._files.items()]
        return sorted(found, key=lambda each: each[0])

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def summed(files: list[tuple[str, bool, dict[Key, list[float]]]]) -> dict[Key, list[float]]:
    """The sum over all workers, of everything but gauges."""
    total: dict[Key, list[float]] = {}
    for _, _, numbers in files:
        for key, values in numbers.items():
            if key[0] == "gauge":
                continue
            before = total.get(key)
            total[key] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]
    return total
