"""The published neighbours, tables and regressions under other settings than the default ones: the public suites hold."""

from __future__ import annotations

import pytest

from junctor.estimators.avengers import AvengersConfig
from junctor.estimators.carrot import CarrotConfig
from junctor.estimators.routerbench_mlp import RouterBenchMLPConfig
from junctor.estimators.scope import ScopeConfig
from junctor.estimators.uniroute import UniRouteConfig
from junctor.policies.hallucibot import HalluciBotConfig
from junctor.policies.hybrid_llm import HybridLLMConfig
from junctor.policies.knn_vote import KNNVoteConfig
from junctor.policies.routerretriever import RouterRetrieverConfig
from junctor.policies.tryage import TryageConfig
from junctor.testing import check_estimator, check_policy

ESTIMATORS = (
    AvengersConfig(clusters=4, nearest=2, beta=2.0, scaling="none", shrinkage=0.0),
    UniRouteConfig(clusters=6, map="learned"),
    CarrotConfig(k=15, cost="recorded"),
    ScopeConfig(anchors=40, neighbours=3, mix=0.2),
    ScopeConfig(mix=1.0),
    RouterBenchMLPConfig(hidden=7, steps=20),
)
POLICIES = (
    KNNVoteConfig(k=7, cost_weight=0.0, fallbacks=0),
    RouterRetrieverConfig(pool="mean", groups="none", ties="first", cost_weight=0.2, label="mine"),
    TryageConfig(weights={"latency": 0.2, "cost": 0.1}, sweep="size"),
    HybridLLMConfig(labels="deterministic", threshold=0.8, reference="dearest"),
    HybridLLMConfig(labels="probabilistic"),
    HalluciBotConfig(escalate_above=0.4, fallbacks=0),
)


@pytest.mark.parametrize("config", ESTIMATORS, ids=lambda config: str(config)[:60])
def test_every_estimator_conforms(config):
    check_estimator(config)


@pytest.mark.parametrize("config", POLICIES, ids=lambda config: str(config)[:60])
def test_every_policy_conforms(config):
    check_policy(config)
