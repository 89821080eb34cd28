"""The learning rate range test around anybody's own training loop, and without a trace.

Smith & Topin, arXiv 1708.07120, section 4.1; first in Smith, arXiv 1506.01186, section 3.3: train while the rate rises
from 0 to a very large value, and look up to where the network still learns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from math import isfinite
from statistics import mean
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from superconv.optim import skips
from superconv.rates.curve import Curve
from superconv.rates.modes import evaluating
from superconv.rates.recalibration import recalibrate
from superconv.rates.schedules import exponential_range, linear_range
from superconv.rates.snapshot import Snapshot, probing
from superconv.rates.stopping import WINDOW, Breakdown

T = TypeVar("T")
Number = float | Tensor
Evaluation = Number | tuple[Number | None, Number | None] | Mapping[str, Number]

IDLE_BATCHES = 512  # so many without an update are no gradient accumulation but a forgotten optimizer.step()


class RangeTest:
    """Raise the learning rate while a loop trains, then put everything back.

    **What is put back**, at the end of the block however it ends: all that `Snapshot` lists, torch's schedulers of the
    optimizers among them; averages of weights and metrics if they are given as `extra`. A `CurvatureEstimate` stays as
    it is: attach it within the block, or after.

    **What counts as an update**: every optimizer has stepped since the last one. A step that a gradient scaler skipped
    is none, be it skipped by the scaler or within a fused optimizer. Call `record` after the step; of several calls
    without an update in between (gradient accumulation), the losses and metrics are averaged.

    **Rates**: the first group of the first optimizer follows the sweep; every other group, of every optimizer, keeps
    the ratio of its rate to that one's. A group at rate 0 stays there. If the first group's own rate is 0, as in a
    warm-up, the ratios are taken from `initial_lr` where schedulers left one in a group. The rate is set right before
    every step, so that it holds even if somebody else's scheduler changes it.

    **Stopping**: a training loss that is not finite always ends the sweep. With `stop`, so do a blow-up of the training
    loss and a collapse of the metric (`Breakdown` says when; the metric of the evaluations, if there are any).

    **Several processes**: where `torch.distributed` runs, losses and metrics are averaged over all processes before
    they are recorded or decide anything, so all stop at the same update. All must call `record` equally.

    Each `record` waits for the device once, to read the loss.

    Args:
        model: What is trained; `nn.ModuleList` holds several.
        optimizer: One or several `torch.optim.Optimizer`. Their parameters need not belong to the model.
        max_lr: Rate of the last update. The paper's sweeps end at 3.
        steps: Updates of the sweep; 100 give a first idea, the paper takes 5,000 and more.
        start_lr: Rate of the first update; the paper's is 0, an exponential sweep needs more.
        mode: The rate rises linearly (the paper's) or exponentially.
        metric: Name of what `record` and `evaluate` measure besides the loss; ``"loss"`` if nothing.
        higher_is_better: Direction of the metric.
        evaluate: Called every `evaluate_every` updates and after the last one, without gradients and with the model in
            eval mode; what it changes in buffers, flags and generators is put back. It returns the metric (the loss, if
            `metric` is ``"loss"``), or loss and metric as a tuple, or a mapping with ``"loss"`` and the metric's name.
        evaluate_every: Updates between two evaluations.
        recalibrate_batch_norm: Gives batches, of which the first element (or the tensor itself) is the model's input.
            Before each evaluation, batch-norm statistics are then averaged over them with the present weights (in train
            mode, as `torch.optim.swa_utils.update_bn` does); they are put back afterwards.
        scaler: The gradient scaler of the loop, to be put back as well.
        loaders: Further loaders whose generators are to be put back; those given to `iterate` are anyway.
        extra: Whatever else the loop changes and has `state_dict` and `load_state_dict`, to be put back as well.
        seed: Label of the sweep in the curve, to tell repetitions apart.
        stop: Whether a blow-up or a collapse ends the sweep.
        blow_up: How many times the best loss is a blow-up.

    Raises:
        TypeError: `model` or `optimizer` is something else.
        ValueError: Rates, lengths or names that make no sweep.

    >>> import torch, superconv
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loader = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(30)]
    >>> before = model.weight.clone()
    >>> with superconv.RangeTest(model, optimizer, max_lr=1.0, steps=20) as test:
    ...     for inputs, targets in test.iterate(loader):
    ...         loss = torch.nn.functional.mse_loss(model(inputs), targets)
    ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
    ...         test.record(loss)
    >>> torch.equal(model.weight, before), test.curve.lr[-1] <= 1.0
    (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        max_lr: float,
        steps: int,
        start_lr: float = 0.0,
        mode: Literal["linear", "exponential"] = "linear",
        metric: str = "accuracy",
        higher_is_better: bool = True,
        evaluate: Callable[[], Evaluation] | None = None,
        evaluate_every: int = 10,
        recalibrate_batch_norm: Callable[[], Iterable[Any]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        loaders: Iterable[object] = (),
        extra: Iterable[object] = (),
        seed: int = 0,
        stop: bool = True,
        blow_up: float = 4.0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        self._model, self._optimizers = model, _optimizers(optimizer)
        max_lr, start_lr, blow_up = float(max_lr), float(start_lr), float(blow_up)
        steps, evaluate_every, seed = int(steps), int(evaluate_every), int(seed)
        if steps < 2:
            raise ValueError(f"a sweep needs at least 2 steps, not {steps}")
        if not 0 <= start_lr < max_lr < float("inf"):
            raise ValueError(f"rates must rise: 0 <= start_lr < max_lr, not start_lr={start_lr}, max_lr={max_lr}")
        if mode not in ("linear", "exponential"):
            raise ValueError(f"mode must be 'linear' or 'exponential', not {mode!r}")
        if evaluate is not None and evaluate_every < 1:
            raise ValueError(f"evaluate_every must be at least 1, not {evaluate_every}")
        if recalibrate_batch_norm is not None and evaluate is None:
            raise ValueError("recalibrate_batch_norm is for evaluations: give evaluate as well")
        if blow_up <= 1:
            raise ValueError(f"blow_up is a multiple of the best loss and must be above 1, not {blow_up}")
        sweep = linear_range if mode == "linear" else exponential_range
        self._rate = sweep(steps, max_lr, start_lr=start_lr)
        self._max_lr, self._steps, self._seed = max_lr, steps, seed
        self._metric, self._higher_is_better = metric, higher_is_better
        self._evaluate, self._evaluate_every = evaluate, evaluate_every
        self._recalibrate, self._scaler, self._loaders = recalibrate_batch_norm, scaler, list(loaders)
        self._extra = list(extra)
        planned = steps if evaluate is None else steps // evaluate_every
        self._breakdown = Breakdown(blow_up, window=max(WINDOW, planned // 50)) if stop else None
        self._device = next(p for o in self._optimizers for g in o.param_groups for p in g["params"]).device
        self._snapshot: Snapshot | None = None  # there is one inside the block only
        self._entered = False
        self._updates = 0  # that happened
        self._stepped: set[int] = set()  # optimizers that did since the last update
        self._idle = 0  # batches since then
        self._pending: list[tuple[float | None, float | None]] = []
        self._points: list[_Point] = []
        self._stopped: str | None = None

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a RangeTest is good for one block; make a new one for another sweep")
        self._ratios = _ratios(self._optimizers)
        self._snapshot = Snapshot(
            [self._model], self._optimizers, scaler=self._scaler, loaders=self._loaders, extra=self._extra
        )
        self._entered = True
        self._hooks = [o.register_step_pre_hook(lambda *_: self._set_rates()) for o in self._optimizers]
        self._hooks += [o.register_step_post_hook(partial(self._note_step, i)) for i, o in enumerate(self._optimizers)]
        self._set_rates()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        snapshot, self._snapshot = self._inside(), None
        for hook in self._hooks:
            hook.remove()
        snapshot.restore()

    @property
    def done(self) -> bool:
        """Whether the sweep is over; `iterate` then ends, other loops should break."""
        return self._updates >= self._steps or self._stopped is not None

    @property
    def stopped(self) -> str | None:
        """Why the sweep ended early, if it did."""
        return self._stopped

    @property
    def curve(self) -> Curve:
        """What was recorded, also in the middle of the sweep.

        Raises:
            RuntimeError: Nothing was recorded after an update.
        """
        if not self._points:
            raise RuntimeError(
                f"the range test has no points ({self._stopped or 'it was not stopped'}): {self._updates} updates "
                f"happened, {len(self._pending)} losses were recorded; call optimizer.step(), then test.record(loss)"
            )
        columns: dict[str, Any] = dict(zip(_Point._fields, zip(*self._points, strict=True), strict=True))
        measured = any(value is not None for value in columns["train_metric"] + columns["validation_metric"])
        return Curve(
            **columns,
            seed=(self._seed,) * len(self._points),
            metric=self._metric if measured else "loss",
            higher_is_better=self._higher_is_better,
            stopped=() if self._stopped is None else ((self._seed, self._stopped),),
            total_steps=self._steps,
            max_lr=self._max_lr,
        )

    def iterate(self, loader: Iterable[T]) -> Iterator[T]:
        """Batches until the sweep is over, from the loader's beginning again as often as needed.

        The generators of the loader, its samplers and its data set are put back at the end of the block.

        Args:
            loader: Anything that can be iterated over repeatedly.

        Raises:
            TypeError: An iterator, which can be read only once: what the test takes from it would be gone.
            ValueError: The loader is empty, or is so when it is started again.
            RuntimeError: Outside of the block, or 512 batches went by without an update.
        """
        snapshot = self._inside()
        if isinstance(loader, Iterator):
            raise TypeError(f"{type(loader).__name__} is an iterator and can be read only once: give the loader itself")
        snapshot.add_loader(loader)
        self._loaders.append(loader)
        return self._batches(_with_own_workers(loader))

    def record(self, loss: Number, metric: Number | None = None) -> None:
        """Note the loss of a minibatch, after its `optimizer.step()`; does nothing once the sweep is over.

        Args:
            loss: Mean loss, a number or a tensor with one element.
            metric: The metric on the same minibatch, if there is one.

        Raises:
            ValueError: More than one element, or a metric where ``metric="loss"`` said that there is none.
            RuntimeError: Outside of the block.
        """
        self._inside()
        if self._stopped is not None or (self._points and self._points[-1].step + 1 >= self._steps):
            return  # a loop may record the rest of its micro-batches
        if metric is not None and self._metric == "loss":
            raise ValueError("a metric is recorded, but metric='loss' says there is none: name it, e.g. 'accuracy'")
        value, score = self._averaged(loss, metric)
        self._pending.append((value, score))
        if value is not None and not isfinite(value):
            self._stopped = f"non-finite: the training loss was {value} at learning rate {self._last_rate:.4g}"
        if self._updates > (self._points[-1].step + 1 if self._points else 0):
            self._add_point()

    def _add_point(self) -> None:
        loss, metric = (_mean(values) for values in zip(*self._pending, strict=True))
        self._pending.clear()
        last = self._updates == self._steps
        due = self._evaluate is not None and (last or self._updates % self._evaluate_every == 0)
        validation = self._validate() if due and self._stopped is None else (None, None)
        point = _Point(self._last_rate, self._updates - 1, loss, metric, *validation)
        self._points.append(point)
        if self._breakdown is not None and self._stopped is None and loss is not None:
            watched = metric if self._evaluate is None else point.validation_metric
            reason = self._breakdown.seen(loss, watched if watched is None or self._higher_is_better else -watched)
            self._stopped = reason and f"{reason} at learning rate {point.lr:.4g}"

    def _validate(self) -> tuple[float | None, float | None]:
        assert self._evaluate is not None
        with probing(self._model, loaders=self._loaders), torch.no_grad():
            if self._recalibrate is not None:
                recalibrate(self._model, self._recalibrate())
            with evaluating(self._model):
                result = self._evaluate()
        if isinstance(result, Mapping):
            loss, metric = result.get("loss"), result.get(self._metric)
        elif isinstance(result, tuple):
            loss, metric = result
        else:
            loss, metric = (result, None) if self._metric == "loss" else (None, result)
        if loss is None and (metric is None or self._metric == "loss"):
            raise ValueError(f"evaluate returned {result!r}, neither a loss nor {self._metric!r}")
        return self._averaged(loss, None if self._metric == "loss" else metric)

    def _averaged(self, loss: Number | None, metric: Number | None) -> tuple[float | None, float | None]:
        """Both as numbers, over all processes, with one wait for the device."""
        precision = torch.float32 if self._device.type == "mps" else torch.float64
        values = [torch.as_tensor(v, dtype=precision, device=self._device) for v in (loss, metric) if v is not None]
        for value in values:
            if value.numel() != 1:
                raise ValueError(f"a loss or metric must be a single number, not of shape {tuple(value.shape)}")
        means = torch.stack([value.detach().reshape(()) for value in values])
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.all_reduce(means)
            means /= distributed.get_world_size()
        numbers = iter(means.tolist())
        return (None if loss is None else next(numbers)), (None if metric is None else next(numbers))

    @property
    def _last_rate(self) -> float:
        """Rate of the last update."""
        return self._rate(max(0, self._updates - 1))

    def _set_rates(self) -> None:
        rate = self._rate(self._updates)
        for optimizer, ratios in zip(self._optimizers, self._ratios, strict=True):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=False):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * ratio)  # in place: compiled and captured optimizers hold it
                else:
                    group["lr"] = rate * ratio

    def _note_step(self, index: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if skips(optimizer):
            return
        self._stepped.add(index)
        if len(self._stepped) == len(self._optimizers):
            self._stepped.clear()
            self._updates += 1
            self._idle = 0

    def _batches(self, loader: Iterable[T]) -> Iterator[T]:
        while not self.done:
            empty = True
            for batch in loader:
                empty = False
                self._set_rates()  # for those who read the rate in their loop
                yield batch
                self._inside()
                self._idle += 1
                if self._idle >= IDLE_BATCHES:
                    missing = sorted(set(range(len(self._optimizers))) - self._stepped)
                    raise RuntimeError(
                        f"{self._idle} batches without an update: optimizer {missing} of those given to RangeTest did "
                        "not step; step these very objects in the loop (or the gradient scaler skips every step)"
                    )
                if self.done:
                    return
            if empty:
                raise ValueError("the loader gave no batch: too few samples for drop_last, or it cannot be restarted")

    def _inside(self) -> Snapshot:
        if self._snapshot is None:
            raise RuntimeError("use a RangeTest inside its block: with RangeTest(...) as test: ...")
        return self._snapshot


class _Point(NamedTuple):
    lr: float
    step: int
    train_loss: float | None
    train_metric: float | None
    validation_loss: float | None
    validation_metric: float | None


def _mean(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return mean(measured) if measured else None


def _optimizers(given: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    optimizers = [given] if isinstance(given, Optimizer) else list(given)
    for optimizer in optimizers:
        # Wrappers such as Accelerate's claim to be an Optimizer and have no hooks.
        if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or several, not {type(optimizer).__name__}; "
                "give the optimizer inside a framework's wrapper"
            )
    if not optimizers or not all(any(group["params"] for group in o.param_groups) for o in optimizers):
        raise ValueError("every optimizer needs parameters, and there must be at least one")
    return optimizers


def _ratios(optimizers: Sequence[Optimizer]) -> list[list[float]]:
    """Of every group's rate to that of the very first."""
    for key in ("lr", "initial_lr"):
        rates = [[float(group.get(key, group["lr"])) for group in optimizer.param_groups] for optimizer in optimizers]
        if rates[0][0] > 0:
            return [[rate / rates[0][0] for rate in groups] for groups in rates]
    raise ValueError(
        "the first parameter group has learning rate 0, to which the others have no ratio: give it any positive one"
    )


def _with_own_workers(loader: Iterable[T]) -> Iterable[T]:
    """The loader; if its workers live on, a copy with workers of its own, whose generators nobody will use later."""
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        return loader
    own: DataLoader[T] = copy(loader)
    own._iterator = None
    return own
