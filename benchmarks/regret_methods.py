"""How each method of `regret.py` comes to the recipe that superconv's loop then trains by.

The loop, the order of the data and the plan are the same for all: methods differ in optimizer, schedule and rate alone,
and superconv in the batch as well, which it chooses.
"""

import contextlib
import io
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from peers import MISSING, RECALIBRATION, Planned, lightning_rate, steepest
from regret_tasks import Problem
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset

from superconv import optim
from superconv.data.sampling import Order
from superconv.recipe import Recipe, ScheduleName
from superconv.search.recipe import find_recipe
from superconv.specs.choices import Choices
from superconv.training.hooks import Hook
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task
from superconv.training.trainer import Trainer

with contextlib.suppress(ImportError):
    import pytorch_lightning as lightning
with contextlib.suppress(ImportError):
    import schedulefree
try:
    import prodigyopt
except ImportError as error:
    MISSING["Prodigy"] = str(error)

FINDER_UPDATES = 100  # of Lightning's and pytorch-lr-finder's sweeps, unless they break off
DEFAULT_DECAY = {"SGD": 1e-4, "AdamW": 1e-2}  # He et al.'s, torch's


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What is trained, and what finding it took."""

    task: Task
    recipe: Recipe
    hooks: Sequence[Hook] = field(default=())
    search_updates: int = 0
    search_seconds: float = 0.0


Method = Callable[[Problem, Task, int, ExecutionPlan], Ready]


class Counter(Hook):
    """Counts the updates of all sweeps and short cycles."""

    def __init__(self) -> None:
        self.updates = 0

    def on_update(self, trainer: Trainer) -> None:
        """One more."""
        self.updates += 1


def superconv(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """The first training of `superconv fit --epochs`, which chooses the batch too; one that fails is not made again."""
    counter, choices = Counter(), Choices(epochs=problem.epochs, optimizer=problem.optimizer)
    found = find_recipe(replace(task, test=None), choices, plan=plan, seed=seed, hooks=[counter])
    return Ready(task=task, recipe=found.recipe, search_updates=counter.updates, search_seconds=found.seconds)


def counted(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """The same with search and training together in the updates that all others train, in the problem's batch."""
    updates = base_recipe(problem, task, max_lr=1.0).steps
    steps = max(20, min(updates - 200, round(updates / 1.3)))  # the search takes 30 % of the training, 200 at least
    counter = Counter()
    choices = Choices(steps=steps, batch_size=problem.batch_size, optimizer=problem.optimizer)
    found = find_recipe(replace(task, test=None), choices, plan=plan, seed=seed, hooks=[counter])
    return Ready(task=task, recipe=found.recipe, search_updates=counter.updates, search_seconds=found.seconds)


def base_recipe(problem: Problem, task: Task, *, optimizer: str | None = None, **fields) -> Recipe:
    """The problem's length and batch; momentum 0.9 where nothing else is said."""
    optimizer = optimizer or problem.optimizer
    steps = round(problem.epochs * len(task.train) / problem.batch_size)
    given = {"momentum": 0.9, "min_momentum": None, "weight_decay": DEFAULT_DECAY[optimizer], "optimizer_args": {}}
    return Recipe(steps=steps, batch_size=problem.batch_size, optimizer=optimizer, **given | fields)


def grid(problem: Problem, task: Task) -> dict[str, Recipe]:
    """All settings of the grid search by name; one_cycle is the preset `paper`, SGD has Nesterov momentum."""
    args = {"nesterov": True} if problem.optimizer == "SGD" else {}
    schedules: tuple[ScheduleName, ...] = ("one_cycle", "cosine", "piecewise")
    found = {}
    for schedule, rate, decay in itertools.product(schedules, problem.rates, problem.decays):
        cyclic = {"momentum": 0.95, "min_momentum": 0.85} if schedule == "one_cycle" else {}
        fields = {"schedule": schedule, "max_lr": rate, "weight_decay": decay, "optimizer_args": args, **cyclic}
        found[f"{schedule} {rate:g} {decay:g}"] = base_recipe(problem, task, **fields)
    return found


class Stream(IterableDataset):
    """A task's training batches in superconv's order, without end."""

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = Order(len(self.task.train), self.batch_size, self.seed)
        return iter(self.task.train.batches(order.draws(0), seed=self.seed, augment=True))


def found_by(finder: Callable[[Task, Recipe, Planned, DataLoader], float]) -> Method:
    """A finder's rate as the peak of torch's OneCycleLR at its defaults, momentum 0.85 to 0.95 included."""

    def method(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
        began = time.perf_counter()
        torch.manual_seed(seed)
        trial = base_recipe(problem, task, max_lr=1.0, schedule="constant")
        loader = DataLoader(Stream(task, problem.batch_size, seed), batch_size=None)
        if plan.threads:
            torch.set_num_threads(plan.threads)
        quiet = io.StringIO()  # bars and prints of their own
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            rate = finder(task, trial, Planned(task.model(), plan), loader)
        cycle = {"warmup": 0.3, "annihilation": 0.0, "anneal": "cosine", "momentum": 0.95, "min_momentum": 0.85}
        recipe = replace(trial, schedule="one_cycle", max_lr=rate, base_lr=rate / 25, final_lr=rate / 25 / 1e4, **cycle)
        seconds = time.perf_counter() - began
        return Ready(task=task, recipe=recipe, search_updates=FINDER_UPDATES, search_seconds=seconds)

    return method


def steepest_rate(task: Task, trial: Recipe, network: Planned, loader: DataLoader) -> float:
    """pytorch-lr-finder's suggestion."""
    return steepest(network, optim.make(network, replace(trial, max_lr=1e-7)), loader, task.loss)


def lightning_found(task: Task, trial: Recipe, network: Planned, loader: DataLoader) -> float:
    """Lightning's `lr_find` at its defaults."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.lr = network, 1e-3

        def training_step(self, batch, index):
            return task.loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return optim.make(self.network, replace(trial, max_lr=self.lr))

    return lightning_rate(Module(), loader, network.plan)


def adamw_cosine(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """AdamW at torch's default rate and decay, along a cosine."""
    return Ready(task=task, recipe=base_recipe(problem, task, optimizer="AdamW", max_lr=1e-3, schedule="cosine"))


def sgd_cosine(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """SGD 0.1 with momentum 0.9 and decay 5e-4 along a cosine, as most CIFAR code has it."""
    fields = {"optimizer": "SGD", "max_lr": 0.1, "schedule": "cosine", "weight_decay": 5e-4}
    return Ready(task=task, recipe=base_recipe(problem, task, **fields))


class Averaged(Hook):
    """Turns schedule-free's weights to their average at the end, with batch-norm statistics of its own (its README)."""

    def on_start(self, trainer: Trainer) -> None:
        """Begin."""
        trainer.optimizers[0].optimizer.train()

    def on_end(self, trainer: Trainer) -> None:
        """Go to the average."""
        trainer.optimizers[0].optimizer.eval()
        batches = itertools.islice(trainer.batches(), RECALIBRATION)
        update_bn((inputs for inputs, _ in batches), Planned(trainer.model.module, trainer.plan))


def schedule_free(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """Schedule-free AdamW at its defaults, a twentieth of the run as warm-up."""

    def make(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        warmup = max(1, recipe.steps // 20)
        return schedulefree.AdamWScheduleFree(model.parameters(), lr=recipe.max_lr, warmup_steps=warmup)

    recipe = base_recipe(problem, task, optimizer="AdamW", max_lr=2.5e-3, schedule="constant", weight_decay=0.0)
    return Ready(task=replace(task, optimizer=make), recipe=recipe, hooks=[Averaged()])


def prodigy(problem: Problem, task: Task, seed: int, plan: ExecutionPlan) -> Ready:
    """Prodigy at its defaults, rate 1 along a cosine as its README advises."""

    def make(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        return prodigyopt.Prodigy(model.parameters(), lr=recipe.max_lr)

    recipe = base_recipe(problem, task, optimizer="AdamW", max_lr=1.0, schedule="cosine", weight_decay=0.0)
    return Ready(task=replace(task, optimizer=make), recipe=recipe)


METHODS: dict[str, Method] = {
    name: method
    for name, package, method in (
        ("superconv", "", superconv),
        ("superconv, search counted", "", counted),
        ("Lightning lr_find + OneCycleLR", "Lightning", found_by(lightning_found)),
        ("pytorch-lr-finder + OneCycleLR", "pytorch-lr-finder", found_by(steepest_rate)),
        ("AdamW 1e-3, cosine", "", adamw_cosine),
        ("SGD 0.1, cosine", "", sgd_cosine),
        ("schedule-free AdamW", "schedule-free", schedule_free),
        ("Prodigy", "Prodigy", prodigy),
    )
    if package not in MISSING
}
