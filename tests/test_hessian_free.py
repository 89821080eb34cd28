"""The estimate on quadratics whose curvature is known, and against a literal transcription of the author's script."""

import copy
from math import isfinite

import numpy as np
import pytest
import torch
from torch import nn

from superconv.rates.hessian_free import CurvatureEstimate

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.03),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.1),
}


def quadratic(hessian, start=1.0):
    """A parameter vector and the loss ½ θᵀHθ."""
    h = torch.as_tensor(hessian, dtype=torch.float64)
    h = h.reshape(1, 1) if h.dim() == 0 else h
    theta = nn.Parameter(torch.full((len(h),), start, dtype=torch.float64))
    return theta, lambda: 0.5 * theta @ h @ theta


def walk(optimizer, loss, steps, *, schedule=None):
    for t in range(steps):
        if schedule:
            optimizer.param_groups[0]["lr"] = schedule(t)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize("h", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_plain_is_one_over_h_for_plain_sgd(h, norm):
    theta, loss = quadratic(h)
    optimizer = OPTIMIZERS["sgd"]([theta])
    estimate = CurvatureEstimate(optimizer, form="plain", norm=norm)
    walk(optimizer, loss, 5)
    assert estimate.raw == pytest.approx(1 / h, rel=1e-4)


@pytest.mark.parametrize("h", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_corrected_is_one_over_h_for_any_optimizer_and_a_changing_rate(h, name):
    theta, loss = quadratic(h)
    optimizer = OPTIMIZERS[name]([theta])
    estimate = CurvatureEstimate(optimizer)
    walk(optimizer, loss, 9, schedule=lambda t: 0.01 + 0.01 * t)
    assert estimate.raw == pytest.approx(1 / h, rel=1e-4)
    assert estimate.curvature == pytest.approx(h, rel=1e-4)


@pytest.mark.parametrize("positional", [True, False])
def test_gradients_that_a_closure_makes_are_those_of_its_first_call(positional):
    theta, loss = quadratic(7.0)
    optimizer = OPTIMIZERS["momentum"]([theta])
    estimate, calls = CurvatureEstimate(optimizer), []

    def closure():
        calls.append(theta.item())
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    for _ in range(6):
        value = optimizer.step(closure) if positional else optimizer.step(closure=closure)
        assert float(value) == pytest.approx(3.5 * calls[-1] ** 2)
        assert estimate.raw == pytest.approx(1 / 7, rel=1e-4) or len(calls) == 1
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda p: torch.optim.Adafactor(p, lr=0.01, weight_decay=0.1), 0.05),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1), 0.15),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, maximize=True), -0.05 + 0.1),
    ],
)
def test_decay_counts_where_the_optimizer_adds_it_to_its_gradient(make, seen):
    theta, loss = quadratic(0.05)
    optimizer = make([theta])
    estimate = CurvatureEstimate(optimizer)
    walk(optimizer, loss, 4)
    assert estimate.curvature == pytest.approx(seen, rel=1e-3)


def test_coupled_weight_decay_is_part_of_the_curvature():
    theta, loss = quadratic(2.0)
    optimizer = torch.optim.SGD([theta], lr=0.05, weight_decay=0.5)
    estimate = CurvatureEstimate(optimizer)
    walk(optimizer, loss, 4)
    assert estimate.raw == pytest.approx(1 / 2.5, rel=1e-4)


def test_with_momentum_the_plain_form_is_wrong_as_documented():
    theta, loss = quadratic(1.0)
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=0.9)
    estimate = CurvatureEstimate(optimizer, form="plain")
    seen = []
    for _ in range(60):
        walk(optimizer, loss, 1)
        seen.append(estimate.raw)
    assert max(seen[2:]) / min(seen[2:]) > 50


def test_negative_curvature_keeps_its_sign():
    theta, loss = quadratic(-2.0)
    optimizer = OPTIMIZERS["sgd"]([theta])
    estimate = CurvatureEstimate(optimizer)
    elements = CurvatureEstimate(optimizer, scope="element")
    walk(optimizer, loss, 4)
    assert estimate.curvature == pytest.approx(-2.0, rel=1e-6)
    assert estimate.raw == pytest.approx(0.5, rel=1e-6)
    assert float(elements.raw[0]) == pytest.approx(-0.5, rel=1e-6)


@pytest.mark.parametrize("form", ["plain", "corrected"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_diagonal_hessian_keeps_both_forms_within_its_inverse_eigenvalues(form, norm):
    eigenvalues = torch.linspace(0.5, 8.0, 12, dtype=torch.float64)
    theta, loss = quadratic(torch.diag(eigenvalues))
    optimizer = torch.optim.SGD([theta], lr=0.05)
    estimate = CurvatureEstimate(optimizer, form=form, norm=norm)
    for _ in range(30):
        walk(optimizer, loss, 1)
        if np.isfinite(estimate.raw):
            assert 1 / 8 - 1e-9 <= estimate.raw <= 1 / 0.5 + 1e-9


def full_hessian(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(-2, 1, 12, dtype=torch.float64)) @ q.T


def test_with_a_full_hessian_l2_stays_within_its_inverse_eigenvalues():
    for seed in range(10):
        hessian = full_hessian(seed)
        low, high = torch.linalg.eigvalsh(hessian)[[0, -1]]
        theta, loss = quadratic(hessian)
        optimizer = torch.optim.SGD([theta], lr=0.05, momentum=0.9)
        estimate = CurvatureEstimate(optimizer, norm="l2")
        for _ in range(200):
            walk(optimizer, loss, 1)
            if np.isfinite(estimate.raw):
                assert 1 / high * (1 - 1e-6) <= estimate.raw <= 1 / low * (1 + 1e-6)


def test_with_a_full_hessian_l1_leaves_them():
    hessian = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    theta, loss = quadratic(hessian)
    with torch.no_grad():
        theta.copy_(torch.linalg.solve(hessian, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)))
    optimizer = torch.optim.SGD([theta], lr=0.1)  # its first step is along the second axis
    estimate = CurvatureEstimate(optimizer)
    walk(optimizer, loss, 2)
    assert estimate.raw == pytest.approx(1 / 4, rel=1e-6)
    assert estimate.raw < 1 / float(torch.linalg.eigvalsh(hessian)[-1])


def numpy_transcription(snapshots, lr):
    """L2TermComputation: sums of absolute values over every tensor, one ratio, smoothed from 0.1 by 0.1."""
    average = 0.1
    for before, here, after in zip(snapshots, snapshots[1:], snapshots[2:], strict=False):
        above = sum(np.abs(b - a).sum() for a, b in zip(before, here, strict=True))
        below = sum(np.abs(2 * b - a - c).sum() for a, b, c in zip(before, here, after, strict=True))
        raw = lr * above / below
        average = 0.9 * average + 0.1 * raw
    return raw, average


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randint(0, 3, (40,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize(("stride", "buffers"), [(1, False), (1, True), (10, False)])
def test_the_plain_network_form_is_the_author_s_script(stride, buffers):
    model, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.35, momentum=0.9)
    modules = [model] if buffers else []
    estimate = CurvatureEstimate(optimizer, form="plain", stride=stride, rescale=False, modules=modules)

    def snapshot():
        kept = [*model.parameters(), *(b for b in model.buffers() if buffers and b.is_floating_point())]
        return [t.detach().numpy().copy() for t in kept]

    loss()  # the first forward pass moves the batch-norm buffers before the first step is taken
    snapshots = []
    for t in range(60):
        optimizer.zero_grad()
        loss().backward()
        if t == 0:
            snapshots.append(snapshot())
        optimizer.step()
        if (t + 1) % stride == 0:
            snapshots.append(snapshot())
    raw, value = numpy_transcription(snapshots, 0.35)
    assert estimate.raw == pytest.approx(raw, rel=1e-6)
    assert estimate.value == pytest.approx(value, rel=1e-6)


def test_rescaling_multiplies_by_the_stride():
    model, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = CurvatureEstimate(optimizer, form="plain", stride=5, rescale=False)
    rescaled = CurvatureEstimate(optimizer, form="plain", stride=5)
    walk(optimizer, loss, 20)
    assert rescaled.raw == pytest.approx(5 * plain.raw)


def test_layers_and_elements_agree_with_the_network():
    model, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    whole, layers, elements = (CurvatureEstimate(optimizer, scope=s) for s in ("network", "layer", "element"))
    walk(optimizer, loss, 6)
    assert len(layers.raw) == len(list(model.parameters()))
    assert min(layers.raw) <= whole.raw <= max(layers.raw)
    assert [e.shape for e in elements.raw] == [p.shape for p in model.parameters()]


def test_groups_are_weighed_by_their_own_rates():
    a, b = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}])
    estimate = CurvatureEstimate(optimizer, form="plain", scope="layer")
    walk(optimizer, lambda: (a**2).sum() + 4 * (b**2).sum(), 4)
    assert estimate.raw == pytest.approx((1 / 2, 1 / 8), rel=1e-5)


def test_several_optimizers_make_one_estimate():
    a, b = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    optimizers = [torch.optim.SGD([a], lr=0.1), torch.optim.Adam([b], lr=0.01)]
    estimate = CurvatureEstimate(optimizers)
    for _ in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (1.5 * (a**2).sum() + 1.5 * (b**2).sum()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert estimate.raw == pytest.approx(1 / 3, rel=1e-4)


def test_nothing_moves_at_rate_zero_and_the_average_stays():
    for form in ("plain", "corrected"):
        theta, loss = quadratic(1.0)
        optimizer = torch.optim.SGD([theta], lr=0.0)
        estimate = CurvatureEstimate(optimizer, form=form)
        walk(optimizer, loss, 5)
        assert np.isnan(estimate.raw)
        assert estimate.value == pytest.approx(0.1)


def test_a_frozen_layer_has_no_estimate_and_does_not_disturb_the_others():
    theta, loss = quadratic(2.0)
    frozen = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
    optimizer = torch.optim.SGD([frozen, theta], lr=0.1)
    whole, layers = CurvatureEstimate(optimizer), CurvatureEstimate(optimizer, scope="layer")
    walk(optimizer, loss, 5)
    assert whole.raw == pytest.approx(0.5, rel=1e-4)
    assert np.isnan(layers.raw[0])
    assert layers.value[0] == pytest.approx(0.1)
    assert layers.raw[1] == pytest.approx(0.5, rel=1e-4)


def test_non_finite_parameters_give_a_defined_value():
    for form in ("plain", "corrected"):
        theta, loss = quadratic(1.0)
        optimizer = torch.optim.SGD([theta], lr=0.1)
        estimate = CurvatureEstimate(optimizer, form=form)
        walk(optimizer, loss, 5)
        before = estimate.value
        with torch.no_grad():
            theta.fill_(float("nan"))
        walk(optimizer, loss, 3)
        assert np.isnan(estimate.raw)
        assert estimate.value == before


def test_a_changed_parameter_set_is_refused():
    theta, loss = quadratic(1.0)
    optimizer = torch.optim.SGD([theta], lr=0.1)
    estimate = CurvatureEstimate(optimizer)
    walk(optimizer, loss, 2)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match="make a new one"):
        walk(optimizer, loss, 1)
    estimate.remove()
    walk(optimizer, loss, 1)


def test_what_makes_no_estimate_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for options in ({"form": "x"}, {"norm": "l3"}, {"scope": "x"}, {"stride": 0}, {"modules": [nn.BatchNorm1d(2)]}):
        with pytest.raises(ValueError, match=r"must be|buffers"):
            CurvatureEstimate(optimizer, **options)
    optimizer.param_groups[0]["params"].clear()
    with pytest.raises(ValueError, match="no parameters"):
        CurvatureEstimate(optimizer)


def test_accumulated_and_skipped_steps_are_no_steps():
    theta, loss = quadratic(3.0)
    optimizer = torch.optim.SGD([theta], lr=0.05, momentum=0.9)
    estimate = CurvatureEstimate(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in range(12):
        optimizer.zero_grad()
        for _ in range(2):
            scaler.scale(loss() / 2).backward()
        if t == 6:
            theta.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
    assert estimate.raw == pytest.approx(1 / 3, rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("form", ["plain", "corrected"])
def test_a_compiled_model_and_step_give_the_same_estimate(form):
    values = []
    for compiled in (False, True):
        model, loss = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        estimate = CurvatureEstimate(optimizer, form=form)
        if compiled:
            loss = torch.compile(loss, backend="aot_eager")
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        for _ in range(6):
            optimizer.zero_grad()
            loss().backward()
            step()
        values.append((estimate.raw, estimate.value))
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert isfinite(values[1][0])


@pytest.mark.parametrize("form", ["plain", "corrected"])
def test_state_resumes_exactly(form):
    def start():
        theta, loss = quadratic(full_hessian(1))
        optimizer = torch.optim.SGD([theta], lr=0.05, momentum=0.9)
        return theta, loss, optimizer, CurvatureEstimate(optimizer, form=form)

    _, loss, optimizer, whole = start()
    walk(optimizer, loss, 20)
    theta, loss, optimizer, cut = start()
    walk(optimizer, loss, 11)
    saved = copy.deepcopy((theta.data, optimizer.state_dict(), cut.state_dict()))
    theta, loss, optimizer, resumed = start()
    theta.data.copy_(saved[0])
    optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    walk(optimizer, loss, 9)
    assert (resumed.raw, resumed.value) == (whole.raw, whole.value)
    other = CurvatureEstimate(torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1), form=form)
    with pytest.raises(ValueError, match="other parameters"):
        other.load_state_dict(saved[2])


def test_two_copies_of_the_parameters_are_kept():
    model, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for form in ("plain", "corrected"):
        estimate = CurvatureEstimate(optimizer, form=form)
        walk(optimizer, loss, 4)
        part = estimate.state_dict()["parts"][0]
        kept = sum(t.numel() for t in (*part["first"], *part["second"]))
        assert kept == 2 * sum(p.numel() for p in model.parameters())
        estimate.remove()
