"""What a run consists of while it goes: one update, one evaluation."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import nan
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv import nested
from superconv.data import Source
from superconv.data.sampling import Draw, Order, in_order
from superconv.errors import UserError
from superconv.models.dropout import limit_dropout
from superconv.optim import skips, unfuse
from superconv.rates.modes import call_overrides, evaluating
from superconv.recipe import Recipe
from superconv.training.breakdown import refusals
from superconv.training.calling import (
    call_model,
    in_channels_last,
    in_double,
    label_argument,
    refuse_unknown,
    with_labels,
)
from superconv.training.checks import all_count, check_batch, uneven_parts
from superconv.training.hooks import Hook, Stages
from superconv.training.measures import Measured, compute, measured
from superconv.training.plan import ExecutionPlan
from superconv.training.preparation import compile_model, schedulers_of
from superconv.training.scores import Scores
from superconv.training.stepping import asks_for_closure, may_ask, needs_closure, refuse_closures, switch
from superconv.training.task import Task

EVALUATION_BATCH = 1000
MOST_SKIPPED = 50  # updates in a row that fp16 may skip: its scale then is 2⁻⁵⁰ of the first


class Trainer:
    """A run in progress: model, optimizers, schedulers and position.

    Order, augmentation and randomness are functions of the seed and the position alone, so that a checkpoint needs no
    generator states and a resumed run is exact.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        *,
        plan: ExecutionPlan,
        seed: int = 0,
        hooks: Sequence[Hook] = (),
        stages: Stages | None = None,
        purpose: str = "training",
        alone: bool = False,
    ) -> None:
        self.purpose = purpose
        self.task, self.recipe, self.plan, self.seed = task, recipe, plan, seed
        self.metric_name, self.watched = task.metric_name, task.watched
        self.hooks, self.stages = hooks, stages or Stages()
        torch.manual_seed(seed)
        model = task.network()
        self.fabric = plan.fabric(model, alone=alone)
        self.device = self.fabric.device
        self.writes, self.alone = self.fabric.is_global_zero, self.fabric.world_size == 1
        if recipe.dropout is not None:
            limit_dropout(model, recipe.dropout)
        if plan.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types it with a dtype only
        if plan.compiled:  # replayed CUDA graphs write over gradients that must last for several parts
            compile_model(model, plan.compiled if recipe.accumulate == 1 else "default")
        optimizers = task.optimizers(model, recipe)
        if plan.precision == "16-mixed":
            if len(optimizers) > 1:  # the gradient scaler forgets, with each that steps, what it knows of the others
                raise UserError("fp16 is for one optimizer: use --plan bf16 or fp32")
            unfuse(optimizers[0])
        self.model, *self.optimizers = self.fabric.setup(model, *optimizers)
        self.module, self.torch_optimizers = model, optimizers
        # Fabric's wrappers only convert, or bring processes together: idle, they cost a small network 10 %.
        plain = self.alone and plan.precision == "32-true"
        self._predictor: nn.Module = self.model.module if plain else self.model
        self._predict = self.stages.predict or task.predict
        self._backward = self.stages.backward or (_backward if plain else Fabric.backward)
        self.schedulers = schedulers_of(optimizers, recipe)
        if isinstance(task.loss, nn.Module):
            task.loss.to(self.device)
        self._smoothing = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
        self._label = label_argument(model)
        self._all_count = all_count(task.loss, task.train)
        self._first = True  # whether no update was made in this process
        self._closures = any(map(needs_closure, optimizers))
        self._may_ask = any(map(may_ask, optimizers))
        if self._closures:
            refuse_closures(optimizers, plan.precision)
        self.notes: list[str] = []
        call_overrides(model)
        self.lr, self.momentum = self._rates()  # of the last update
        self.step = 0  # updates that happened
        self.drawn = 0  # batches drawn: more than `step` where fp16 had to skip an update
        self.skipped = 0  # updates in a row, up to now
        self.stop = False  # a hook may set it: the run then ends after this update, as if it had been interrupted
        self._happened = True
        self._moved: dict[int, tuple[Source, Source]] = {}
        optimizers[0].register_step_post_hook(self._note_step)
        self.scores = Scores(task.metric, self.device, pending=not plan.compiled, all_count=self._all_count)
        self._last_read: dict[str, float] = {}

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """The training batches of this process from the present position on, `accumulate` parts an update."""
        fabric, recipe = self.fabric, self.recipe
        if recipe.batch_size % (fabric.world_size * recipe.accumulate):
            raise UserError(
                f"batch_size {recipe.batch_size} does not divide into {fabric.world_size} processes × "
                f"{recipe.accumulate} parts; choose a multiple"
            )
        source = self._on_device(self.task.train)
        processes = {"rank": fabric.global_rank, "world": fabric.world_size}
        order = Order(len(source), recipe.batch_size, self.seed, shuffle=self.task.shuffle, **processes)
        draws = order.draws(self.drawn)
        if recipe.accumulate > 1:
            draws = (part for draw in draws for part in _parts(draw, recipe.accumulate))
        return map(self._prepare, source.batches(draws, seed=self.seed, augment=True))

    def update(self, batches: Iterator[tuple[Any, Any]]) -> bool:
        """Make one update from the next `accumulate` batches; whether it happened (fp16 may skip one)."""
        if not self.module.training:  # going through all modules takes as long as a small one's forward
            self.model.train()
        switch(self.torch_optimizers, training=True)
        drawn = (next(batches) for _ in range(self.recipe.accumulate))
        parts = list(drawn) if self._closures or (self._first and self._may_ask) else drawn
        self._make_gradients(parts)
        self.lr, self.momentum = self._rates()
        self._happened = False
        for optimizer in self.optimizers:
            self._step(optimizer, parts)
            _drop_gradients(optimizer)
        self._first = False
        self.drawn += 1
        self.skipped = 0 if self._happened else self.skipped + 1
        if self._happened:
            self.step += 1
            for scheduler in self.schedulers:
                scheduler.step()
        return self._happened

    @property
    def stuck(self) -> bool:
        """Whether fp16 skips every update, as the gradients are never finite: the training has broken down."""
        return self.skipped >= MOST_SKIPPED

    def evaluate(self, source: Source, *, samples: int | None = None, start: int | None = None) -> dict[str, float]:
        """Loss and metric over a source, with the running statistics of process 0.

        Args:
            source: What to read.
            samples: So many of it, evenly spaced, all at most; none takes all.
            start: Take `samples` in a row from this position on instead, wrapping around at the end as often as need
                be. So Caffe tests: 25,000 of the paper's 10,000 images, each test going on where the last one stopped.
        """
        if self.fabric.world_size > 1:
            for buffer in self.model.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        source = self._on_device(source)
        n = len(source)
        taken = n if samples is None else samples if start is not None else min(samples, n)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        places = in_order(taken, EVALUATION_BATCH, rank=rank, world=world)
        draws = ((e, i * n // taken if start is None else (start + i) % n) for e, i in places)
        counted = all_count(self.task.loss, source)
        scores = Scores(self.task.metric, self.device, pending=not self.plan.compiled, all_count=counted)
        with self.evaluating() as model, torch.inference_mode(), self.fabric.autocast():
            for inputs, target in map(self._prepare, source.batches(draws, seed=self.seed, augment=False)):
                output = self.task.predict(model, inputs)
                with refusals(output, alone=self.alone):
                    loss = compute(self.task.loss, output, target, all_count=counted)
                scores.add(output, target, measured(loss, nested.samples(target, output)))
        if not (means := self._means(scores.sums)):
            raise UserError(f"no target of the {n} samples that {self.task.name} is evaluated on counts")
        return means

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model and its optimizers in evaluation mode; afterwards each module is in its own again."""
        switch(self.torch_optimizers, training=False)
        try:
            with evaluating(self.model.module) as model:
                yield model
        finally:
            switch(self.torch_optimizers, training=True)

    def finish(self) -> nn.Module:
        """The network itself, for good in evaluation mode."""
        switch(self.torch_optimizers, training=False)
        module: nn.Module = self.model.module.eval()
        return module

    def fixed_batch(self, samples: int) -> tuple[Any, Any]:
        """Always the same training samples, evenly spaced, not augmented; at most `samples`."""
        source = self._on_device(self.task.train)
        indices = torch.linspace(0, len(source) - 1, min(samples, len(source))).long()
        draws = [(torch.zeros_like(indices), indices)]
        batch: tuple[Any, Any] = next(source.batches(draws, seed=self.seed, augment=False))
        return self._prepare(batch)

    def forward(self, inputs: Any) -> Any:
        """Output of the network without its compiled form, which other shapes would compile once more."""
        with torch.compiler.set_stance("force_eager") if self.plan.compiled else nullcontext():
            return self.task.predict(self.module, inputs)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean loss of a batch, without label smoothing."""
        return measured(compute(self.task.loss, output, target), nested.samples(target, output)).mean

    def read(self) -> dict[str, float]:
        """Mean training loss and metric since the last reading, over all processes; waits for the device.

        Where no target has counted since, they are those of the last reading.
        """
        self._last_read = self._means(self.scores.sums) or self._last_read or self._named(0.0, 0.0)
        self.scores.clear()
        return self._last_read

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask together."""
        if self.alone:
            return flag
        return bool(self._summed(torch.tensor(float(flag), device=self.device)) > 0)

    def _make_gradients(self, parts: Iterable[tuple[Any, Any]], *, scored: bool = True) -> Tensor:
        """Make the gradient of an update from its parts, clipped; the mean loss comes back.

        Parts are weighted by what they count. Where that is known only at the end, gradients are of sums, divided then.
        """
        _seed_all(self.device, (self.seed, self.drawn, self.fabric.global_rank))
        count = self.recipe.accumulate
        losses, shares = [], []
        for part, (inputs, target) in enumerate(parts):
            with self.fabric.no_backward_sync(self.model) if part < count - 1 else nullcontext():
                output = self._output(inputs)
                if self._first:
                    check_batch(self.task, output, target)
                with refusals(output, alone=self.alone):
                    loss = self._loss(output, target)
                one = loss.mean if count == 1 and self.alone else loss.weighted
                self._backward(self.fabric, one / count if count > 1 else one)
            if self._first and part == 0 and (count > 1 or not self.alone):
                self.notes += uneven_parts(self.task.loss, output, loss)
            if scored:
                self.scores.add(output, target, loss)
            losses.append(one.detach() / count)
            shares.append(loss.share)
        if (count > 1 or not self.alone) and any(share is not None for share in shares):
            share = torch.as_tensor(sum(1.0 if share is None else share for share in shares) / count)
            if not self.alone:
                share = self._summed(share.clone()) / self.fabric.world_size
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, torch.where(share > 0, 1 / share, 1.0))
        if self.recipe.clip_norm:
            for optimizer in self.optimizers:
                self.fabric.clip_gradients(
                    self.model, optimizer, max_norm=self.recipe.clip_norm, error_if_nonfinite=False
                )
        return losses[0] if count == 1 else torch.stack(losses).sum()

    def _step(self, optimizer: Any, parts: Any) -> None:
        """Let an optimizer step; one that needs a closure gets it: it makes the gradient of the same batch again."""
        if not self._closures:
            try:
                optimizer.step()
                return
            except Exception as error:
                if not (self._first and self._may_ask and asks_for_closure(error)):
                    raise
            refuse_closures(self.torch_optimizers, self.plan.precision)
            self._closures = True

        def again() -> Tensor:
            with torch.enable_grad():
                _drop_gradients(optimizer)
                loss = self._make_gradients(parts, scored=False)
                return loss if self.alone else self._summed(loss) / self.fabric.world_size

        optimizer.step(again)

    def _loss(self, output: Any, target: Any) -> Measured:
        """Loss of a training batch."""
        task, samples = self.task, nested.samples(target, output)
        options: dict[str, Any] = {"all_count": self._all_count, **self._smoothing}
        if self.stages.plain_loss:
            return measured(compute(task.loss, output, target, **options), samples)

        def criterion(output: Any, target: Any) -> Tensor:
            return measured(compute(task.loss, output, target, **options), samples).mean

        return measured(self.stages.loss(criterion, output, target), samples)

    def _output(self, inputs: Any) -> Any:
        if self._first and self._predict is call_model:
            refuse_unknown(self.module, inputs)
        try:
            return self._predict(self._predictor, inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "batch norm needs two samples or more in each part of a batch: choose a larger batch_size, "
                "or a smaller accumulate or fewer processes"
            ) from error

    def _rates(self) -> tuple[float, float | None]:
        """Rate, and momentum or first beta, that the optimizers are set to."""
        group = self.optimizers[0].param_groups[0]
        momentum = group.get("momentum", group.get("betas", (None,))[0])
        return float(group["lr"]), None if momentum is None else float(momentum)

    def _on_device(self, source: Source) -> Source:
        if id(source) not in self._moved:
            self._moved[id(source)] = source, source.to(self.device)  # the first keeps the id from being used again
        return self._moved[id(source)][1]

    def _prepare(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        inputs, target = batch
        if self.plan.precision == "64-true":
            inputs, target = in_double(inputs), in_double(target)
        if self.plan.channels_last:
            inputs = in_channels_last(inputs)
        return with_labels(inputs, target, self._label), target

    def _note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._happened = not skips(optimizer)

    def _summed(self, values: Tensor) -> Tensor:
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _means(self, sums: Tensor) -> dict[str, float]:
        """Means of loss and metric; empty where nothing counts."""
        loss, metric, counted, scored = self._summed(sums).tolist()
        return self._named(loss / counted, metric / scored if scored else nan) if counted else {}

    def _named(self, loss: float, metric: float) -> dict[str, float]:
        return {"loss": loss} if self.task.metric is None else {"loss": loss, self.task.metric_name: metric}


def _parts(draw: Draw, parts: int) -> Iterator[Draw]:
    epochs, indices = draw
    return zip(epochs.chunk(parts), indices.chunk(parts), strict=True)


def _backward(_: Fabric, loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _drop_gradients(optimizer: Optimizer) -> None:
    """What `zero_grad` does, without the profiler's marks, which take longer."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _seed_all(device: torch.device, position: tuple[int, ...]) -> None:
    seed = hash(position) & (2**63 - 1)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack trace for every GPU that is not there
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & (2**32 - 1))
