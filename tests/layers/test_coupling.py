"""Expert-router coupling: each expert ends up answering its own row most, at a cost that tokens do not change."""

from __future__ import annotations

import copy

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.coupling import coupling_loss, coupling_matrix, erc, proxies, radius
from junctor.layers.experts import ExpertBank
from junctor.layers.plan import RouteContext

D, E, H = 16, 6, 8


def test_the_matrix_and_the_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, w_in = torch.randn(E, D, generator=generator), torch.randn(E, D, H, generator=generator)
    matrix = coupling_matrix(rows, w_in)
    loss = 0.0
    for i in range(E):
        for j in range(E):
            torch.testing.assert_close(matrix[i, j], (rows[i] @ w_in[j]).norm())
            if i != j:
                loss = loss + (matrix[i, j] - 0.5 * matrix[i, i]).relu() + (matrix[j, i] - 0.5 * matrix[i, i]).relu()
    torch.testing.assert_close(coupling_loss(matrix, 0.5), loss / (E * (E - 1)))
    assert float(coupling_loss(torch.eye(E))) == 0
    assert float(coupling_loss(torch.ones(1, 1))) == 0


def test_a_proxy_stays_nearer_to_its_own_row_than_half_the_way_to_the_next() -> None:
    rows = torch.randn(E, D, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    apart = torch.cdist(rows, rows) + torch.eye(E) * 99
    for _ in range(20):
        made = proxies(rows, generator)
        assert ((made - rows).norm(dim=1) <= 0.5 * apart.amin(1) + 1e-5).all()
    assert not torch.equal(made, rows)
    assert torch.equal(proxies(rows, torch.Generator().manual_seed(3)), proxies(rows, torch.Generator().manual_seed(3)))
    assert float(radius(rows[:1])) == 0


@pytest.mark.parametrize("scale_free", [False, True])
def test_training_on_it_leads_the_diagonal(scale_free: bool) -> None:
    torch.manual_seed(0)
    gate = erc(D, E, scale_free=scale_free, switch=0.0)
    w_in = torch.nn.Parameter(torch.randn(E, D, H) * D**-0.5)
    gate.balancer.attach_experts(lambda: w_in)
    optimiser = torch.optim.Adam([*gate.parameters(), w_in], lr=0.02)
    context = RouteContext(torch.randn(4, D), generator=torch.Generator().manual_seed(0))

    def leading() -> float:
        with torch.no_grad():
            matrix = coupling_matrix(gate.scorer.weight_ED, w_in)
        own = torch.arange(E)
        return float(((matrix.argmax(0) == own) & (matrix.argmax(1) == own)).float().mean())

    assert leading() < 1
    for _ in range(80):
        optimiser.zero_grad()
        plan, scores = gate(context)
        gate.balancer.loss(plan, scores, context)["erc"].backward()
        optimiser.step()
    assert leading() == 1


def test_scale_free_ignores_the_size_of_weights_and_the_published_form_does_not() -> None:
    rows, w_in = torch.randn(E, D), torch.randn(E, D, H)
    plain = coupling_loss(coupling_matrix(rows, w_in))
    torch.testing.assert_close(coupling_loss(coupling_matrix(rows, 0.1 * w_in)), 0.1 * plain)
    one, two = (coupling_loss(coupling_matrix(rows, w, scale_free=True)) for w in (w_in, 0.1 * w_in))
    torch.testing.assert_close(one, two)


def test_the_loss_does_not_see_the_tokens() -> None:
    gate = erc(D, E)
    gate.balancer.attach_experts(lambda: torch.ones(E, D, H))
    values = []
    for tokens in (0, 3, 500):
        context = RouteContext(torch.randn(tokens, D), generator=torch.Generator().manual_seed(0))
        values.append(gate.balancer.loss(*gate(context), context)["erc"].item())
    assert values[0] == values[1] == values[2]


def test_bad_input_is_refused() -> None:
    gate, context = erc(D, E), RouteContext(torch.randn(3, D))
    plan, scores = gate(context)
    with pytest.raises(UserError, match="attach"):
        gate.balancer.loss(plan, scores, context)
    assert set(erc(D, E, weight=0.0).balancer.loss(plan, scores, context)) == {"switch"}
    gate.balancer.attach_experts(lambda: torch.ones(E, D + 1, H))
    with pytest.raises(UserError, match="weights"):
        gate.balancer.loss(plan, scores, context)
    for settings in ({"alpha": 2.0}, {"k": E + 1}):
        with pytest.raises(UserError):
            erc(D, E, **settings)  # type: ignore[arg-type]
    assert len(list(gate.parameters())) == 1


def test_a_bank_is_read_but_not_owned_and_a_copy_reads_its_own() -> None:
    gate, bank = erc(D, E, scale_free=False), ExpertBank(E, D, H)
    gate.balancer.attach_experts(bank)
    assert len(list(gate.parameters())) == 1
    layer = copy.deepcopy(torch.nn.ModuleList([gate, bank]))
    with torch.no_grad():
        bank.w_in_EDI.zero_()
    generator = torch.Generator()
    assert float(gate.balancer.matrix(generator).detach().sum()) == 0
    assert float(layer[0].balancer.matrix(generator).detach().sum()) > 0
