"""Reading a journal while it grows: whole lines, in pieces, from where the last reading ended."""

from __future__ import annotations

import zlib
from pathlib import Path

PIECE_BYTES = 1 << 20


class Tail:
    """The lines of a journal from byte `start` on. A file that is not there yet has none; one that shrank is read anew."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.offset = start
        self.torn = 0

    @property
    def behind(self) -> int:
        """Bytes that were not read yet."""
        try:
            return max(0, self.path.stat().st_size - self.offset)
        except OSError:
            return 0

    def skip_to_last(self, keep: int) -> bool:
        """Leave out all but the last `keep` bytes; whether anything was left out."""
        if self.behind <= keep:
            return False
        self.offset += self.behind - keep
        with self.path.open("rb") as file:
            file.seek(self.offset)
            self.offset += len(file.readline())
        return True

    def take(self, most: int = PIECE_BYTES) -> list[bytes]:
        """The JSON of the next whole lines whose checksum holds, at most about `most` bytes of them."""
        try:
            size = self.path.stat().st_size
            if size < self.offset:
                self.offset = 0
            if size == self.offset:
                return []
            with self.path.open("rb") as file:
                file.seek(self.offset)
                piece = file.read(most)
                end = piece.rfind(b"\n") + 1
                if not end:  # one line is longer than a piece, or not whole yet
                    piece += file.readline()
                    end = len(piece) if piece.endswith(b"\n") else 0
        except OSError:
            return []
        self.offset += end
        return self._checked(piece[:end])

    def _checked(self, piece: bytes) -> list[bytes]:
        found: list[bytes] = []
        for line in piece.split(b"\n"):
            if not line:
                continue
            body = line[9:]
            try:
                good = int(line[:8], 16) == zlib.crc32(body)
            except ValueError:
                good = False
            if good:
                found.append(body)
            else:
                self.torn += 1
        return found
