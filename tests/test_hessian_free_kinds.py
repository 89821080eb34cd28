"""Curvature of parameters that are complex, have sparse gradients, or have none at times: of loss 0.75 · Σ|w|²."""

import pytest
import torch
from torch import nn

from superconv.rates.curvature import top_eigenvalues
from superconv.rates.hessian_free import CurvatureEstimate

KINDS = ("complex", "sparse", "late", "mixed")


class Bowl(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0
        self.table = nn.Embedding(4, 3, sparse=kind == "sparse")
        self.weight = nn.Parameter(torch.randn(4, dtype=torch.complex64 if kind == "complex" else torch.float32))
        if kind == "mixed":
            self.double()
            self.weight.data = self.weight.data.float()

    def forward(self):
        self.calls += 1
        loss = (self.table(torch.arange(4)) ** 2).sum()
        if self.kind != "late" or self.calls % 3:
            loss = loss + (self.weight.abs() ** 2).sum()
        return 0.75 * loss


@pytest.mark.parametrize("options", [{}, {"norm": "l2"}, {"scope": "layer"}, {"scope": "element"}], ids=str)
@pytest.mark.parametrize("kind", ["complex", "sparse", "late"])
def test_an_estimate_of_parameters_of_every_kind_is_the_inverse_curvature(kind, options):
    torch.manual_seed(0)
    model = Bowl(kind)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    estimate = CurvatureEstimate(optimizer, **options)
    for _ in range(5):  # the late weight has no gradient in the third
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
        raw = estimate.raw if options.get("scope") else [estimate.raw]
        for value in raw:
            value = torch.as_tensor(value).flatten()
            value = value[value.isfinite()]
            assert torch.allclose(value, torch.tensor(1 / 1.5), rtol=1e-2)
    assert estimate.curvature == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_top_eigenvalue_is_found_for_parameters_of_every_kind(kind):
    model = Bowl(kind)
    found = top_eigenvalues(model, model)
    assert found.converged
    assert float(found.values[0]) == pytest.approx(1.5, rel=1e-3)
    assert model.table.sparse == (kind == "sparse")
