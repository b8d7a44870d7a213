"""Names -> parts, lazily. Listing imports nothing; using imports one module; a missing extra answers with its install line.

A part of ours is one line in `BUILTIN`. A part of yours is an entry point in one of the groups of `GROUPS`, for example

    [project.entry-points."junctor.estimators"]
    mine = "my_package.mine:MyEstimatorConfig"
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from junctor.errors import MissingExtra, UnknownName

GROUPS = {
    "encoder": "junctor.encoders",
    "estimator": "junctor.estimators",
    "policy": "junctor.policies",
    "provider": "junctor.providers",
    "accept": "junctor.accepts",
    "aggregate": "junctor.aggregates",
    "guard": "junctor.guards",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered part: where it lives, which extra it needs to be fitted or used, and what it is in a line."""

    kind: str
    name: str
    where: str
    summary: str = ""
    extra: str = ""

    def load(self) -> Any:
        """Import and return the part; raises MissingExtra with the install line, or UnknownName when the door is broken."""
        module, _, attribute = self.where.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] == "junctor":
                raise UnknownName(f"{self.where} does not exist", field=self.name, fix="mend its registry line") from error
            extra = self.extra or "bench"
            raise MissingExtra(
                f"needs the package {error.name}", field=self.name, fix=f"pip install 'junctor[{extra}]'"
            ) from error
        except AttributeError as error:
            raise UnknownName(f"{self.where} does not exist", field=self.name, fix="mend its registry line") from error


BUILTIN: tuple[Entry, ...] = (
    Entry(
        "encoder",
        "static",
        "junctor.encoders.static:StaticEncoder",
        "token table distilled from MiniLM; tens of µs, no torch",
    ),
    Entry(
        "encoder",
        "minilm",
        "junctor.encoders.minilm:MiniLMEncoder",
        "all-MiniLM-L6-v2, int8 through ONNX Runtime",
        "minilm",
    ),
    Entry(
        "encoder",
        "lexical",
        "junctor.encoders.lexical:LexicalEncoder",
        "hashed word and character n-grams, no model at all",
    ),
    Entry("estimator", "mean", "junctor.estimators.mean:MeanConfig", "each target's training mean, whatever the query"),
    Entry(
        "estimator",
        "label-table",
        "junctor.estimators.label_table:LabelTableConfig",
        "each target's mean per dataset or task label",
    ),
    Entry(
        "estimator",
        "kmeans-table",
        "junctor.estimators.kmeans_table:KMeansTableConfig",
        "each target's mean per cluster of queries",
        "bench",
    ),
    Entry("estimator", "knn", "junctor.estimators.knn:KNNConfig", "mean outcome of the nearest recorded queries"),
    Entry(
        "estimator",
        "linear",
        "junctor.estimators.linear:LinearConfig",
        "ridge for graded, logistic for 0/1 outcomes",
    ),
    Entry(
        "estimator",
        "similarity",
        "junctor.estimators.similarity:SimilarityConfig",
        "cosine of query and target description; no outcomes needed",
    ),
    Entry("estimator", "avengers", "junctor.estimators.avengers:AvengersConfig", "nearest clusters' tables, mixed", "bench"),
    Entry(
        "estimator",
        "uniroute",
        "junctor.estimators.uniroute:UniRouteConfig",
        "error per cluster; new targets from a few answers",
        "bench",
    ),
    Entry("estimator", "carrot", "junctor.estimators.carrot:CarrotConfig", "quality and token cost, by nearest neighbours"),
    Entry("estimator", "scope", "junctor.estimators.scope:ScopeConfig", "what each target did on the nearest of 250 anchors"),
    Entry(
        "estimator",
        "routerbench-mlp",
        "junctor.estimators.routerbench_mlp:RouterBenchMLPConfig",
        "one small network per target",
        "bench",
    ),
    Entry(
        "estimator",
        "radar",
        "junctor.estimators.radar:RadarConfig",
        "abilities and item difficulties; an adaptive test places newcomers",
        "bench",
    ),
    Entry(
        "estimator",
        "elo",
        "junctor.estimators.elo:EloConfig",
        "one Bradley-Terry rating per target from pairwise comparisons",
    ),
    Entry(
        "estimator",
        "routellm-mf",
        "junctor.estimators.routellm_mf:RouteLLMFactorsConfig",
        "who beats whom on a query, by matrix factorisation",
        "bench",
    ),
    Entry(
        "estimator",
        "routellm-sw",
        "junctor.estimators.routellm_sw:RouteLLMSimilarityConfig",
        "who beats whom among recorded queries, weighted by similarity",
    ),
    Entry(
        "estimator",
        "r2-router",
        "junctor.estimators.r2_router:R2RouterConfig",
        "model x output budget as candidates, interpolated in between",
    ),
    Entry(
        "estimator",
        "ellie-sql",
        "junctor.estimators.ellie_sql:EllieSQLConfig",
        "the cheapest tier that solves it, by an ordinal classifier",
    ),
    Entry(
        "estimator",
        "fusionfactory",
        "junctor.estimators.fusionfactory:FusionFactoryConfig",
        "neighbours and regression of all targets fused, query level",
    ),
    Entry(
        "estimator",
        "routerdc",
        "junctor.estimators.routerdc:RouterDCConfig",
        "queries and targets in one space, by two contrastive losses",
        "neural",
    ),
    Entry(
        "estimator",
        "graphrouter",
        "junctor.estimators.graphrouter:GraphRouterConfig",
        "graph of tasks, queries and targets; edges are predicted",
        "neural",
    ),
    Entry(
        "estimator",
        "lookahead",
        "junctor.estimators.lookahead:LookaheadConfig",
        "what an answer would be like, predicted, then scored",
        "neural",
    ),
    Entry(
        "estimator",
        "ragrouter",
        "junctor.estimators.ragrouter:RAGRouterConfig",
        "retrieved documents shift what a target knows",
        "neural",
    ),
    Entry(
        "estimator",
        "model-sat",
        "junctor.estimators.model_sat:ModelSATConfig",
        "aptitude test on 50 tasks, matched to queries",
        "neural",
    ),
    Entry(
        "estimator",
        "icl-router",
        "junctor.estimators.icl_router:ICLRouterConfig",
        "profiles of right and wrong, read by a learned kernel",
        "neural",
    ),
    Entry("estimator", "adaptdhm", "junctor.estimators.adaptdhm:AdaptDHMConfig", "a ridge per learned distribution of queries"),
    Entry(
        "estimator",
        "vlm-continual",
        "junctor.estimators.vlm_continual:VLMContinualConfig",
        "an expert per task; new tasks never touch old ones",
        "bench",
    ),
    Entry(
        "estimator",
        "stack",
        "junctor.estimators.stack:StackConfig",
        "the cheap bars and the learned ones, combined on held-out folds",
        "bench",
    ),
    Entry(
        "estimator",
        "stack-labels",
        "junctor.estimators.stack:LabelledStackConfig",
        "stack where requests bring their dataset or task label",
        "bench",
    ),
    Entry("policy", "fixed", "junctor.policies.fixed:FixedConfig", "always the one target you name"),
    Entry("policy", "random", "junctor.policies.random:RandomConfig", "uniform over the targets"),
    Entry(
        "policy",
        "cheapest",
        "junctor.policies.cheapest:CheapestConfig",
        "lowest mean cost on the training rows, else list price",
    ),
    Entry(
        "policy",
        "best-single",
        "junctor.policies.best_single:BestSingleConfig",
        "the target of highest mean training quality, for every query",
    ),
    Entry(
        "policy",
        "utility",
        "junctor.policies.utility:UtilityConfig",
        "predicted quality against cost: weights, hard budget, quality floor",
    ),
    Entry("policy", "rules", "junctor.policies.rules:RulesConfig", "first matching hand-written rule"),
    Entry("policy", "knn-vote", "junctor.policies.knn_vote:KNNVoteConfig", "nearest queries vote for the best target"),
    Entry(
        "policy",
        "routerretriever",
        "junctor.policies.routerretriever:RouterRetrieverConfig",
        "nearest centroid of the queries that a target won",
    ),
    Entry("policy", "tryage", "junctor.policies.tryage:TryageConfig", "predicted loss, and flags: small, recent, cheap, …"),
    Entry(
        "policy",
        "hybrid-llm",
        "junctor.policies.hybrid_llm:HybridLLMConfig",
        "cheapest that probably does as well as the strongest",
    ),
    Entry("policy", "hallucibot", "junctor.policies.hallucibot:HalluciBotConfig", "hard queries to the strongest target"),
    Entry(
        "policy", "linucb", "junctor.policies.linucb:LinUCBConfig", "learns while it serves: highest upper bound on linear arms"
    ),
    Entry(
        "policy",
        "thompson",
        "junctor.policies.thompson:ThompsonConfig",
        "learns while it serves: highest draw from what is believed",
    ),
    Entry(
        "policy",
        "epsilon-greedy",
        "junctor.policies.epsilon_greedy:EpsilonGreedyConfig",
        "learns while it serves: the best known, at times any",
    ),
    Entry("policy", "exp3", "junctor.policies.exp3:Exp3Config", "learns while it serves: exponential weights, no context"),
    Entry(
        "policy",
        "greenserv",
        "junctor.policies.greenserv:GreenServConfig",
        "bandit over task, cluster and complexity; accuracy and energy",
        "bench",
    ),
    Entry(
        "policy",
        "barp",
        "junctor.policies.barp:BaRPConfig",
        "policy gradient from chosen outcomes, one policy per preference",
        "neural",
    ),
    Entry("policy", "port", "junctor.policies.port:PortConfig", "budgets: prices learned once, on the first requests", "bench"),
    Entry("policy", "greedy-feasible", "junctor.policies.greedy_feasible:GreedyFeasibleConfig", "budgets: best payable target"),
    Entry("policy", "lp-offline", "junctor.policies.lp_offline:LPOfflineConfig", "budgets: linear program, a bound", "bench"),
    Entry(
        "policy",
        "batch-split",
        "junctor.policies.batch_split:BatchSplitConfig",
        "budgets: a linear program per batch of requests",
        "bench",
    ),
    Entry(
        "policy",
        "chebyshev",
        "junctor.policies.chebyshev:ChebyshevConfig",
        "least of the larger regret, quality missed or cost (RADAR's)",
        "bench",
    ),
    Entry("policy", "coe", "junctor.policies.coe:CoEConfig", "category, then category to expert by integer program", "bench"),
    Entry(
        "policy", "gqr", "junctor.policies.gqr:GQRConfig", "the expert of the query's domain, or none when it has none", "bench"
    ),
    Entry(
        "policy",
        "arch-router",
        "junctor.policies.arch_router:ArchRouterConfig",
        "policies in words, each mapped to its targets",
    ),
    Entry(
        "policy", "vllm-sr", "junctor.policies.vllm_sr:VllmSRConfig", "signals, Boolean rules over them, then a target", "bench"
    ),
    Entry("policy", "frugalgpt", "junctor.policies.frugalgpt:FrugalGPTConfig", "chain of models; a scorer accepts or goes on"),
    Entry(
        "policy", "automix", "junctor.policies.automix:AutoMixConfig", "small model verifies itself; large one where it helps"
    ),
    Entry(
        "policy",
        "routerbench-cascade",
        "junctor.policies.routerbench_cascade:RouterBenchCascadeConfig",
        "models by price, an erring judge, a cap on all calls",
    ),
    Entry("policy", "acar", "junctor.policies.acar:AcarConfig", "three probes; their spread asks for 1, 2 or 3 models"),
    Entry("accept", "scorer", "junctor.plans.accepting:Scorer", "score of (query, answer) reaches a threshold"),
    Entry("accept", "verifier", "junctor.plans.accepting:Verifier", "k self-verifications: (double) threshold or POMDP"),
    Entry("accept", "judge", "junctor.plans.accepting:Judge", "one judge says yes, under a cap on the cost of all calls"),
    Entry("accept", "agreement", "junctor.plans.accepting:Agreement", "a probing panel agrees, or how far it does not"),
    Entry("aggregate", "first", "junctor.plans.combining:First", "first of the plan's order that answered"),
    Entry("aggregate", "majority", "junctor.plans.combining:Majority", "the answer that most gave"),
    Entry("aggregate", "best-scored", "junctor.plans.combining:BestScored", "the answer with the highest score"),
    Entry("guard", "pii", "junctor.guards.masking:PiiGuard", "personal data: masked and put back, blocked, or noticed"),
    Entry("guard", "injection", "junctor.guards.scoring:InjectionGuard", "attempts to take over the model, by patterns"),
    Entry("guard", "unsafe", "junctor.guards.scoring:UnsafeGuard", "unsafe content, by lists of words"),
    Entry("guard", "scorer", "junctor.guards.scoring:ScorerGuard", "a scorer that `junctor guards fit` made of your labels"),
    Entry(
        "guard", "length", "junctor.guards.limits:LengthGuard", "how long a request may be, and how many messages it may hold"
    ),
    Entry("guard", "words", "junctor.guards.limits:WordsGuard", "words and patterns that may not pass"),
    Entry("guard", "topics", "junctor.guards.topics:TopicsGuard", "topics by examples and keywords, allowed or refused"),
    Entry(
        "guard", "json", "junctor.guards.structured:JsonGuard", "JSON replies hold to their schema, mended or refused", "guards"
    ),
    Entry(
        "provider",
        "embedded",
        "junctor.providers.embedded:EmbeddedProvider",
        "a pool of local solvers that ships with junctor",
    ),
    Entry("provider", "replay", "junctor.providers.replay:ReplayProvider", "answers from an outcome table", "bench"),
    Entry(
        "provider",
        "openai_compatible",
        "junctor.providers.openai_compatible:OpenAICompatibleProvider",
        "any upstream that speaks the OpenAI API",
    ),
    Entry("provider", "anthropic", "junctor.providers.anthropic:AnthropicProvider", "Anthropic's Messages API"),
    Entry("provider", "gemini", "junctor.providers.gemini:GeminiProvider", "Google's Gemini API, embeddings too"),
    Entry("provider", "bedrock", "junctor.providers.bedrock:BedrockProvider", "Amazon Bedrock's Converse API"),
    Entry("provider", "azure", "junctor.providers.azure:AzureProvider", "Azure OpenAI: deployments behind one resource"),
    Entry(
        "provider",
        "scripted",
        "junctor.providers.scripted:ScriptedProvider",
        "answers and fails as its script says; for tests",
    ),
)


@cache
def _table(kind: str) -> dict[str, Entry]:
    if kind not in GROUPS:
        raise UnknownName(f"no kind of part is called {kind!r}", field="kind", fix=f"kinds: {', '.join(GROUPS)}")
    found = {e.name: e for e in BUILTIN if e.kind == kind}
    for point in entry_points(group=GROUPS[kind]):
        found.setdefault(point.name, Entry(kind, point.name, point.value, f"from {point.value.partition(':')[0]}"))
    return found


def entries(kind: str) -> Iterator[Entry]:
    """All registered parts of a kind, ours first; nothing is imported."""
    yield from _table(kind).values()


def find(kind: str, name: str) -> Entry:
    """The registered part; raises UnknownName with the nearest names."""
    table = _table(kind)
    if name in table:
        return table[name]
    raise UnknownName(f"no {kind} is called {name!r}", field=kind, fix=nearest(name, list(table)))


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a name that was not found: the nearest known one, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"


def load(kind: str, name: str) -> Any:
    """Import and return the part of this name."""
    return find(kind, name).load()


def forget() -> None:
    """Read the entry points again: for a process that installs a plug-in while it runs."""
    _table.cache_clear()
