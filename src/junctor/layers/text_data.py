"""Characters as token ids, and windows of a text in an order that only the seed decides.

Shape suffixes: B windows of a batch, S characters of a window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from junctor.errors import UserError


@dataclass(frozen=True, slots=True)
class Text:
    """A text cut in two: the first part to train on, the rest to validate on.

    alphabet   the characters, sorted; a token id is a place in it
    """

    alphabet: str
    train: Tensor
    held: Tensor
    digest: str

    @property
    def vocabulary(self) -> int:
        """How many characters there are."""
        return len(self.alphabet)

    def encode(self, text: str) -> Tensor:
        """Token ids; raises UserError for a character that the text never had."""
        place = {character: i for i, character in enumerate(self.alphabet)}
        unknown = sorted(set(text) - set(place))
        if unknown:
            raise UserError(f"has characters that the text never had: {unknown[:5]}", field="prompt", fix="use others")
        return torch.tensor([place[character] for character in text], dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        """The characters of these ids."""
        return "".join(self.alphabet[i] for i in ids.tolist())


def as_text(raw: str, held_share: float = 0.1) -> Text:
    """Cut and number a text; the last share of it is held out."""
    if not 0.0 < held_share < 1.0:
        raise UserError(f"a held-out share of {held_share}", field="held_share", fix="between 0 and 1")
    if len(raw) < 20:
        raise UserError(f"{len(raw)} characters", field="data", fix="pass a longer text")
    alphabet = "".join(sorted(set(raw)))
    place = {character: i for i, character in enumerate(alphabet)}
    ids = torch.tensor([place[character] for character in raw], dtype=torch.int64)
    cut = int(len(ids) * (1.0 - held_share))
    return Text(alphabet, ids[:cut], ids[cut:], hashlib.sha256(raw.encode()).hexdigest()[:16])


def read_text(path: Path, held_share: float = 0.1) -> Text:
    """A file as characters; raises UserError when it cannot be read as UTF-8."""
    try:
        raw = path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", field=str(path), fix="name a text file") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", field=str(path), fix="convert it first") from error
    return as_text(raw, held_share)


def random_windows(ids: Tensor, sequence: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and next characters, [B, S] each, from random places."""
    last = len(ids) - sequence
    if last < 1:
        raise UserError(f"{len(ids)} characters for windows of {sequence}", field="data", fix="longer text or shorter windows")
    start_B = torch.randint(last, (batch,), generator=generator)
    place_BS = start_B[:, None] + torch.arange(sequence)
    return ids[place_BS], ids[place_BS + 1]


def even_windows(ids: Tensor, sequence: int, most: int) -> tuple[Tensor, Tensor]:
    """Up to `most` windows spread evenly over the text, the same for everyone."""
    last = len(ids) - sequence - 1
    if last < 0:
        raise UserError(f"{len(ids)} characters for windows of {sequence}", field="data", fix="longer text or shorter windows")
    count = max(1, min(most, last // sequence + 1))
    start_B = torch.linspace(0, last, count).long()
    place_BS = start_B[:, None] + torch.arange(sequence)
    return ids[place_BS], ids[place_BS + 1]
