"""The 1cycle policy for any loop: to a peak that is given, or to one that the run's own ramp finds."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Literal

from torch import Tensor, compiler, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from superconv.files import native
from superconv.optim import skips
from superconv.rates import momentum as momentum_of
from superconv.rates import schedules
from superconv.rates.curve import Curve
from superconv.rates.group_rates import GroupRates
from superconv.rates.kept import KeptNetworks
from superconv.rates.laws import RampLaw
from superconv.rates.lr_scheduler import ScheduledLR
from superconv.rates.observer import Observer
from superconv.rates.ramp import advance, begin, momentum_share
from superconv.rates.schedules import Anneal, Schedule
from superconv.rates.traits import HEAVY_BALL
from superconv.rates.watch import (
    KEPT,
    KEPT_LATER,
    Decision,
    Event,
    Plan,
    Watch,
    from_dict,
    looks_every,
    to_dict,
)


class OneCycle(ScheduledLR):
    """The 1cycle policy: the rate rises to a large peak and falls far below the start; momentum goes against it.

    With a number, the peak is that (`schedules.one_cycle`, `schedules.cyclical_momentum`). With `max_lr="auto"` there
    is no rate to choose and no search: the run's own ramp is the range test. The rate rises quickly from where an
    update is far too small to harm, until the loss says that more does not pay; the network goes back to before it saw
    rates above the peak that was read, and the rate rises slowly to that, under watch, and falls. Call `step(loss)`
    after each update then.
    The rates that the optimizer was made with count only as ratios between groups, and as the fallback where the
    losses tell nothing.

    Args:
        optimizer: Any torch optimizer.
        max_lr: Rate of the peak; a list for one of each group; or `"auto"`.
        total_steps: Updates of the whole run, those that the ramp loses included.
        base_lr: Rate of update 0; max_lr / 10 if not given. Not together with a list.
        final_lr: Rate of the last update; base_lr / 100 if not given. Not together with a list.
        warmup: Fraction of the run that rises.
        annihilation: Fraction of the run, at its end, that falls below base_lr.
        anneal: Straight or half-cosine phases.
        momentum: (at the feet, at the peak); `auto` cycles 0.95 → 0.85 → 0.95 (arXiv 1803.09820) where the momentum is
            a usual one, 0.8 to 0.99, and leaves others, such as a GAN's 0.5, alone; `None` leaves all as it is.
        model: Network that is trained; needed for `"auto"`, whose ramp goes back to earlier weights and buffers.
        probe: For `"auto"`: a closure that computes the loss of a batch that is set aside, always the same. Adaptive
            optimizers are watched by it, one forward pass for each update of the ramp; without it their peak is
            chosen with caution. It is called without gradient, and leaves no trace in generators, buffers and modes.
        snapshots: Where `"auto"` keeps the networks that it may go back to, three at most: on their device or the CPU.
        law: Constants of `"auto"`; the usual ones, if not given.
        last_epoch: Index of the last update made, −1 for none.

    Attributes:
        max_lr: The peak; `None` until the ramp has found it.
        phase: `ramp`, `rise` or `fall`.
        events: Decisions of the ramp, each with the update and its reason in one sentence.
        curve: The ramp as a `Curve`, for `plot_curve` and `judge`.
        lost: Updates that are no part of the present weights, forward passes of the probe as thirds.

    Raises:
        ValueError: The run is too short for its phases, a value makes no sense, or `"auto"` has no model.

    >>> import torch, superconv
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> scheduler = superconv.OneCycle(optimizer, max_lr=0.5, total_steps=100)
    >>> rates = []
    >>> for _ in range(100):
    ...     rates.append(scheduler.get_last_lr()[0])
    ...     optimizer.zero_grad(); model(torch.ones(8, 4)).square().mean().backward(); optimizer.step()
    ...     scheduler.step()
    >>> rates[0], max(rates), rates[-1]
    (0.05, 0.5, 0.0005)
    """

    def __new__(cls, optimizer: object = None, max_lr: object = None, *args: Any, **options: Any) -> "OneCycle":
        """The class that finds its peak, where that is asked for; copies and pickles give no arguments."""
        return object.__new__(_WatchedOneCycle if isinstance(max_lr, str) and max_lr == "auto" else cls)

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float] | Literal["auto"],
        total_steps: int,
        *,
        base_lr: float | None = None,
        final_lr: float | None = None,
        warmup: float = 0.45,
        annihilation: float = 0.1,
        anneal: Anneal = "linear",
        momentum: tuple[float, float] | Literal["auto"] | None = "auto",
        model: nn.Module | None = None,
        probe: Callable[[], Tensor] | None = None,
        snapshots: Literal["device", "cpu"] = "device",
        law: RampLaw | None = None,
        last_epoch: int = -1,
    ) -> None:
        max_lr, base_lr, final_lr = native(max_lr), native(base_lr), native(final_lr)
        total_steps, warmup, annihilation = native(total_steps), native(warmup), native(annihilation)
        self._ends, self._warned = total_steps, False
        if isinstance(max_lr, str):
            raise ValueError(f"max_lr is a rate, a list of rates, or 'auto', not {max_lr!r}")
        if not (model is None and probe is None and law is None):
            raise ValueError("model, probe and law belong to max_lr='auto': leave them out")
        given: float | Sequence[float] = max_lr
        self._peak = max(max_lr) if isinstance(max_lr, Sequence) else max_lr
        if isinstance(max_lr, Sequence) and not (base_lr is None and final_lr is None):
            raise ValueError("with a max_lr for each group, base_lr and final_lr follow from it: leave them out")

        def cycle(peak: float) -> Schedule:
            return schedules.one_cycle(
                total_steps,
                peak,
                base_lr=base_lr,
                final_lr=final_lr,
                warmup=warmup,
                annihilation=annihilation,
                anneal=anneal,
            )

        moving: list[Schedule | None] | Schedule | None = None
        if momentum is not None:
            high, low = momentum_of.USUAL_CYCLE if momentum == "auto" else momentum
            against = schedules.cyclical_momentum(
                total_steps,
                max_momentum=high,
                min_momentum=low,
                warmup=warmup,
                annihilation=annihilation,
                anneal=anneal,
            )
            groups = optimizer.param_groups
            moving = [against if momentum_of.is_usual(g) else None for g in groups] if momentum == "auto" else against
        self._top_at = round(total_steps * warmup)
        rates = [cycle(peak) for peak in given] if isinstance(given, Sequence) else cycle(given)
        super().__init__(optimizer, rates, moving, last_epoch)

    @property
    def max_lr(self) -> float | None:
        """The peak: the largest, where each group has its own."""
        return float(self._peak)

    @property
    def phase(self) -> str:
        """`rise` or `fall`."""
        return "rise" if self.last_epoch < self._top_at else "fall"

    def step(self, loss: object = None, *, epoch: int | None = None) -> None:  # type: ignore[override]  # see above
        """Go to the next update, or to update `epoch`; said once, the last rate holds where the run is longer."""
        super().step(loss, epoch=epoch)
        self._say_when_over()

    def _say_when_over(self) -> None:
        if self.last_epoch > self._ends and not self._warned:
            self._warned = True
            said = f"OneCycle was made for {self._ends} updates and is stepped for more: its last rate holds"
            warnings.warn(said, stacklevel=3)


class _WatchedOneCycle(OneCycle):
    """`OneCycle(max_lr="auto")`: drives the policy of `rates.ramp` with the losses that a loop hands over."""

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        max_lr: Literal["auto"],
        total_steps: int,
        *,
        warmup: float = 0.45,
        annihilation: float = 0.1,
        momentum: tuple[float, float] | Literal["auto"] | None = "auto",
        model: nn.Module | None = None,
        probe: Callable[[], Tensor] | None = None,
        snapshots: Literal["device", "cpu"] = "device",
        law: RampLaw | None = None,
        **others: Any,
    ) -> None:
        if model is None:
            raise ValueError("max_lr='auto' goes back to earlier weights and buffers: give model=, the network")
        if others:
            raise ValueError(f"with max_lr='auto' there is no choice of {', '.join(others)}: leave that out")
        if not total_steps >= 20 or total_steps != int(total_steps):
            raise ValueError(f"a ramp and a cycle take 20 whole updates or more, not {total_steps}: give max_lr a rate")
        self._optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        self._law = replace(law or RampLaw(), warm=native(warmup), annihilation=native(annihilation))
        self._model, self._seen = model, Observer(model, probe)
        self._ends, self._warned = int(total_steps), False
        self._kept = KeptNetworks(self._optimizers, model, device="cpu" if snapshots == "cpu" else None)
        self._heavy_ball = all(isinstance(o, HEAVY_BALL) for o in self._optimizers)
        self.plan: Plan | None = None
        self._watch = Watch()
        self._stepped: set[int] = set()
        self._losses: list[Tensor | float] = []
        self._rows: list[tuple[float, float, float | None]] = []
        self.events: list[Event] = []
        self._late: Tensor | float | None = None
        self._rates = GroupRates(self._optimizers, momentum)
        self._before_first = [each.register_step_pre_hook(_eager(self._before)) for each in self._optimizers]
        for number, each in enumerate(self._optimizers):
            each.register_step_post_hook(_eager(lambda o, *_, number=number: self._after(number, o)))
        LRScheduler.__init__(self, self._optimizers[0])

    # ---- what a user reads

    @property
    def max_lr(self) -> float | None:
        """The peak; `None` until it is found."""
        return self._watch.peak

    @property
    def phase(self) -> str:
        """`ramp`, `rise` or `fall`."""
        return self._watch.phase

    @property
    def lost(self) -> float:
        """Updates that are not in the history of the present weights, forward passes of the probe as thirds."""
        return self._watch.made - self._watch.line + self._seen.probes / 3

    @property
    def curve(self) -> Curve:
        """The ramp as a curve: training losses, and those of the probe as validation losses."""
        lr, losses, probes = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        none = (None,) * len(lr)
        return Curve(
            lr=tuple(lr),
            step=tuple(range(len(lr))),
            seed=(0,) * len(lr),
            train_loss=tuple(losses),
            train_metric=none,
            validation_loss=tuple(probes),
            validation_metric=none,
            metric="loss",
            higher_is_better=False,
        )

    # ---- what a loop calls

    def observe(self, loss: Tensor | float, *, total: Literal["sum", "mean"] = "mean") -> None:
        """Take in the loss of a micro-batch: of several before an update the mean counts, or the sum."""
        value = loss.detach() if isinstance(loss, Tensor) else float(loss)
        if total == "sum" and self._losses:
            self._losses = [self._losses[0] + value]
        else:
            self._losses.append(value)

    def step(self, loss: Tensor | float | None = None, *, epoch: int | None = None) -> None:  # type: ignore[override]  # a loss
        """Go to the next update, if one happened since the last call."""
        if loss is not None:
            self.observe(loss)
        if len(self._stepped) < len(self._optimizers):
            self._show()
            return
        self._stepped.clear()
        while self._before_first:
            self._before_first.pop().remove()
        self.last_epoch = self._watch.made + 1
        if not self._losses:
            raise ValueError("the ramp needs the loss of every update: call scheduler.step(loss), or observe(loss)")
        seen = sum(self._losses) / len(self._losses)
        self._losses = []
        ramp = self._watch.phase == "ramp"
        if ramp:
            value = self._seen.shared(seen)
        else:  # read one update late, so that a GPU does not wait
            value = self._seen.shared(self._late if self._late is not None else seen)
            self._late = seen
        probe = self._seen.probe_loss() if ramp and self.plan is not None and self.plan.by_probe else None
        if ramp:
            self._rows.append((self._watch.lr, value, probe))
        self._do(advance(self._planned, self._watch, value, probe, alike=self._alike()))
        self._apply()
        self._say_when_over()

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each group of the first optimizer for the next update."""
        return [self._watch.lr * ratio for ratio in self._rates.ratios[: len(self._optimizers[0].param_groups)]]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, which `torch.load` reads with `weights_only`."""
        if self._kept.sharded and self._watch.phase != "fall":
            warnings.warn(
                "the networks that a watched ramp may go back to are sharded (FSDP), and are not saved with it: a run "
                "that is resumed goes back no further than to where it was resumed",
                stacklevel=2,
            )
        plan = None if self.plan is None else {"start_lr": self.plan.start_lr, "top_lr": self.plan.top_lr}
        return {
            "watch": to_dict(self._watch),
            "plan": plan,
            "kept": self._kept.state(),
            "rows": self._rows,
            "events": [(event.update, event.what, event.reason) for event in self.events],
            "probes": self._seen.probes,
            "late": None if self._late is None else float(self._late),
            "named": self._rates.named,
            "momentum": self._rates.momentum,
            "ratios": self._rates.ratios,
            "last_epoch": self.last_epoch,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._watch = from_dict(state_dict["watch"])
        self._rates.named, self._rates.momentum = state_dict["named"], state_dict["momentum"]
        self._rates.ratios = list(state_dict["ratios"])
        if state_dict["plan"] is not None:
            self.plan = self._planned_from(**state_dict["plan"])
        if self.plan is not None:
            self._kept.load(state_dict["kept"])
            if not state_dict["kept"]:
                self._watch = replace(self._watch, kept=((self._watch.line, self._watch.lr),))
        self._rows = [tuple(row) for row in state_dict["rows"]]
        self.events = [Event(update=u, what=w, reason=r) for u, w, r in state_dict["events"]]
        self._seen.probes, self._late = state_dict["probes"], state_dict["late"]
        self.last_epoch = state_dict["last_epoch"]
        self._apply()

    # ---- inside

    @property
    def _planned(self) -> Plan:
        assert self.plan is not None, "the first update has been seen"
        return self.plan

    def _planned_from(self, start_lr: float, top_lr: float) -> Plan:
        return Plan(
            updates=self._ends,
            start_lr=start_lr,
            top_lr=top_lr,
            fallback_lr=self._rates.named,
            heavy_ball=self._heavy_ball,
            momentum=self._rates.momentum,
            probed=self._seen.has_probe,
            batch_norm=any(isinstance(module, _BatchNorm) for module in self._model.modules()),
            law=self._law,
        )

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        """Before the very first update: where the ramp begins, by the size of an update at rate 1."""
        if self.plan is not None or optimizer is not self._optimizers[0]:
            return
        size, unit = self._seen.sizes(self._optimizers, heavy_ball=self._heavy_ball)
        lasting = self._rates.momentum if self._heavy_ball else 0.0  # which makes several updates of one
        start = self._law.start * max(0.1, 1 - lasting)
        self.plan = self._planned_from(start_lr=start * size / unit, top_lr=self._law.top * size / unit)
        first = self._seen.probe_loss() if self.plan.by_probe else None
        self._watch = begin(self.plan, probe=first if first is not None and isfinite(first) else None)
        self._kept.keep(most=KEPT)
        self._apply()

    def _after(self, number: int, optimizer: Optimizer) -> None:
        if not skips(optimizer):
            self._stepped.add(number)

    def _alike(self) -> float | None:
        """Share of a batch that has the same output; looked at now and then."""
        return self._seen.alike(look=(self._watch.made + 1) % looks_every(self._planned, self._watch) == 0)

    def _do(self, decision: Decision) -> None:
        self._watch = decision.watch
        if decision.event:
            self.events.append(decision.event)
        if decision.action == "keep":
            self._kept.keep(most=KEPT if decision.watch.phase == "ramp" else KEPT_LATER)
        elif decision.action == "back":
            self._kept.back(decision.place)
            self._late = None

    def _apply(self) -> None:
        self._rates.put(self._watch.lr, momentum_share(self.plan, self._watch) if self.plan else 0.5)
        self._show()

    def _show(self) -> None:
        self._last_lr = self._rates.shown()


def _eager(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that is left alone where an optimizer's step is compiled."""
    left_alone: Callable[..., None] = compiler.disable(hook)  # type: ignore[no-untyped-call]  # torch's own
    return left_alone
