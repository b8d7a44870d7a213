"""Embeddings of the embedded pool: the static encoder's vectors, 256 numbers of unit length, no network needed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from junctor.encoders import load_encoder
from junctor.providers import answers
from junctor.providers.base import Reply, Usage
from junctor.types import Request

MODEL = "static-embeddings"
ENCODER = "static"
QUICK_CHARS = 16_384

_encode = msgspec.json.Encoder().encode


class Unable(Exception):
    """The call asks for something that these vectors are not; the message says what."""


async def embed(request: Request, model: str) -> Reply:
    """An OpenAI `list` of `embedding` objects. Raises Unable for token numbers and for another number of dimensions."""
    texts = _texts(request.params.get("input"))
    dimensions = request.params.get("dimensions")
    dim = load_encoder(ENCODER).dim
    if dimensions not in (None, dim):
        raise Unable(f"dimensions can only be {dim}")
    plain = request.params.get("encoding_format") != "base64"
    if sum(map(len, texts)) <= QUICK_CHARS:
        data = _embedded(texts, plain=plain)
    else:
        data = await asyncio.to_thread(_embedded, texts, plain=plain)
    tokens = sum(map(answers.count_tokens, texts))
    said = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = _encode({"object": "list", "data": data, "model": model, "usage": said})
    return Reply(body=body, usage=Usage(input_tokens=tokens, output_tokens=0), finish_reason="stop")


def _texts(given: Any) -> list[str]:
    found = given if isinstance(given, list) else [given]
    if not found or not all(isinstance(text, str) for text in found):
        raise Unable("input can only be text here, not token numbers")
    return found


def _embedded(texts: Sequence[str], *, plain: bool) -> list[dict[str, Any]]:
    rows = load_encoder(ENCODER).encode(texts).astype("<f4")
    vectors = rows.tolist() if plain else [base64.b64encode(row.tobytes()).decode() for row in rows]
    return [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
