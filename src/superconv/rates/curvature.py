"""The largest eigenvalues of a loss's Hessian, and the rates at which gradient descent is stable under them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from superconv.rates.snapshot import probing

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Eigenvalues:
    """The largest eigenvalues (algebraically) that Lanczos found, with bounds on their errors.

    Attributes:
        values: float64 of shape (k,), descending.
        residuals: float64 of shape (k,): ‖Hv − λv‖ of each; an eigenvalue of H lies within it.
        converged: Whether every residual is below the tolerance times the largest |λ|. Where the Hessian is not finite,
            nothing is: values and residuals are then NaN.
        products: Hessian-vector products that it took, each about two backward passes.
    """

    values: Tensor
    residuals: Tensor
    converged: bool
    products: int


def top_eigenvalues(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    k: int = 1,
    max_products: int = 40,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Eigenvalues:
    """The top eigenvalues of the Hessian of ``loss()`` with respect to a model's trainable parameters.

    The loss should be that of one fixed batch. Batch norm and dropout act in the mode that the model is in; buffers,
    flags and random generators are put back. The gradient's graph is built once and differentiated for every product.

    Args:
        model: Whose parameters.
        loss: Computes the loss, a tensor without dimensions.
        k: Number of eigenvalues.
        max_products: Hessian-vector products at most; as many copies of the parameters are kept.
        tolerance: Relative residual at which to stop; 1e-3 is enough for a rate.
        seed: Of the starting vector.

    Raises:
        ValueError: Nothing is trainable, or the loss does not depend on it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter, so its loss has no Hessian")
    # Of torch's ways to compute attention only the plain one can be differentiated twice.
    with probing(model), _dense(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value = loss()
        if not value.requires_grad:
            raise ValueError("the loss does not depend on the model's trainable parameters")
        product = hessian_vector_product(value, parameters)
        size = sum(map(_numbers, parameters))
        return lanczos(
            product,
            size,
            k=k,
            max_products=max_products,
            tolerance=tolerance,
            seed=seed,
            like=torch.view_as_real(like) if (like := parameters[0].detach()).is_complex() else like,
        )


def hessian_vector_product(loss: Tensor, parameters: Sequence[Tensor]) -> Product:
    """The function v → H v of a loss's Hessian, on vectors of all parameters' elements in a row, of shape (n,).

    A complex element counts as two real ones.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    curved = [(g, i) for i, g in enumerate(gradients) if g.requires_grad]
    sizes = [_numbers(p) for p in parameters]

    def product(vector: Tensor) -> Tensor:
        parts = torch.split(vector, sizes)
        if not curved:  # a loss linear in its parameters
            return torch.zeros_like(vector)
        result = torch.autograd.grad(
            [g for g, _ in curved],
            parameters,
            [_like(parts[i], g) for g, i in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        flat = [(torch.view_as_real(part) if part.is_complex() else part).reshape(-1) for part in result]
        return torch.cat([part.to(vector.dtype) for part in flat])

    return product


def _numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _like(part: Tensor, other: Tensor) -> Tensor:
    """A part of a vector in the shape and type of a parameter."""
    if other.is_complex():
        part = torch.view_as_complex(part.view(*other.shape, 2).contiguous())
    return part.view_as(other).to(other.dtype)


@contextmanager
def _dense(model: nn.Module) -> Iterator[None]:
    """Let embeddings give dense gradients, since sparse ones cannot be differentiated."""
    sparse = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    try:
        for module in sparse:
            module.sparse = False
        yield
    finally:
        for module in sparse:
            module.sparse = True


def lanczos(
    product: Product, size: int, *, k: int, max_products: int, tolerance: float, seed: int, like: Tensor
) -> Eigenvalues:
    """Top eigenvalues of a symmetric operator, by Lanczos' method with full reorthogonalisation.

    Args:
        product: v → A v on vectors of shape (size,).
        size: Of the vectors.
        k: Number of eigenvalues; fewer come back where the space that the start reaches has fewer dimensions.
        max_products: Products at most.
        tolerance: Relative residual at which to stop.
        seed: Of the starting vector.
        like: A tensor with the vectors' type and device.
    """
    if not 1 <= k <= min(size, max_products):
        raise ValueError(f"k must be from 1 to {min(size, max_products)} (size and max_products), not {k}")
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, generator=generator).to(like)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = product(basis[-1]).detach()
        diagonal.append(float(image @ basis[-1]))
        for _ in range(2):  # twice is enough (Parlett)
            for earlier in basis:
                image = image - (image @ earlier) * earlier
        rest = float(image.norm())
        if not isfinite(rest):
            nothing = torch.full((k,), torch.nan, dtype=torch.float64)
            return Eigenvalues(nothing, nothing, converged=False, products=len(diagonal))
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            matrix += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(matrix)
        top = values.flip(0)[:k]
        residuals = rest * vectors[-1].abs().flip(0)[:k]
        scale = float(values.abs().max())
        converged = len(top) == k and bool((residuals <= tolerance * scale).all())
        exhausted = rest <= 1e-12 * scale or len(basis) == size
        if converged or exhausted or len(diagonal) == max_products:
            return Eigenvalues(top, residuals, converged or exhausted, len(diagonal))
        beside.append(rest)
        basis.append(image / rest)


def stable_lr(eigenvalue: float, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The largest rate at which gradient descent does not diverge along a direction of curvature λ.

    2/λ without momentum, 2(1+m)/λ for heavy-ball momentum m (Polyak 1964), 2(1+m)/((1+2m)λ) for Nesterov's; infinite
    where the curvature is not positive.

    Args:
        eigenvalue: λ, the largest curvature.
        momentum: m, in [0, 1).
        nesterov: Whether the momentum is Nesterov's.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), not {momentum}")
    if eigenvalue <= 0:
        return float("inf")
    return 2 * (1 + momentum) / ((1 + 2 * momentum if nesterov else 1) * eigenvalue)
