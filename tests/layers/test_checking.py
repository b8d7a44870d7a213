"""Each check of the gates' suite fails on a gate that is wrong in just that way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor import testing
from junctor.errors import MissingExtra, UserError
from junctor.layers.checking import CHECKS, check_gate
from junctor.layers.contracts import Balancer, Gate, Scorer, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK


def softmaxed(logits_TE: Tensor) -> Scores:
    return Scores(logits_TE, logits_TE.softmax(-1))


class Simple(LinearScorer):
    """Subclasses change the input or the logits."""

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts, std=0.5)

    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD

    def forward(self, context: RouteContext) -> Scores:
        return super().forward(replace(context, x_TD=self.seen(context)))


class LooksAhead(Simple):
    batch_invariant = True

    def seen(self, context: RouteContext) -> Tensor:
        x_BSD = context.x_TD.reshape(*context.shape, -1)
        return (x_BSD + x_BSD.mean(1, keepdim=True)).reshape_as(context.x_TD)


class LooksAround(Simple):
    causal = False

    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD - context.x_TD.mean(0) if len(context.x_TD) else context.x_TD


class NeedsTokens(Simple):
    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD * (1 + 0 * context.x_TD.max())


class NeedsLayout(Simple):
    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD.view(-1).view(context.x_TD.shape)


class DrawsGlobally(Simple):
    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD + 0 * torch.randn(1)


class DrawsInEvaluation(Simple):
    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD + torch.randn(context.x_TD.shape, generator=context.generator)


class CountsInForward(Simple):
    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.register_buffer("calls", torch.zeros(()))

    def seen(self, context: RouteContext) -> Tensor:
        self.calls += 1
        return context.x_TD


class HidesState(Simple):
    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.secret = torch.randn(d_model)

    def seen(self, context: RouteContext) -> Tensor:
        return context.x_TD + self.secret


class FollowsAutocast(Simple):
    def forward(self, context: RouteContext) -> Scores:
        logits_TE = functional.linear(context.x_TD.to(self.weight_ED.dtype), self.weight_ED)
        return softmaxed(logits_TE.float())


class NoGradient(Simple):
    def forward(self, context: RouteContext) -> Scores:
        return softmaxed(super().forward(context).logits_TE.detach())


class Hides(Simple):
    """Turns NaN scores into numbers, and takes the weights from elsewhere."""

    def forward(self, context: RouteContext) -> Scores:
        return softmaxed(super().forward(context).logits_TE.nan_to_num())


class NanWeights(TopK):
    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        plan = super().forward(selection_TE, scores, context)
        return plan.with_weights(plan.weight_N * (1 + 0 * context.x_TD.sum()))


class Unsorted(TopK):
    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        plan = super().forward(selection_TE, scores, context)
        first, rest = plan.counts_E[: int(plan.counts_E.gt(1).long().argmax())].sum(), torch.arange(plan.edges)
        if plan.edges and plan.counts_E.max() > 1:
            rest[first], rest[first + 1] = rest[first + 1].clone(), rest[first].clone()
        return replace(plan, token_N=plan.token_N[rest], weight_N=plan.weight_N[rest])


class RoutesPadding(TopK):
    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        return super().forward(selection_TE, scores, replace(context, padding_T=None))


class CrashesOnK(Selector):
    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        selection_TE.topk(2, dim=1)
        return TopK(2)(selection_TE, scores, context)


class Trains(Balancer):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def update(self, counts_E: Tensor) -> None:
        with torch.no_grad():
            self.bias += 1


BROKEN: dict[str, tuple[type[Scorer], Selector, Balancer | None]] = {
    "plan_is_well_formed": (Simple, Unsorted(2), None),
    "gradient_reaches_the_scorer": (NoGradient, TopK(2), None),
    "same_generator_same_plan": (DrawsGlobally, TopK(2), None),
    "evaluation_needs_no_generator": (DrawsInEvaluation, TopK(2), None),
    "forward_is_pure": (CountsInForward, TopK(2), None),
    "causal_when_declared": (LooksAhead, TopK(2), None),
    "batch_invariant_when_declared": (LooksAround, TopK(2), None),
    "padding_has_no_edges": (Simple, RoutesPadding(2), None),
    "zero_tokens_give_an_empty_plan": (NeedsTokens, TopK(2), None),
    "layout_does_not_matter": (NeedsLayout, TopK(2), None),
    "scores_are_fp32": (FollowsAutocast, TopK(2), None),
    "state_goes_through_a_file": (HidesState, TopK(2), None),
    "update_leaves_parameters_alone": (Simple, TopK(2), Trains()),
    "not_a_number_is_refused": (Hides, NanWeights(2), None),
    "one_expert_is_refused_or_works": (Simple, CrashesOnK(), None),
}


def builder(scorer: type[Scorer], selector: Selector, balancer: Balancer | None) -> Any:
    return lambda d_model, experts: Gate(scorer(d_model, experts), selector, balancer)


def test_a_plain_gate_passes_every_check() -> None:
    assert check_gate(builder(Simple, TopK(2), None)) == tuple(CHECKS)


def test_every_check_has_a_gate_that_fails_it() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("check", BROKEN)
def test_a_gate_that_is_wrong_in_one_way_fails_that_check(check: str) -> None:
    build = builder(*BROKEN[check])
    others = tuple(name for name in CHECKS if name != check)
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_gate(build, exclude=others)
    check_gate(build, exclude=(check, *EXPECTED_TOO.get(check, ())))


EXPECTED_TOO = {
    "evaluation_needs_no_generator": ("batch_invariant_when_declared",),
    "forward_is_pure": ("state_goes_through_a_file",),
    "causal_when_declared": ("zero_tokens_give_an_empty_plan", "padding_has_no_edges"),
}


def test_several_failures_are_named_together() -> None:
    with pytest.raises(AssertionError) as raised:
        check_gate(builder(CountsInForward, RoutesPadding(2), None))
    assert {line.partition(":")[0] for line in str(raised.value).splitlines()} >= {"forward_is_pure", "padding_has_no_edges"}


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(UserError, match="no check 'speed'"):
        check_gate(builder(Simple, TopK(2), None), exclude=("speed",))


def test_the_public_suite_is_this_one_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert testing.check_gate(builder(Simple, TopK(2), None)) == tuple(CHECKS)
    with pytest.raises(AssertionError, match="forward changed"):
        testing.check_gate(builder(CountsInForward, RoutesPadding(2), None))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="torch"):
        testing.check_gate(builder(Simple, TopK(2), None))
