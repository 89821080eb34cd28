"""The learning rate that curvature allows, estimated while an optimizer works.

Smith & Topin (arXiv 1708.07120, section 4) estimate the optimal rate by a simplified Hessian-free method: Newton's step
along a coordinate is 1/h, the curvature h follows from two gradients (AdaSecant), and plain SGD's gradients from three
successive iterates. The author's scripts do that offline, from saved weights; here it is measured at every step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv.optim import DECOUPLED, skips

SMOOTHING = 0.1  # weight of a new estimate, and the value that the average starts from: the author's scripts have both


class CurvatureEstimate:
    """Estimates the rate that the curvature along an optimizer's own path allows.

    ``estimate = CurvatureEstimate(optimizer)`` before the loop is all; read `value` (smoothed) or `raw` (the last one).

    **plain** is the paper's, from three successive iterates θ₀, θ₁, θ₂ and the rate of the step from θ₀ to θ₁::

        lr · ‖θ₁ − θ₀‖ / ‖2θ₁ − θ₀ − θ₂‖

    It takes θ₁ − θ₀ for −lr·g, which is true of SGD without momentum at a constant rate only: with momentum 0.9 it
    wanders from 0.006 to 171 on a quadratic whose truth is 1 (rate 0.1, 100 steps). Parameter groups are weighed by
    their own rates.

    **corrected** compares the gradients themselves, read before every step::

        ‖θ₁ − θ₀‖ / ‖g(θ₁) − g(θ₀)‖

    which holds for momentum, Adam and a changing rate. Gradients are taken as the optimizer sees them: unscaled,
    reduced over processes, coupled weight decay added. Where they come from different minibatches, their noise is
    part of the denominator in both forms, so the estimate is smaller than that of the whole data.

    A parameter that has a gradient at only one of the two is left out of that comparison.

    Where ``step`` is given a closure, gradients are those of its first call. A step is an update that happened: what a
    gradient scaler skips leaves the estimate alone. Nothing is read from the device but by `value`, `raw` and
    `curvature` (and, under fp16 with a fused optimizer, whether a step was skipped). Two copies of the parameters are
    kept; ``scope="element"`` keeps two more for its results.

    Args:
        optimizer: One optimizer, or several that step in turn; an estimate is made when all have.
        form: `corrected` or `plain`.
        norm: `l1` is the paper's. `l2` stays within the inverse eigenvalues of any Hessian, `l1` only of a diagonal
            one.
        scope: One estimate for the network, for every parameter tensor (`layer`), or for every element, then signed.
        stride: Steps between the iterates that are compared; the author's long run has 10.
        rescale: Multiply the plain form's rate by the stride, as so many steps moved the weights; the author did not.
        modules: Also count the floating-point buffers of these modules in the plain form, at the first group's rate, as
            the author's scripts count Caffe's batch-norm statistics.

    Raises:
        ValueError: No parameters, an unknown form, norm or scope, a stride below 1, or buffers in the corrected form.

    >>> import torch, superconv
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> estimate = superconv.CurvatureEstimate(optimizer)
    >>> for _ in range(5):
    ...     optimizer.zero_grad(); (2 * weight**2).sum().backward(); optimizer.step()
    >>> round(estimate.raw, 3)  # one over the curvature, which is 4; `estimate.value` is smoothed
    0.25
    >>> estimate.remove()
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        form: Literal["corrected", "plain"] = "corrected",
        norm: Literal["l1", "l2"] = "l1",
        scope: Literal["network", "layer", "element"] = "network",
        stride: int = 1,
        rescale: bool = True,
        modules: Iterable[nn.Module] = (),
    ) -> None:
        for name, given, known in (
            ("form", form, ("corrected", "plain")),
            ("norm", norm, ("l1", "l2")),
            ("scope", scope, ("network", "layer", "element")),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {given!r}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1 step, not {stride}")
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if not any(group["params"] for o in optimizers for group in o.param_groups):
            raise ValueError("there are no parameters to estimate a rate for")
        buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
        if buffers and form == "corrected":
            raise ValueError("buffers have no gradients: only the plain form can count them")
        self._plain, self._order, self._scope = form == "plain", 1 if norm == "l1" else 2, scope
        self._stride, self._factor = stride, stride if rescale else 1
        self._parts = [_Part(o, buffers if i == 0 else [], scope == "element") for i, o in enumerate(optimizers)]
        self._steps = 0
        empty = self._empty()
        self._value = [torch.full_like(t, SMOOTHING) for t in empty]
        self._raw = [torch.full_like(t, torch.nan) for t in empty]
        self._curvature = torch.full((), torch.nan, device=empty[0].device)
        self._handles = []
        for part in self._parts:
            # Traced into a compiled step, the hooks would lose what they write into their own tensors.
            untraced: Callable[[Any], Any] = torch.compiler.disable
            self._handles.append(part.optimizer.register_step_pre_hook(untraced(partial(self._before, part))))
            self._handles.append(part.optimizer.register_step_post_hook(untraced(partial(self._after, part))))

    @property
    def value(self) -> Any:
        """The smoothed estimate: avg ← 0.9·avg + 0.1·raw from 0.1 on; what is not finite or positive is left out.

        A float for the network, a tuple of floats for layers in the optimizer's order, a list of tensors for elements.
        """
        return self._read(self._value)

    @property
    def raw(self) -> Any:
        """The last single estimate, of the form of `value`; NaN before there is one and where nothing moved."""
        return self._read(self._raw)

    @property
    def curvature(self) -> float:
        """Signed curvature s·y / s·s along the last steps of the whole network; NaN in the plain form."""
        return float(self._curvature)

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """All that the next estimate needs, as tensors and numbers."""
        return {
            "steps": self._steps,
            "value": self._value,
            "raw": self._raw,
            "parts": [{"first": p.first, "second": p.second, "rates": p.rates} for p in self._parts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: It belongs to other parameters or another scope.
        """
        parts = state["parts"]
        same = len(parts) == len(self._parts) and _shapes(state["value"]) == _shapes(self._value)
        if not same or any(_shapes(s["first"]) not in ([], p.shapes) for p, s in zip(self._parts, parts, strict=True)):
            raise ValueError("this state belongs to an estimate of other parameters or of another scope")
        self._steps = int(state["steps"])
        for mine, saved in ((self._value, state["value"]), (self._raw, state["raw"])):
            for tensor, other in zip(mine, saved, strict=True):
                tensor.copy_(other)
        for part, saved in zip(self._parts, parts, strict=True):
            like = part.tensors()
            part.first, part.second = (
                [t.to(own.device).clone() for t, own in zip(saved[k], like, strict=False)] for k in ("first", "second")
            )
            part.rates = None if saved["rates"] is None else saved["rates"].to(like[0].device).clone()

    @torch.no_grad()
    def _before(self, part: "_Part", optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        part.check()
        if self._plain and not part.first:
            part.first = [t.detach().clone() for t in part.tensors()]
        elif not self._plain and self._steps % self._stride == 0 and not skips(optimizer):
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            if closure is not None:  # makes the gradients only within the step
                return args[:1], {**kwargs, "closure": _noting(closure, partial(part.compare_gradients, self._order))}
            part.compare_gradients(self._order)
        return None

    @torch.no_grad()
    def _after(self, part: "_Part", optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if skips(optimizer):
            return
        part.stepped = True
        if not all(p.stepped for p in self._parts):
            return
        self._steps += 1
        for p in self._parts:
            p.stepped = False
            if self._plain and self._steps % self._stride == 0:
                p.compare_iterates(self._order)
        if all(p.moved is not None for p in self._parts):
            self._estimate()

    def _estimate(self) -> None:
        moved, turned = (torch.cat([getattr(p, name) for p in self._parts]) for name in ("moved", "turned"))
        if self._scope == "element":
            raw = [t for p in self._parts for t in p.elements]
        elif self._scope == "layer":
            raw = [moved / turned]
        else:
            raw = [torch.linalg.vector_norm(moved, self._order) / torch.linalg.vector_norm(turned, self._order)]
        factor = self._factor if self._plain else 1
        for value, last, new in zip(self._value, self._raw, raw, strict=True):
            last.copy_(new).mul_(factor)
            usable = last.isfinite() & (last > 0)
            value.copy_(torch.where(usable, value + SMOOTHING * (last - value), value))
        if not self._plain:
            products = torch.stack([p.products for p in self._parts]).sum(0)
            self._curvature = products[0] / products[1]
        for p in self._parts:
            p.moved = p.turned = None

    def _empty(self) -> list[Tensor]:
        tensors = [t for p in self._parts for t in p.tensors()]
        if self._scope == "element":
            return [torch.empty_like(t) for t in tensors]
        return [tensors[0].new_empty(() if self._scope == "network" else len(tensors))]

    def _read(self, estimates: list[Tensor]) -> Any:
        if self._scope == "element":
            return [t.clone() for t in estimates]
        return float(estimates[0]) if self._scope == "network" else tuple(estimates[0].tolist())


class _Part:
    """What is kept of one optimizer: two copies of its parameters, and the norms of the last comparison."""

    def __init__(self, optimizer: Optimizer, buffers: list[Tensor], by_element: bool) -> None:
        self.optimizer, self.buffers, self.by_element = optimizer, buffers, by_element
        self.shapes = _shapes(self.tensors())
        self.first: list[Tensor] = []  # plain: the last iterate; corrected: the iterate before the last step
        self.second: list[Tensor] = []  # plain: the last move; corrected: the gradient before the last step
        self.rates: Tensor | None = None  # (k,), plain: of the last move
        self.moved: Tensor | None = None  # (k,) norms of the moves
        self.turned: Tensor | None = None  # (k,) norms of the gradients' differences
        self.products = torch.zeros(2)  # s·y and s·s
        self.elements: list[Tensor] = []
        self.stepped = False
        self.still: set[int] = set()  # corrected: places of parameters that had no gradient before the last step

    def tensors(self) -> list[Tensor]:
        """Parameters in the optimizer's order, then buffers; complex ones as pairs of real numbers."""
        return [_real(p) for group in self.optimizer.param_groups for p in group["params"]] + self.buffers

    def check(self) -> None:
        """The parameters must be those that the copies are of."""
        if _shapes(self.tensors()) != self.shapes:
            raise ValueError("the optimizer's parameters have changed: remove() this estimate and make a new one")

    def compare_iterates(self, order: int) -> None:
        now = self.tensors()
        rates = self._rates(len(now))
        if not self.second:
            self.second = list(torch._foreach_sub(now, self.first))
        else:
            move, before = self.first, self.second
            torch._foreach_neg_(move)
            torch._foreach_add_(move, now)  # θ₂ − θ₁, where θ₁ was
            self.moved = _norms(before, order)
            steps = [b.clone() for b in before] if self.by_element else []
            torch._foreach_sub_(before, move)  # 2θ₁ − θ₀ − θ₂, where θ₁ − θ₀ was
            assert self.rates is not None
            self.turned = _norms(before, order) / self.rates
            self.elements = [s / b * r for s, b, r in zip(steps, before, self.rates, strict=False)]
            self.first, self.second = before, move
        torch._foreach_copy_(self.first, now)
        self.rates = rates

    def compare_gradients(self, order: int) -> None:
        now, gradients = self.tensors(), self._gradients()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        before, self.still = self.still, {i for i, p in enumerate(parameters) if p.grad is None}
        if not self.second:
            self.first, self.second = ([t.detach().clone() for t in kept] for kept in (now, gradients))
            return
        moves, turns = self.first, self.second
        torch._foreach_neg_(moves)
        torch._foreach_add_(moves, now)
        torch._foreach_neg_(turns)
        torch._foreach_add_(turns, gradients)
        for i in before ^ self.still:  # two gradients are to be compared
            moves[i].zero_(), turns[i].zero_()
        self.moved, self.turned = _norms(moves, order), _norms(turns, order)
        dots = torch.stack([(s * y).sum() for s, y in zip(moves, turns, strict=True)]).sum()
        self.products = torch.stack([dots, torch.stack(torch._foreach_norm(moves)).square().sum()])
        self.elements = [s / y for s, y in zip(moves, turns, strict=True)] if self.by_element else []
        torch._foreach_copy_(moves, now)
        torch._foreach_copy_(turns, gradients)

    def _gradients(self) -> list[Tensor]:
        """Of the loss with coupled weight decay, unscaled; zeros for what has none."""
        scale = getattr(self.optimizer, "grad_scale", None)  # set while a fused optimizer unscales in its kernel
        result, apart = [], isinstance(self.optimizer, DECOUPLED)
        for group in self.optimizer.param_groups:
            decay = 0.0 if apart or group.get("decoupled_weight_decay") else group.get("weight_decay", 0.0)
            for p in group["params"]:
                g = torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
                g = g if scale is None else g / scale
                g = -g if group.get("maximize") else g
                result.append(_real(g.add(p, alpha=decay) if decay and p.grad is not None else g))
        return result

    def _rates(self, size: int) -> Tensor:
        """(k,): the rate of each tensor's group, the first group's for buffers."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups for _ in group["params"]]
        rates += [groups[0]["lr"]] * (size - len(rates))
        device = self.tensors()[0].device
        return torch.stack([torch.as_tensor(r, dtype=torch.float32, device=device) for r in rates])


def _noting(closure: Callable[[], Any], note: Callable[[], None]) -> Callable[[], Any]:
    """The closure, with a note taken after its first call."""
    left = [note]

    def noting() -> Any:
        loss = closure()
        if left:
            with torch.no_grad():
                left.pop()()
        return loss

    return noting


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor


def _norms(tensors: list[Tensor], order: int) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors, order))


def _shapes(tensors: Iterable[Tensor]) -> list[torch.Size]:
    return [t.shape for t in tensors]
