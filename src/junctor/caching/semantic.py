"""The semantic cache: a question in other words gets the same answer, where everything else is the same.

Everything else: the owner, the alias, all settings and tools, and every turn but the last user turn are compared exactly. Of
the last user turn, what its vector does not see must agree (`agreement`), and its vector must be near.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.caching.agreement import SIGNATURES, Agreement
from junctor.caching.contracts import Hit, Owner, ReplyCache, Slot
from junctor.caching.exact import EXACT, ExactCache
from junctor.caching.flights import KeptSlot
from junctor.caching.keys import asked, cacheable, digest, wanted
from junctor.caching.nearest import Vectors
from junctor.caching.store import Store
from junctor.encoders.base import Encoder
from junctor.features import Features
from junctor.providers import answers
from junctor.types import Request

Vector = NDArray[np.float32]
SEMANTIC = "semantic"
MOST_CHARS = 1000
"""A longer turn is matched exactly only: of many words a vector hardly shows one that differs."""
GROUP_BYTES = 750


class SemanticCache(ReplyCache):
    """An exact cache that is also asked by meaning.

    encoder     makes the vectors; where the alias's policy reads the same one, the text is encoded once for both
    threshold   the least cosine of a hit
    agreement   what must be the same word by word
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        *,
        threshold: float,
        agreement: Agreement = "words",
        most_temperature: float = 0.0,
        coalesce: bool = True,
    ) -> None:
        store.left = self._left
        self.store = store
        self.exact = ExactCache(store, most_temperature=most_temperature, coalesce=coalesce)
        self.encoder = encoder
        self.threshold = threshold
        self.agreement = agreement
        self._groups: dict[bytes, Vectors] = {}
        self._group_of: dict[bytes, bytes] = {}

    def find(
        self, request: Request, model: str, owner: Owner, *, stream: bool, priority: int = 1
    ) -> Hit | Slot | Awaitable[Hit | Slot] | None:
        """The same question, one that means the same, the wait for the same, or a place."""
        if not cacheable(request, self.exact.most_temperature):
            return None
        fields = asked(request)
        preferences = (request.api, wanted(request))
        key = digest(owner, model, *preferences, fields)
        if key is None:
            return None
        found = self.store.get(key, EXACT)
        if found is not None:
            return found
        text = last_turn(fields)
        if text is None:
            return self.exact.place(key, stream, priority)
        fields["messages"] = fields["messages"][:-1]
        group = digest(owner, model, *preferences, fields, SIGNATURES[self.agreement](text))
        assert group is not None  # its parts had a digest before
        vector = self.encoder.encode_one(text)
        near = self._groups[group].nearest(vector, self.threshold) if group in self._groups else None
        if near is not None:
            found = self.store.get(near[0], SEMANTIC, near[1])
            if found is not None:
                return found
        return self._indexed(self.exact.place(key, stream, priority), request, text, group, vector)

    def _indexed(
        self, place: Slot | Awaitable[Hit | Slot], request: Request, text: str, group: bytes, vector: Vector
    ) -> Slot | Awaitable[Hit | Slot]:
        """A place whose reply will be found by meaning."""
        if isinstance(place, KeptSlot):
            place.kept = lambda key: self._add(group, key, vector)
            place.extra_bytes = vector.nbytes + GROUP_BYTES
            if text == request.text:
                labels = {name: [value] for name, value in request.labels.items()}
                place.features = Features([text], vector[None, :], labels)
                place.encoder = self.encoder
        return place

    def _add(self, group: bytes, key: bytes, vector: Vector) -> None:
        vectors = self._groups.get(group)
        if vectors is None:
            vectors = self._groups[group] = Vectors(self.encoder.dim)
        vectors.add(key, vector)
        self._group_of[key] = group

    def _left(self, key: bytes) -> None:
        group = self._group_of.pop(key, None)
        if group is not None:
            vectors = self._groups[group]
            vectors.remove(key)
            if not len(vectors):
                del self._groups[group]


def last_turn(fields: dict[str, Any]) -> str | None:
    """The text of the last turn where it is a user's, and nothing but text; None elsewhere."""
    messages = fields["messages"]
    turn = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(turn, dict) or turn.get("role") != "user" or len(turn) > 2:
        return None
    content = turn.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            return None
        content = answers.content_text(content)
    return content if isinstance(content, str) and 0 < len(content) <= MOST_CHARS else None
