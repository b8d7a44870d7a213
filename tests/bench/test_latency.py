"""Decide times are of real decisions, with the encoder only where the policy reads vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from junctor.bench.latency import WARM_UP, decide_time, requests_of
from junctor.encoders.base import Encoder
from junctor.encoders.lexical import LexicalEncoder
from junctor.errors import TableError
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable


class Counting(LexicalEncoder):
    """Counts what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def encode_one(self, text: str) -> np.ndarray:
        self.calls += 1
        return super().encode_one(text)


def fitted(name: str, table: OutcomeTable, encoder: Encoder):
    features = table.features(encoder.encode(table.texts))
    return policy_config(name).fit(table, features, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "encodes"), [("knn", True), ("best-single", False)])
def test_the_encoder_counts_where_it_is_needed(name: str, encodes: bool, made: Callable[..., OutcomeTable]) -> None:
    table, encoder = made(40), Counting()
    policy = fitted(name, table, encoder)
    found = decide_time(policy, encoder, table, np.random.default_rng(0), count=30)
    assert encoder.calls == ((30 + WARM_UP) if encodes else 0)
    assert found.calls == 30
    assert 0 < found.p50_us <= found.p99_us


def test_requests_carry_text_and_labels_and_start_over(made: Callable[..., OutcomeTable]) -> None:
    requests = requests_of(made(8), 10)
    assert len({request.id for request in requests}) == 10
    assert requests[8].text == requests[0].text
    assert requests[0].labels == {"dataset": "sums"}


def test_an_empty_table_cannot_be_timed(made: Callable[..., OutcomeTable]) -> None:
    with pytest.raises(TableError, match="no rows"):
        requests_of(made(8).take([]), 5)
