"""The contract of an encoder: text in, vector out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class Encoder(ABC):
    """Text -> float32 vector of unit length (the zero vector for text without any known token).

    Deterministic and thread-safe. `digest` changes whenever a vector could, so that caches and saved policies can tell.
    """

    name: ClassVar[str]
    dim: int

    @property
    @abstractmethod
    def digest(self) -> str:
        """Short hex name of the exact weights and settings."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, dim] for N texts."""

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """[dim] for one text; override where that can be done faster than a batch of one."""
        vector: NDArray[np.float32] = self.encode([text])[0]
        return vector
