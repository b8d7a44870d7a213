"""Two targets, a policy fitted on 40 recorded prompts, and a provider that counts tokens: made from a configuration tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from junctor.artefact import Provenance, save_policy
from junctor.config import parse_config
from junctor.encoders import load_encoder
from junctor.engine import Engine
from junctor.engine.choosers import build_aliases
from junctor.engine.context import CallContext
from junctor.fitting import fit_policy, policy_config
from junctor.journal import Journal
from junctor.outcomes import OutcomeTable
from junctor.providers.base import Provider, Reply, Usage
from junctor.types import Catalogue, Message, Outcome, Request

TARGETS: dict[str, Any] = {
    "small": {
        "provider": "embedded",
        "price": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0, "cached_input_usd_per_mtok": 0.1},
    },
    "large": {
        "provider": "embedded",
        "price": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 20.0, "cached_input_usd_per_mtok": 1.0},
    },
}
SUM, PROOF = "what is 7 + 9", "prove that the theorem number7 holds"


def fit(folder: Path, name: str = "utility", **settings: Any) -> None:
    """Sums are answered by both, proofs well by `large` alone, which is ten times as dear."""
    texts = [f"what is {i} + {i + 2}" for i in range(20)] + [f"prove that the theorem number{i} holds" for i in range(20)]
    quality = np.repeat([[0.9, 0.95], [0.2, 0.9]], 20, axis=0)
    cost = np.tile([0.001, 0.01], (40, 1))
    table = OutcomeTable(texts=texts, targets=Catalogue.of(["small", "large"]), quality=quality, cost_usd=cost)
    encoder = load_encoder("lexical")
    rows = np.arange(40)
    made = fit_policy(
        policy_config(name, settings),
        table,
        table.features(encoder.encode(texts)),
        rows[::2],
        rows[1::2],
        np.random.default_rng(0),
    )
    save_policy(
        made.policy,
        folder,
        targets=table.targets,
        provenance=Provenance(source="made here"),
        encoder="lexical",
        encoder_digest=encoder.digest,
    )


class Counting(Provider):
    """Answers with as many input tokens as the prompt has characters (Chinese, say), and ten out."""

    name = "counting"

    async def complete(self, request, target, timeout_s):
        size = sum(len(message.content) for message in request.messages)
        return Reply(body=b"{}", usage=Usage(input_tokens=size, output_tokens=10))

    async def stream(self, request, target, timeout_s):
        raise NotImplementedError


def engine_of(
    tmp: Path, alias: dict[str, Any], policies: dict[str, Any], targets: dict[str, Any] | None = None, workers: int = 1
) -> Engine:
    """An engine over this alias `auto`, with a journal; `policies` beside the fitted one, which is called `fitted`."""
    if not (tmp / "fitted").exists():
        fit(tmp / "fitted")
    tree = {
        "gateway": {"workers": workers},
        "providers": {"embedded": {}},
        "targets": targets or TARGETS,
        "policies": {"fitted": {"artefact": "fitted"}, **policies},
        "aliases": {"auto": alias},
    }
    config = parse_config(tree, tmp)
    catalogue = Catalogue(list(config.targets.values()))
    aliases = build_aliases(config, catalogue)
    return Engine(catalogue, {"embedded": Counting()}, aliases, Journal(tmp / "j", fsync="never"))


def ask(*turns: str, id_: str = "", **more: Any) -> Request:
    """A conversation: user and assistant in turn."""
    messages = tuple(Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns))
    return Request(id=id_, text=turns[-1], messages=messages, params={"model": "auto"}, **more)


def context(key: str = "") -> CallContext:
    """A call by this key."""
    return CallContext(key)


GOOD = Outcome(quality=1.0)
