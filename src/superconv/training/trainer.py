"""What a run consists of while it goes: one update, one evaluation."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from superconv.data import Source
from superconv.data.sampling import Draw, Order, in_order
from superconv.errors import UserError
from superconv.models.dropout import limit_dropout
from superconv.optim import skips, unfuse
from superconv.rates.lr_scheduler import ScheduledLR
from superconv.rates.schedules import Schedule
from superconv.recipe import Recipe
from superconv.training.breakdown import refusals
from superconv.training.hooks import Hook, Stages
from superconv.training.plan import CompileMode, ExecutionPlan
from superconv.training.scores import Scores
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
    ) -> None:
        self.purpose = purpose
        self.task, self.recipe, self.plan, self.seed = task, recipe, plan, seed
        self.metric_name, self.watched = task.metric_name, task.watched
        self.hooks, self.stages = hooks, stages or Stages()
        self.fabric = plan.fabric()
        self.device = self.fabric.device
        self.writes, self.alone = self.fabric.is_global_zero, self.fabric.world_size == 1
        torch.manual_seed(seed)
        model = task.model()
        if recipe.dropout is not None:
            limit_dropout(model, recipe.dropout)
        if plan.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types it with a dtype only
        if plan.compiled:  # replayed CUDA graphs write over gradients that must last for several parts
            _compile(model, plan.compiled if recipe.accumulate == 1 else "default")
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
        self._backward = self.stages.backward or (_backward if plain else Fabric.backward)
        self.schedulers = _schedulers(optimizers, recipe)
        smoothed = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
        self.criterion = partial(task.loss, **smoothed)
        self.lr, self.momentum = self._rates()  # of the last update
        self.step = 0  # updates that happened
        self.drawn = 0  # batches drawn: more than `step` where fp16 had to skip an update
        self.skipped = 0  # updates in a row, up to now
        self.stop = False  # a hook may set it: the run then ends after this update, as if it had been interrupted
        self._happened = True
        self._moved: dict[int, tuple[Source, Source]] = {}
        optimizers[0].register_step_post_hook(self._note_step)
        self.scores = Scores(task.metric, self.device, pending=not plan.compiled)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
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

    def update(self, batches: Iterator[tuple[Tensor, Tensor]]) -> bool:
        """Make one update from the next `accumulate` batches; whether it happened (fp16 may skip one)."""
        _seed_all(self.device, (self.seed, self.drawn, self.fabric.global_rank))
        if not self.module.training:  # going through all modules takes as long as a small one's forward
            self.model.train()
        parts = self.recipe.accumulate
        for part in range(parts):
            inputs, target = next(batches)
            with self.fabric.no_backward_sync(self.model) if part < parts - 1 else nullcontext():
                output = self._output(inputs)
                with refusals(output, alone=self.alone):
                    loss = self.stages.loss(self.criterion, output, target)
                self._backward(self.fabric, loss / parts if parts > 1 else loss)
            self.scores.add(output, target, loss)
        self.drawn += 1
        self.lr, self.momentum = self._rates()
        if self.recipe.clip_norm:
            for optimizer in self.optimizers:
                self.fabric.clip_gradients(
                    self.model, optimizer, max_norm=self.recipe.clip_norm, error_if_nonfinite=False
                )
        self._happened = False
        for optimizer in self.optimizers:
            optimizer.step()
            _drop_gradients(optimizer)
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
        scores = Scores(self.task.metric, self.device, pending=not self.plan.compiled)
        with self.evaluating() as model, torch.inference_mode(), self.fabric.autocast():
            for inputs, target in map(self._prepare, source.batches(draws, seed=self.seed, augment=False)):
                output = model(inputs)
                with refusals(output, alone=self.alone):
                    loss = self.task.loss(output, target)
                scores.add(output, target, loss)
        return self._means(scores.sums)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in evaluation mode; afterwards each module is in its own again, as some may be frozen."""
        model = self.model.module
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training

    def fixed_batch(self, samples: int) -> tuple[Tensor, Tensor]:
        """Always the same training samples, evenly spaced, not augmented; at most `samples`."""
        source = self._on_device(self.task.train)
        indices = torch.linspace(0, len(source) - 1, min(samples, len(source))).long()
        batch = next(source.batches([(torch.zeros_like(indices), indices)], seed=self.seed, augment=False))
        return self._prepare(batch)

    def forward(self, inputs: Any) -> Any:
        """Output of the network without its compiled form, which other shapes would compile once more."""
        return self.module.forward(inputs)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean loss of a batch, without label smoothing."""
        return self.task.loss(output, target)

    def read(self) -> dict[str, float]:
        """Mean training loss and metric since the last reading, over all processes; waits for the device."""
        means = self._means(self.scores.sums)
        self.scores.clear()
        return means

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask together."""
        if self.alone:
            return flag
        return bool(self._summed(torch.tensor(float(flag), device=self.device)) > 0)

    def _output(self, inputs: Tensor) -> Tensor:
        try:
            return self.stages.predict(self._predictor, inputs)
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

    def _prepare(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, target = batch
        if self.plan.precision == "64-true" and inputs.is_floating_point():
            inputs = inputs.double()
            target = target.double() if target.is_floating_point() else target
        if self.plan.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, target

    def _note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._happened = not skips(optimizer)

    def _summed(self, values: Tensor) -> Tensor:
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _means(self, sums: Tensor) -> dict[str, float]:
        loss, metric, samples = self._summed(sums).tolist()
        means = {"loss": loss / max(samples, 1)}
        if self.task.metric is not None:
            means[self.task.metric_name] = metric / max(samples, 1)
        return means


def _compile(model: nn.Module, mode: CompileMode) -> None:
    """What `Module.compile` does, through one more frame: Dynamo passes over torch's own, so over a `Sequential`."""

    def call(*arguments: Any, **options: Any) -> Any:
        return model._call_impl(*arguments, **options)  # type: ignore[no-untyped-call]  # torch's own

    model._compiled_call_impl = torch.compile(call, mode=mode)


def _schedulers(optimizers: Sequence[Optimizer], recipe: Recipe) -> list[ScheduledLR]:
    """One for each optimizer, whose rate keeps its ratio to the very first one's; momentum moves where there is any."""
    rate, momentum = recipe.learning_rate(), recipe.momentum_schedule()
    first = float(optimizers[0].param_groups[0]["lr"])

    def scaled(ratio: float) -> Schedule:
        return rate if ratio == 1 else lambda t: ratio * rate(t)

    return [
        ScheduledLR(
            optimizer,
            scaled(float(optimizer.param_groups[0]["lr"]) / first if first else 1.0),
            momentum if all({"momentum", "betas"} & group.keys() for group in optimizer.param_groups) else None,
        )
        for optimizer in optimizers
    ]


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
