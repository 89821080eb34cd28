"""One cycle whose peak is found by its own ramp: the driver of `rates.ramp` for any loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, isfinite
from statistics import median
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from superconv.optim import skips
from superconv.rates.collapse import tells_apart
from superconv.rates.curve import Curve
from superconv.rates.kept import Kept, keep, parameters_of
from superconv.rates.laws import RampLaw
from superconv.rates.ramp import Decision, Event, Plan, Slot, Watch, advance, begin, from_dict, momentum_share, to_dict
from superconv.rates.traits import HEAVY_BALL

LOOK_EVERY = 4  # updates between two looks at the outputs, during the ramp
PLAIN = (0.8, 0.99)  # a momentum between these is a usual one, which the cycle moves


class WatchedOneCycle(LRScheduler):
    """One cycle without a rate to choose: its ramp is the range test, and the run goes on from there."""

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        updates: int,
        *,
        model: nn.Module,
        probe: Callable[[], Tensor] | None = None,
        momentum: tuple[float, float] | Literal["auto"] | None = "auto",
        snapshots: Literal["device", "cpu"] = "device",
        law: RampLaw | None = None,
    ) -> None:
        self._optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        self._model, self._probe, self._law = model, probe, law or RampLaw()
        self._updates, self._momentum = updates, momentum
        self._device = "cpu" if snapshots == "cpu" else None
        self._heavy_ball = all(isinstance(o, HEAVY_BALL) for o in self._optimizers)
        self._plan: Plan | None = None
        self._watch = Watch()
        self._slots: dict[Slot, Kept] = {}
        self._stepped: set[int] = set()
        self._losses: list[Tensor | float] = []
        self._outputs: Any = None
        self._rows: list[tuple[float, float, float | None]] = []
        self.events: list[Event] = []
        self._probes = 0
        self._late: Tensor | float | None = None
        groups = [group for o in self._optimizers for group in o.param_groups]
        self._named = max(float(group["lr"]) for group in groups)
        self._ratios = [float(group["lr"]) / self._named if self._named else 1.0 for group in groups]
        for number, each in enumerate(self._optimizers):
            each.register_step_pre_hook(self._before)
            each.register_step_post_hook(lambda o, *_, number=number: self._after(number, o))
        self._looking = model.register_forward_hook(self._see)
        super().__init__(self._optimizers[0])

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
        return self._watch.made - self._watch.line + self._probes / 3

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

    def step(self, loss: Tensor | float | None = None, *, epoch: int | None = None) -> None:  # type: ignore[override]
        """Go to the next update, if one happened since the last call."""
        if loss is not None:
            self.observe(loss)
        if len(self._stepped) < len(self._optimizers):
            self._show()
            return
        self._stepped.clear()
        self.last_epoch = self._watch.made + 1
        if not self._losses:
            raise ValueError(
                "the ramp needs the loss of every update: call schedule.step(loss), or observe(loss) before"
            )
        seen = sum(self._losses) / len(self._losses)
        self._losses = []
        ramp = self._watch.phase == "ramp"
        if ramp:
            value = self._shared(seen)
        else:  # read one update late, so that a GPU does not wait
            value = self._shared(self._late if self._late is not None else seen)
            self._late = seen
        probe = self._probed() if ramp and self._plan is not None and self._plan.by_probe else None
        if ramp:
            self._rows.append((self._watch.lr, value, probe))
        self._do(advance(self._planned, self._watch, value, probe, collapsed=self._collapsed()))
        self._apply()

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each group of the first optimizer for the next update."""
        return [self._watch.lr * ratio for ratio in self._ratios[: len(self._optimizers[0].param_groups)]]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, which `torch.load` reads with `weights_only`."""
        slots = {
            name: {"parameters": kept.parameters, "buffers": kept.buffers, "states": kept.states}
            for name, kept in self._slots.items()
        }
        plan = None if self._plan is None else {"start_lr": self._plan.start_lr, "top_lr": self._plan.top_lr}
        return {
            "watch": to_dict(self._watch),
            "plan": plan,
            "slots": slots,
            "rows": self._rows,
            "events": [(event.update, event.what, event.reason) for event in self.events],
            "probes": self._probes,
            "late": None if self._late is None else float(self._late),
            "named": self._named,
            "ratios": self._ratios,
            "last_epoch": self.last_epoch,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._watch = from_dict(state_dict["watch"])
        self._named, self._ratios = state_dict["named"], list(state_dict["ratios"])
        if state_dict["plan"] is not None:
            self._plan = self._planned_from(**state_dict["plan"])
        self._slots = {name: Kept(**kept) for name, kept in state_dict["slots"].items()}
        self._rows = [tuple(row) for row in state_dict["rows"]]
        self.events = [Event(update=u, what=w, reason=r) for u, w, r in state_dict["events"]]
        self._probes, self._late = state_dict["probes"], state_dict["late"]
        self.last_epoch = state_dict["last_epoch"]
        self._apply()

    # ---- inside

    @property
    def _planned(self) -> Plan:
        assert self._plan is not None, "the first update has been seen"
        return self._plan

    def _planned_from(self, start_lr: float, top_lr: float) -> Plan:
        return Plan(
            updates=self._updates,
            start_lr=start_lr,
            top_lr=top_lr,
            fallback_lr=self._named,
            heavy_ball=self._heavy_ball,
            probed=self._probe is not None,
            batch_norm=any(isinstance(module, _BatchNorm) for module in self._model.modules()),
            law=self._law,
        )

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        """Before the very first update: where the ramp begins, by the size of an update at rate 1."""
        if self._plan is not None or optimizer is not self._optimizers[0]:
            return
        weights, updates = [], []
        for owner, parameter in parameters_of(self._optimizers):
            if parameter.ndim > 1 and parameter.grad is not None:
                weights.append(float(parameter.detach().float().pow(2).mean().sqrt()))
                scale = float(getattr(owner, "grad_scale", None) or 1.0)
                gradient = float(parameter.grad.detach().float().pow(2).mean().sqrt()) / scale
                updates.append(gradient if self._heavy_ball else 1.0)
        size = median(w for w in weights if w) if any(weights) else 1.0
        unit = median(u for u in updates if u) if any(updates) else 1.0
        size, unit = self._shared(size), self._shared(unit)
        start = self._law.start_heavy if self._heavy_ball else self._law.start
        self._plan = self._planned_from(start_lr=start * size / unit, top_lr=self._law.top * size / unit)
        first = self._probed() if self._plan.by_probe else None
        self._watch = begin(self._plan, probe=first if first is not None and isfinite(first) else None)
        self._slots = {"start": keep(self._optimizers, self._model, device=self._device)}
        self._apply()

    def _after(self, number: int, optimizer: Optimizer) -> None:
        if not skips(optimizer):
            self._stepped.add(number)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._outputs = output

    def _collapsed(self) -> bool:
        """Whether the outputs of the last batch are all alike; looked at now and then."""
        watch, outputs = self._watch, self._outputs
        self._outputs = None
        every = LOOK_EVERY if watch.phase == "ramp" else max(LOOK_EVERY, self._updates // 12)
        if outputs is None or not watch.made or watch.made % every or (watch.phase == "ramp" and not watch.learned):
            return False
        return not tells_apart(outputs)

    def _do(self, decision: Decision) -> None:
        before, self._watch = self._watch, decision.watch
        if decision.event:
            self.events.append(decision.event)
        if decision.action == "keep":
            if "best" in self._slots:
                self._slots["safe"] = self._slots["best"]
            self._slots["best"] = keep(self._optimizers, self._model, device=self._device)
        elif decision.action == "back":
            kept = self._slots.get(decision.slot) or self._slots.get("best") or self._slots["start"]
            kept.restore(self._optimizers, self._model)
            if before.phase == "ramp":
                self._slots = {"start": self._slots["start"], "safe": kept, "best": kept}
            self._late = None

    def _apply(self) -> None:
        groups = [group for o in self._optimizers for group in o.param_groups]
        share = momentum_share(self._plan, self._watch) if self._plan else 0.5
        for ratio, group in zip(self._ratios, groups, strict=False):
            rate = self._watch.lr * ratio
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            self._move(group, share)
        self._show()

    def _move(self, group: dict[str, Any], share: float) -> None:
        if self._momentum is None:
            return
        own = group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0]
        if self._momentum == "auto" and not PLAIN[0] <= own <= PLAIN[1]:
            return
        high, low = (0.95, 0.85) if self._momentum == "auto" else self._momentum
        value = high - (high - low) * share
        if "momentum" in group:
            group["momentum"] = value
        elif "betas" in group:
            group["betas"] = (value, *group["betas"][1:])

    def _show(self) -> None:
        own = self._optimizers[0].param_groups
        self._last_lr = [g["lr"].clone() if isinstance(g["lr"], Tensor) else g["lr"] for g in own]

    def _shared(self, value: Tensor | float) -> float:
        """The mean over all processes, so that all decide alike."""
        number = float(value)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return number
        tensor = torch.tensor(number, device=value.device if isinstance(value, Tensor) else None)
        dist.all_reduce(tensor)
        return float(tensor) / dist.get_world_size()

    def _probed(self) -> float:
        """The probe's loss, without a trace: no gradient; generators, buffers and modes come back."""
        assert self._probe is not None
        self._probes += 1
        with _untouched(self._model), torch.no_grad():
            try:
                return self._shared(self._probe())
            except (ArithmeticError, ValueError):  # a loss that refuses outputs that are not finite
                return inf
            finally:
                self._outputs = None


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put back generators, buffers and the modes of all modules after the block."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(1234)  # the same dropout each time
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for module, training in modes:
                module.training = training
