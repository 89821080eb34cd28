"""Drop-in learning-rate schedulers for any `torch.optim` optimizer, driven by `superconv.rates.schedules`.

What differs from torch's: the whole state is one integer, a schedule that has ended holds its last value, a peak is hit
on a step, a momentum of 0 stays 0 unless asked, and of Adam's betas only the first is touched.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from superconv.files import native
from superconv.rates import momentum as momentum_of
from superconv.rates import schedules
from superconv.rates.schedules import Schedule


class ScheduledLR(LRScheduler):
    """Sets rate and momentum of every parameter group to functions of the update.

    Call `step()` after every update. The state is the number of updates made, so a checkpoint may be loaded into
    optimizer and scheduler in any order, and a scheduler built with another length or peak simply applies it: then load
    the optimizer first, or its first update still has the saved rate. Do not nest it in
    torch's `SequentialLR`, which calls schedulers back to their start; use `schedules.join`.

    Args:
        optimizer: Any torch optimizer; rates that are tensors stay tensors.
        learning_rate: A schedule, or one for each group. Under a single one, groups keep the ratio of their initial
            rate to the first group's; so does a group that is added later.
        momentum: A schedule of `momentum` or the first beta, or one (or none) for each group; none leaves it alone.
        last_epoch: Index of the last update made, −1 for none (torch's name for it).

    Raises:
        ValueError: The number of schedules is not that of the groups, a group that shall have a momentum schedule has
            neither `momentum` nor `betas`, or a single schedule has a first group at rate 0, to which none has a ratio.

    >>> import torch, superconv
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler = superconv.ScheduledLR(optimizer, lambda t: 0.1 / (1 + t))
    >>> optimizer.step(); scheduler.step()
    >>> scheduler.get_last_lr()
    [0.05]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        learning_rate: Schedule | Sequence[Schedule],
        momentum: Schedule | Sequence[Schedule | None] | None = None,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not a torch optimizer")
        groups = optimizer.param_groups
        for name, given in (("learning_rate", learning_rate), ("momentum", momentum)):
            if isinstance(given, Sequence) and len(given) != len(groups):
                raise ValueError(f"{name}: {len(given)} schedules for {len(groups)} parameter groups")
        self._learning_rate, self._momentum = learning_rate, momentum
        for i, group in enumerate(groups):
            if _of(momentum, i) is not None and not momentum_of.has(group):
                raise ValueError(f"{type(optimizer).__name__} has neither momentum nor betas to schedule")
            if any(group["lr"] is other["lr"] for other in groups[:i]):  # a tensor that torch lets groups share
                group["lr"] = _copied(group["lr"])
            group["initial_lr"] = _copied(group.get("initial_lr", group["lr"]))
        initial = [float(group["initial_lr"]) for group in groups]
        if not isinstance(learning_rate, Sequence) and initial[0] == 0 and any(initial):
            raise ValueError(
                "the first parameter group has rate 0, to which others have no ratio: give a schedule for each group"
            )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of each group for the next update, `last_epoch`."""
        groups, t = self.optimizer.param_groups, max(self.last_epoch, 0)
        if isinstance(self._learning_rate, Sequence):
            rates = [float(schedule(t)) for schedule in self._learning_rate]
            return [*rates, *(rates[0] * self._ratio(group) for group in groups[len(rates) :])]
        rate = float(self._learning_rate(t))
        return [rate * self._ratio(group) for group in groups]

    def step(self, loss: object = None, *, epoch: int | None = None) -> None:  # type: ignore[override]  # torch's takes an epoch
        """Go to the next update, or to update `epoch`; a `loss` is left alone, as this schedule watches none."""
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The number of updates made, and nothing else."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the saved update and set rate and momentum of the optimizer to it."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._apply()

    def _apply(self) -> None:
        groups, t = self.optimizer.param_groups, max(self.last_epoch, 0)
        for group in groups:
            group.setdefault("initial_lr", _copied(group["lr"]))  # one that was added later
        for i, (group, rate) in enumerate(zip(groups, self.get_lr(), strict=True)):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = float(rate)
            momentum = _of(self._momentum, i)
            added = isinstance(self._momentum, Sequence) and i >= len(self._momentum)
            if momentum is None or (added and not momentum_of.of(group)):
                continue
            momentum_of.put(group, momentum(t))
        self._last_lr = [_copied(group["lr"]) for group in groups]

    def _ratio(self, group: dict[str, Any]) -> float:
        first = float(self.optimizer.param_groups[0]["initial_lr"])
        return float(group.get("initial_lr", group["lr"])) / first if first else 1.0


class CyclicalLR(ScheduledLR):
    """Cyclical learning rates (Smith, arXiv 1506.01186): `triangular`, `triangular2` or `exp_range`.

    Args:
        optimizer: Any torch optimizer; its momentum is left alone.
        base_lr: Lowest rate.
        max_lr: Highest rate.
        step_size: Updates of half a cycle.
        mode: Whether, and how, cycles shrink.
        gamma: Shrinking per update under `exp_range`.
        last_epoch: Index of the last update made, −1 for none.

    >>> import torch, superconv
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler = superconv.CyclicalLR(optimizer, base_lr=0.1, max_lr=0.5, step_size=2)
    >>> for _ in range(4):
    ...     print(round(scheduler.get_last_lr()[0], 2), end=" ")
    ...     optimizer.step(); scheduler.step()
    0.1 0.3 0.5 0.3
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float,
        max_lr: float,
        step_size: int,
        *,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        base_lr, max_lr, step_size, gamma = native(base_lr), native(max_lr), native(step_size), native(gamma)
        if mode == "exp_range":
            schedule = schedules.exp_range(base_lr, max_lr, step_size, gamma=gamma)
        elif mode in ("triangular", "triangular2"):
            schedule = getattr(schedules, mode)(base_lr, max_lr, step_size)
        else:
            raise ValueError(f"mode must be triangular, triangular2 or exp_range, not {mode!r}")
        super().__init__(optimizer, schedule, None, last_epoch)


class RangeSweep(ScheduledLR):
    """The rate of an LR range test; `superconv.RangeTest` also records, stops and puts everything back.

    Args:
        optimizer: Any torch optimizer; its momentum is left alone.
        max_lr: Rate of the last update.
        total_steps: Updates of the sweep.
        start_lr: Rate of the first; 0 needs the linear mode.
        mode: How the rate rises.
        last_epoch: Index of the last update made, −1 for none.

    >>> import torch, superconv
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler = superconv.RangeSweep(optimizer, max_lr=1.0, total_steps=5)
    >>> for _ in range(5):
    ...     print(scheduler.get_last_lr()[0], end=" ")
    ...     optimizer.step(); scheduler.step()
    0.0 0.25 0.5 0.75 1.0
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        *,
        start_lr: float = 0.0,
        mode: Literal["linear", "exponential"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        max_lr, total_steps, start_lr = native(max_lr), native(total_steps), native(start_lr)
        if mode not in ("linear", "exponential"):
            raise ValueError(f"mode must be linear or exponential, not {mode!r}")
        sweep = schedules.linear_range if mode == "linear" else schedules.exponential_range
        super().__init__(optimizer, sweep(total_steps, max_lr, start_lr=start_lr), None, last_epoch)


def _of(momentum: Schedule | Sequence[Schedule | None] | None, group: int) -> Schedule | None:
    if isinstance(momentum, Sequence):
        return momentum[group] if group < len(momentum) else momentum[0]
    return momentum


def _copied(lr: float | torch.Tensor) -> float | torch.Tensor:
    return lr.clone() if isinstance(lr, torch.Tensor) else float(lr)
