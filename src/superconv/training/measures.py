"""Losses and metrics of a batch, weighted by what they count: means over uneven parts cannot be averaged."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superconv import nested
from superconv.errors import UserError

Loss = Callable[..., Any]
"""(output, target) → mean loss, (sum, count), or a tensor with the loss of each sample or element."""
Metric = Callable[[Any, Any], Any]
"""(output, target) → as a loss."""
IGNORED = -100  # class label that torch's cross-entropy leaves out


class Measured(NamedTuple):
    """A mean over a batch, and how much it counts."""

    mean: Tensor
    """Finite where nothing counts, with a gradient of zero."""
    share: Tensor | None = None
    """Count per sample of the batch; `None` stands for 1."""

    @property
    def weighted(self) -> Tensor:
        """The mean times its share, so that parts can be added up."""
        return self.mean if self.share is None else self.mean * self.share


def logits_of(output: Any) -> Tensor:
    """The tensor that classes are read from: the output itself, its `logits`, or its first tensor with dimensions.

    Raises:
        UserError: There is none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    found = next((tensor for tensor in nested.tensors(output) if tensor.ndim), None)
    if found is None:
        raise UserError(f"the model's output ({type(output).__name__}) holds no tensor to read classes from")
    return found


def own_loss(output: Any) -> Tensor | None:
    """The loss that a model has computed itself, as those of transformers do when they are given the labels."""
    if isinstance(output, Tensor):
        return None
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) else None


def accuracy(output: Any, target: Tensor) -> Tensor:
    """Share of targets at which the largest logit lies; a tensor without dimensions.

    Args:
        output: Logits (b, k); (b, k, …) or (b, …, k) for targets (b, …); or a structure, see `logits_of`.
        target: Class labels (b,) or (b, …); what is -100 can never be met.

    Raises:
        UserError: The targets are no class labels of such logits.
    """
    return _correct(logits_of(output), target).mean(dtype=torch.float32)


def cross_entropy_options(loss: Loss) -> Mapping[str, Any] | None:
    """The arguments of a loss that is torch's cross-entropy, averaged over what counts; `None` for any other."""
    options: Mapping[str, Any] | None = None
    if loss is F.cross_entropy:
        options = {}
    elif isinstance(loss, partial) and loss.func is F.cross_entropy and not loss.args:
        options = loss.keywords
    elif type(loss) is nn.CrossEntropyLoss:
        names = ("weight", "ignore_index", "label_smoothing", "reduction")
        options = {name: getattr(loss, name) for name in names}
    return None if options is None or options.get("reduction", "mean") != "mean" else options


def averages_evenly(loss: Loss) -> bool:
    """Whether a loss is known to be right when means over equal parts are averaged."""
    function = loss.func if isinstance(loss, partial) else loss
    module = getattr(function, "__module__", None) or type(function).__module__
    return module in ("torch.nn.functional", "torch.nn.modules.loss", "torch._C._nn") and "nll" not in str(function)


def compute(loss: Loss, output: Any, target: Any, *, all_count: bool = False, **options: Any) -> Any:
    """What a loss says of a batch: `Measured` where the product knows what it counts, else as it came.

    Torch's cross-entropy takes `logits_of` an output; without arguments of its own, the loss that the model has
    computed itself counts before it.

    Args:
        loss: Loss of a task.
        output: Output of the model.
        target: Target.
        all_count: Whether every target is known to count alike, so that nothing need be counted.
        options: Further arguments of the loss.

    Raises:
        UserError: Label smoothing is asked of a loss that the model computes itself.
    """
    known = cross_entropy_options(loss)
    if known is None:
        return loss(output, target, **options)
    if not known and (computed := own_loss(output)) is not None:
        if options:
            raise UserError("the model computes its loss itself, which takes no label smoothing: leave it out")
        return computed
    logits, known = logits_of(output), dict(known)
    if known.get("weight") is not None:  # whose precision the plan decides, not the user
        known["weight"] = known["weight"].to(torch.promote_types(logits.dtype, torch.float32))
    if all_count or not isinstance(target, Tensor) or target.is_floating_point():
        return F.cross_entropy(logits, target, **{**known, **options})
    return _cross_entropy(logits, target, **{**known, **options})


def measured(value: Any, samples: int, *, name: str = "loss") -> Measured:
    """What a loss or metric returned, as a mean and its share.

    Raises:
        UserError: It is neither a mean, nor (sum, count), nor values of samples or elements.
    """
    if isinstance(value, Measured):
        return value
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return Measured(value.reshape(()))
        value = value.sum(), value.numel()
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], Tensor):
        total, count = value
        count = torch.as_tensor(count, device=total.device, dtype=torch.float32)
        if total.numel() == count.numel() == 1:
            total, count = total.reshape(()), count.reshape(())
            return Measured(total / torch.where(count > 0, count, 1.0), count / samples)
    raise UserError(
        f"a {name} returns the batch's mean as a tensor, (sum, count), or a tensor of the values of all samples, not "
        f"{type(value).__name__}"
    )


def score(metric: Metric, output: Any, target: Any, samples: int, *, all_count: bool = False) -> Measured:
    """What a metric says of a batch; accuracy leaves out targets that are -100."""
    if metric is not accuracy or all_count:
        value = metric(output, target)
        if not isinstance(value, Tensor | tuple | list):
            value = torch.as_tensor(value)
        return measured(value, samples, name="metric")
    share = (target != IGNORED).mean(dtype=torch.float32)
    return Measured(accuracy(output, target) / torch.where(share > 0, share, 1.0), share)


def _correct(logits: Tensor, target: Tensor) -> Tensor:
    """Whether each target is met."""
    given = tuple(getattr(target, "shape", ()))
    if isinstance(target, Tensor) and not target.is_floating_point() and logits.ndim == len(given) + 1 > 1:
        last = logits.shape[:-1] == given and logits.shape[-1] > 1
        second = logits.shape[:1] + logits.shape[2:] == given and logits.shape[1] > 1
        if last and second and logits.ndim > 2:
            raise UserError(
                f"accuracy cannot tell which dimension of logits {tuple(logits.shape)} counts the classes of targets "
                f"{given}: give a metric of your own"
            )
        if last or second:
            return logits.argmax(-1 if last else 1) == target
    kind = str(target.dtype).removeprefix("torch.") if isinstance(target, Tensor) else type(target).__name__
    raise UserError(
        f"accuracy (the default metric) compares class labels, whole numbers of shape (b,) for logits (b, k), and here "
        f"are {kind} targets {given} for outputs {tuple(logits.shape)}: give metric=None, or a metric of your own"
    )


def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    **rest: Any,
) -> Measured:
    """Cross-entropy and the weight of what counts; torch's own is NaN where that is nothing."""
    counts = target != ignore_index
    if weight is not None:
        counts = weight[torch.where(counts, target, 0)] * counts
    share = counts.mean(dtype=torch.float32)
    other = 1 if ignore_index == 0 else 0
    target = torch.where(share > 0, target, other)
    weight = None if weight is None else torch.where(share > 0, weight, 1.0)
    mean = F.cross_entropy(logits, target, weight=weight, ignore_index=ignore_index, **rest)
    return Measured(torch.where(share > 0, mean, 0.0), share)
