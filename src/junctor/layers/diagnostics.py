"""What a gate does, in numbers: load, balance, entropy, churn, locality, committees, specialisation. Pure functions on tensors.

Shape suffixes: T tokens, E experts, K experts per token, S segments, M tokens of a segment, C classes (token class or domain).

Everything is defined for zero tokens: a share of nothing is 0, a ratio of nothing is 0. Nothing here is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.plan import Plan


def load_share_E(counts_E: Tensor) -> Tensor:
    """Each expert's share of the edges, fp64; zeros when there is no edge."""
    counts = _counts(counts_E)
    return counts / counts.sum().clamp(min=1.0)


def max_violation(counts_E: Tensor) -> float:
    """MaxVio = max_e c_e / mean_e c_e - 1: 0 when all loads are equal, E - 1 for one expert only (Loss-Free)."""
    counts = _counts(counts_E)
    mean = float(counts.mean())
    return float(counts.max()) / mean - 1.0 if mean > 0 else 0.0


def idle_share(counts_E: Tensor) -> float:
    """The share of experts without any edge."""
    return float((_counts(counts_E) == 0).double().mean())


def effective_number(counts: Tensor) -> float:
    """The exponential of the shares' entropy: how many equally used things these are worth (Hill number of order 1)."""
    return math.exp(_entropy(_counts(counts)))


def routing_entropy(probs_TE: Tensor) -> float:
    """Mean Shannon entropy of a token's scores, over log E: 0 is certain, 1 is uniform.

    Scores that do not sum to one (sigmoid, ReLU) are divided by their sum; a token whose scores are all zero counts as 0.
    """
    _matrix(probs_TE, "probs")
    tokens, experts = probs_TE.shape
    if not tokens or experts == 1:
        return 0.0
    p_TE = probs_TE.detach().double().clamp(min=0.0)
    p_TE = p_TE / p_TE.sum(1, keepdim=True).clamp(min=1e-300)
    return float(torch.special.entr(p_TE).sum(1).mean()) / math.log(experts)


def tsallis_entropy(probs_TE: Tensor, q: float) -> float:
    """Mean Tsallis entropy (1 - sum p^q) / (q - 1) of a token's scores; q = 1 is Shannon's, in nats."""
    _matrix(probs_TE, "probs")
    if not probs_TE.shape[0]:
        return 0.0
    p_TE = probs_TE.detach().double().clamp(min=0.0)
    p_TE = p_TE / p_TE.sum(1, keepdim=True).clamp(min=1e-300)
    if q == 1.0:
        return float(torch.special.entr(p_TE).sum(1).mean())
    return float(((1.0 - p_TE.pow(q).sum(1)) / (q - 1.0)).mean())


def flip_rate(before_TE: Tensor, after_TE: Tensor) -> float:
    """The share of tokens whose set of experts is another one than before (two checkpoints, or two noise draws)."""
    before, after = _two_routes(before_TE, after_TE)
    return float((before != after).any(1).double().mean()) if before.shape[0] else 0.0


def route_overlap(before_TE: Tensor, after_TE: Tensor) -> float:
    """Mean Jaccard overlap of a token's experts before and after; two empty sets overlap fully."""
    before, after = _two_routes(before_TE, after_TE)
    if not before.shape[0]:
        return 1.0
    both, either = (before & after).sum(1).double(), (before | after).sum(1).double()
    return float(torch.where(either > 0, both / either.clamp(min=1.0), torch.ones_like(both)).mean())


def segment_counts_SE(chosen_TE: Tensor, length: int) -> Tensor:
    """How often each expert is active in each segment of `length` tokens in a row, int64; a shorter rest is left out."""
    _matrix(chosen_TE, "chosen")
    if length < 1:
        raise UserError(f"a segment of {length} tokens", field="length", fix="at least 1")
    whole = chosen_TE.shape[0] // length
    return chosen_TE[: whole * length].reshape(whole, length, chosen_TE.shape[1]).long().sum(1)


def segment_routing_performance(chosen_TE: Tensor, length: int) -> Tensor:
    """SRP per expert, fp64 [E]: how well "active in the whole segment, or not at all" imitates the token routes.

    a_s = activations of the expert in segment s of m tokens; a segment-level route that is on where a_s >= t has
    F1(t) = 2 sum_s a_s [a_s >= t] / (m #{s: a_s >= t} + sum_s a_s), and SRP is the best over t = 1..m. 1 when the route is
    constant inside segments; near 2p/(1 + p) for an expert that takes a share p of the tokens at random and long segments (see
    `random_srp`). Source: "local routing consistency", SRP; read in the authors' code. There, experts with no activation at
    all are left out of a layer's mean; here they are 0.
    """
    counts_SE = segment_counts_SE(chosen_TE, length)
    best_E = torch.zeros(counts_SE.shape[1], dtype=torch.float64, device=counts_SE.device)
    total_E = counts_SE.sum(0).double()
    for threshold in range(1, length + 1):
        on_SE = counts_SE >= threshold
        hit_E = (counts_SE * on_SE).sum(0).double()
        below_E = length * on_SE.sum(0).double() + total_E
        best_E = torch.maximum(best_E, 2.0 * hit_E / below_E.clamp(min=1.0))
    return best_E


def random_srp(share: float, length: int) -> float:
    """SRP that routes drawn at random would have, in the limit of many segments: activations ~ Binomial(length, share)."""
    if not 0.0 <= share <= 1.0:
        raise UserError(f"a share of {share}", field="share", fix="0 to 1")
    mass = [math.comb(length, a) * share**a * (1.0 - share) ** (length - a) for a in range(length + 1)]
    best = 0.0
    for threshold in range(1, length + 1):
        hit = sum(a * mass[a] for a in range(threshold, length + 1))
        below = length * sum(mass[threshold:]) + length * share
        best = max(best, 2.0 * hit / below if below > 0 else 0.0)
    return best


def segment_cache_hit_rate(chosen_TE: Tensor, length: int, size: int) -> float:
    """SCH: the share of activations that hit a cache of `size` experts, filled anew by an oracle for each segment.

    sum_s (the `size` largest a_s) / sum_s sum_e a_se. 1 when no segment uses more than `size` experts; near size/E for uniform
    random routes and long segments. Source: "local routing consistency", SCH; the form with one cache size for all segments.
    """
    counts_SE = segment_counts_SE(chosen_TE, length)
    if not 1 <= size <= counts_SE.shape[1]:
        raise UserError(f"a cache of {size} of {counts_SE.shape[1]} experts", field="size", fix=f"1 to {counts_SE.shape[1]}")
    total = float(counts_SE.sum())
    return float(counts_SE.topk(size, dim=1).values.sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Committee:
    """The experts that are above their fair share in every domain, and how much of the routing they hold.

    members    expert ids, largest mass first; empty when there is no such group
    coverage   the least share of a domain's routing mass that the members hold together (0 without members)
    overlap    mean Jaccard overlap, over pairs of domains, of the domains' own top experts, by budget
    gini       inequality of the mean mass over experts: 0 uniform, (E - 1)/E for one expert
    """

    members: tuple[int, ...]
    coverage: float
    overlap: dict[int, float]
    gini: float


def standing_committee(mass_CE: Tensor, lift: float = 1.5, budgets: Sequence[int] = ()) -> Committee:
    """The standing committee: which experts hold the routing mass whatever the domain.

    mass_CE   routing mass (weights, or counts) of each domain on each expert; each domain is divided by its own sum
    lift      a member holds at least `lift`/E of the mass in every domain
    budgets   sizes of top sets that domains are compared by; default: the committee's own size, else 1

    Source: "COMMITTEEAUDIT" (2601.03425; abstract only). The paper audits groups by their consistent rank across domains,
    layers and routing budgets; the exact membership rule could not be read, so the lift rule is ours. A uniform router has no
    members; a planted committee is found whole.
    """
    _matrix(mass_CE, "mass")
    share_CE = _counts(mass_CE)
    share_CE = share_CE / share_CE.sum(1, keepdim=True).clamp(min=1e-300)
    share_CE = share_CE[share_CE.sum(1) > 0]
    mean_E = share_CE.mean(0) if len(share_CE) else share_CE.new_zeros(mass_CE.shape[1])
    held_E = (share_CE >= lift / mass_CE.shape[1]).all(0) if len(share_CE) else torch.zeros_like(mean_E, dtype=torch.bool)
    ranked = torch.argsort(mean_E, descending=True, stable=True).tolist()
    members = tuple(e for e in ranked if bool(held_E[e]))
    coverage = float(share_CE[:, list(members)].sum(1).min()) if members else 0.0
    sizes = tuple(budgets) or (max(1, len(members)),)
    return Committee(members, coverage, {n: _top_overlap(share_CE, n) for n in sizes}, gini(mean_E))


def gini(counts_E: Tensor) -> float:
    """Inequality of loads: 0 when all are equal, (E - 1)/E when one expert has all."""
    sorted_E = _counts(counts_E).sort().values
    n, total = sorted_E.shape[0], float(sorted_E.sum())
    if not total:
        return 0.0
    rank_E = torch.arange(1, n + 1, dtype=torch.float64, device=sorted_E.device)
    return float((2.0 * rank_E - n - 1.0).mul(sorted_E).sum()) / (n * total)


def class_mass_CE(chosen_TE: Tensor, class_T: Tensor, classes: int | None = None) -> Tensor:
    """Edges from each class (token id, part of speech, domain, …) to each expert, fp64 [C, E]. Classes below 0 are left out."""
    _matrix(chosen_TE, "chosen")
    if class_T.shape != chosen_TE.shape[:1]:
        raise UserError(f"{tuple(class_T.shape)} classes for {chosen_TE.shape[0]} tokens", field="class_T", fix="one per token")
    kept_T = class_T >= 0
    ids, routes = class_T[kept_T].long(), chosen_TE[kept_T].double()
    highest = int(ids.max()) + 1 if len(ids) else 0
    if classes is not None and highest > classes:
        raise UserError(f"class {highest - 1} of {classes}", field="class_T", fix=f"0 to {classes - 1}")
    out = torch.zeros(classes if classes is not None else highest, chosen_TE.shape[1], dtype=torch.float64, device=ids.device)
    return out.index_add_(0, ids, routes)


def specialisation(mass_CE: Tensor) -> float:
    """Mutual information of expert and class in nats, from edge counts, corrected for sample size (Miller-Madow), at least 0.

    I = H(C) + H(E) - H(C, E); each plug-in entropy of K used cells is raised by (K - 1) / 2N. Without the correction, many
    rare classes look like specialists.
    """
    _matrix(mass_CE, "mass")
    mass = _counts(mass_CE)
    total = float(mass.sum())
    if not total:
        return 0.0
    parts = [(mass.sum(1), 1.0), (mass.sum(0), 1.0), (mass.reshape(-1), -1.0)]
    return max(0.0, sum(sign * (_entropy(m) + (int((m > 0).sum()) - 1) / (2.0 * total)) for m, sign in parts))


def specialisation_share(mass_CE: Tensor) -> float:
    """`specialisation` over the most that it could be, min(H(C), H(E)): 0 independent, 1 one of them decides the other."""
    mass = _counts(mass_CE)
    most = min(_entropy(mass.sum(1)), _entropy(mass.sum(0)))
    return min(1.0, specialisation(mass_CE) / most) if most > 1e-12 else 0.0


def effective_routes(chosen_TE: Tensor) -> float:
    """The effective number of distinct expert sets in use: exp of the entropy of the routes."""
    _matrix(chosen_TE, "chosen")
    if not chosen_TE.shape[0]:
        return 0.0
    _, counts = torch.unique(chosen_TE, dim=0, return_counts=True)
    return effective_number(counts)


def compositions_per_route(chosen_TE: Tensor, class_T: Tensor) -> float:
    """N_eff: how many feature classes share one route, effectively; mean over tokens.

    Per distinct route: exp of the entropy of the classes of its tokens; then the mean, each route weighted by its tokens. 1
    when each route serves one class. Source: head-wise MH-MoE's N_eff, "effective number of feature compositions per route"
    (abstract only): how the paper forms feature compositions could not be verified; here the caller names the classes.
    """
    _matrix(chosen_TE, "chosen")
    if class_T.shape != chosen_TE.shape[:1]:
        raise UserError(f"{tuple(class_T.shape)} classes for {chosen_TE.shape[0]} tokens", field="class_T", fix="one per token")
    if not chosen_TE.shape[0]:
        return 0.0
    _, route_T = torch.unique(chosen_TE, dim=0, return_inverse=True)
    _, class_ids = torch.unique(class_T, return_inverse=True)
    joint = torch.zeros(int(route_T.max()) + 1, int(class_ids.max()) + 1, dtype=torch.float64, device=chosen_TE.device)
    joint.index_put_((route_T, class_ids), torch.ones_like(route_T, dtype=torch.float64), accumulate=True)
    weight = joint.sum(1, keepdim=True)
    each = torch.special.entr(joint / weight).sum(1).exp()
    return float((each * weight[:, 0]).sum() / weight.sum())


def experts_per_token(plan: Plan) -> float:
    """Mean number of edges of a token: what it costs, in experts."""
    return plan.edges / plan.tokens if plan.tokens else 0.0


def _counts(values: Tensor) -> Tensor:
    """As fp64, without gradient; raises UserError for negative, infinite or missing values, or no expert at all."""
    made = values.detach().double()
    if not made.numel() and made.dim() == 1:
        raise UserError("there is no expert", field="counts", fix="pass one count per expert")
    if not bool(torch.isfinite(made).all()) or bool((made < 0).any()):
        raise UserError("holds a negative or non-finite value", field="counts", fix="counts and masses are 0 or more")
    return made


def _entropy(counts: Tensor) -> float:
    share = counts / counts.sum().clamp(min=1e-300)
    return float(torch.special.entr(share).sum())


def _matrix(values: Tensor, name: str) -> None:
    if values.dim() != 2 or not values.shape[1]:
        raise UserError(f"has shape {tuple(values.shape)}", field=name, fix="rows by experts, at least one expert")
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise UserError("holds a NaN or an infinity", field=name, fix="look at the scorer: its scores must be finite")


def _two_routes(before_TE: Tensor, after_TE: Tensor) -> tuple[Tensor, Tensor]:
    _matrix(before_TE, "before")
    if before_TE.shape != after_TE.shape:
        raise UserError(
            f"{tuple(before_TE.shape)} and {tuple(after_TE.shape)}", field="routes", fix="same tokens, same experts"
        )
    return before_TE.bool(), after_TE.bool()


def _top_overlap(share_CE: Tensor, size: int) -> float:
    """Mean Jaccard overlap of the top `size` experts over pairs of domains; 1 for a single domain."""
    if not 1 <= size <= share_CE.shape[1]:
        raise UserError(f"top {size} of {share_CE.shape[1]} experts", field="budgets", fix=f"1 to {share_CE.shape[1]}")
    tops = [set(row.topk(size).indices.tolist()) for row in share_CE]
    pairs = [(a, b) for i, a in enumerate(tops) for b in tops[i + 1 :]]
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs) if pairs else 1.0
