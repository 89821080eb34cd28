"""Eigenvalues against a dense float64 Hessian, and the stability bound against descents that do and do not diverge."""

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from superconv.rates.curvature import hessian_vector_product, lanczos, stable_lr, top_eigenvalues


def problem(batch_norm: bool = True):
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(7)] if batch_norm else []
    model = nn.Sequential(nn.Linear(5, 7), *norm, nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randint(0, 3, (30,))
    return model, x, y, lambda: nn.functional.cross_entropy(model(x), y)


def dense(model, x, y):
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    sizes = [s.numel() for s in shapes]

    def loss(vector):
        parts = dict(zip(names, (v.view(s) for v, s in zip(vector.split(sizes), shapes, strict=True)), strict=True))
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        return nn.functional.cross_entropy(functional_call(model, (parts, buffers), (x,)), y)

    # Not torch.func.hessian: through batch norm in training mode it gives an asymmetric, wrong matrix (torch 2.13).
    return hessian(loss, flat)


@pytest.mark.parametrize("training", [True, False])
def test_eigenvalues_agree_with_the_dense_hessian(training):
    model, x, y, loss = problem()
    model.train(training)
    before = {name: b.clone() for name, b in model.named_buffers()}
    found = top_eigenvalues(model, loss, k=3, max_products=60, tolerance=1e-8)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert model.training is training
    expected = torch.linalg.eigvalsh(dense(model, x, y)).flip(0)[:3]
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=0)
    assert found.converged
    assert found.products <= 60


def test_products_agree_with_the_dense_hessian():
    model, x, y, loss = problem(batch_norm=False)
    product = hessian_vector_product(loss(), list(model.parameters()))
    matrix = dense(model, x, y)
    for seed in range(3):
        v = torch.randn(len(matrix), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(product(v), matrix @ v)


def test_float32_is_good_to_a_thousandth():
    model, x, y, _ = problem()
    expected = torch.linalg.eigvalsh(dense(model, x, y))[-1]
    single, inputs = model.float(), x.float()
    found = top_eigenvalues(single, lambda: nn.functional.cross_entropy(single(inputs), y))
    assert found.values[0].item() == pytest.approx(expected.item(), rel=1e-3)


def test_dropout_is_the_same_in_every_product_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Dropout(), nn.Linear(30, 1))
    x = torch.randn(20, 5)
    state = torch.get_rng_state()
    found = top_eigenvalues(model, lambda: model(x).square().mean(), max_products=200, tolerance=1e-4)
    assert found.converged
    assert torch.equal(torch.get_rng_state(), state)


def test_residuals_bound_the_error_and_a_cut_off_search_says_so():
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))
    eigenvalues = torch.linspace(-1, 2, 200, dtype=torch.float64)
    matrix = q @ torch.diag(eigenvalues) @ q.T
    like = torch.zeros(1, dtype=torch.float64)
    cut = lanczos(lambda v: matrix @ v, 200, k=2, max_products=5, tolerance=1e-6, seed=0, like=like)
    assert not cut.converged
    assert cut.products == 5
    for value, residual in zip(cut.values, cut.residuals, strict=True):
        assert (eigenvalues - value).abs().min() <= residual * (1 + 1e-9)
    whole = lanczos(lambda v: matrix @ v, 200, k=2, max_products=200, tolerance=1e-9, seed=0, like=like)
    torch.testing.assert_close(whole.values, eigenvalues.flip(0)[:2], rtol=1e-8, atol=0)


def test_a_space_that_is_exhausted_is_exact():
    like = torch.zeros(1, dtype=torch.float64)
    found = lanczos(lambda v: 3 * v, 10, k=2, max_products=5, tolerance=1e-3, seed=0, like=like)
    assert found.values.tolist() == pytest.approx([3.0])
    assert found.products == 1


def test_a_frozen_layer_is_left_out_and_a_linear_loss_has_no_curvature():
    model, _, _, loss = problem()
    for p in model[0].parameters():
        p.requires_grad_(False)
    assert top_eigenvalues(model, loss).values[0] > 0
    line = nn.Linear(3, 1, bias=False)
    assert top_eigenvalues(line, lambda: line(torch.ones(3)).sum()).values.tolist() == [0.0]
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable"):
        top_eigenvalues(model, loss)
    with pytest.raises(ValueError, match="does not depend"):
        top_eigenvalues(line, lambda: torch.ones(()))
    with pytest.raises(ValueError, match="k must be"):
        top_eigenvalues(line, lambda: line(torch.ones(3)).sum(), k=4)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.5, True), (0.9, True)])
def test_descent_is_stable_below_the_bound_and_diverges_above(momentum, nesterov):
    bound = stable_lr(4.0, momentum=momentum, nesterov=nesterov)
    for factor, stable in ((0.98, True), (1.02, False)):
        theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([theta], lr=factor * bound, momentum=momentum, nesterov=nesterov)
        for _ in range(2000):
            optimizer.zero_grad()
            (2 * theta**2).sum().backward()
            optimizer.step()
        assert (abs(float(theta.detach())) < 1) is stable


def test_without_positive_curvature_every_rate_is_stable():
    assert stable_lr(-1.0) == float("inf")
    with pytest.raises(ValueError, match="momentum"):
        stable_lr(1.0, momentum=1.0)


def test_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    inputs = torch.randn(3, 5, 8)
    found = top_eigenvalues(layer, lambda: layer(inputs).square().mean())
    assert found.converged
    assert found.values[0] > 0


def test_a_hessian_that_is_not_finite_has_no_eigenvalues():
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, float("nan"))
    found = top_eigenvalues(model, lambda: model(torch.ones(2, 3)).square().mean() ** 2)
    assert found.values.isnan().all()
    assert not found.converged
