"""How others train: the same network and data by their own means, watched by one clock.

A peer that cannot be imported is left out, and `MISSING` says why.
"""

import contextlib
import io
import itertools
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from superconv.data.sampling import in_order
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

MISSING: dict[str, str] = {"fastai": "needs torchvision, which has no CPU build here"}
try:
    import pytorch_lightning as lightning
    from pytorch_lightning.tuner import Tuner
except ImportError as error:
    MISSING["Lightning"] = str(error)
try:
    import torch_lr_finder
except ImportError as error:
    MISSING["pytorch-lr-finder"] = str(error)
try:
    import schedulefree
except ImportError as error:
    MISSING["schedule-free"] = str(error)

PLAIN = ExecutionPlan(channels_last=False)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def alone(function: Callable, *arguments: object) -> object:
    """The result of a function in a fresh process: threads, allocator and caches are then nobody else's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Images(Dataset):
    """The task's images as most people hold them: one float tensor each, flipped at random."""

    def __init__(self, task: Task) -> None:
        self.images, self.labels = task.train.images, task.train.labels
        self.flip = task.train.transform.augmentation.flip != "none"
        shape = (-1, 1, 1)
        self.mean, self.std = (torch.tensor(v).view(shape) for v in (task.facts["mean"], task.facts["std"]))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = (self.images[index].float() / 255 - self.mean) / self.std
        return image.flip(-1) if self.flip and torch.rand(()) < 0.5 else image, self.labels[index]


class TargetReachedError(Exception):
    """The target was reached: nothing more to do."""


@dataclass
class Watch:
    """A clock that stands still while validation accuracy is read, and a target that ends the run."""

    task: Task
    target: float
    every: int
    """Updates between two readings."""
    points: list[tuple[float, int, float]] = field(default_factory=list)
    """Seconds, updates and validation accuracy of each reading."""
    peak: float | None = None
    """What the method took as its largest rate."""

    def __post_init__(self) -> None:
        self._began, self._paused = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Time so far, readings apart."""
        return time.perf_counter() - self._began - self._paused

    def read(self, step: int, network: nn.Module, *, last: bool = False) -> None:
        """Read the accuracy where it is due.

        Raises:
            TargetReachedError: It is the target, or more.
        """
        if step % self.every and not last:
            return
        seconds, began = self.seconds, time.perf_counter()
        network.eval()
        with torch.inference_mode():
            split = self.task.validation.batches(in_order(len(self.task.validation), 1000), seed=0, augment=False)
            right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in split)
        accuracy = right / len(self.task.validation)
        self.points.append((seconds, step, accuracy))
        self._paused += time.perf_counter() - began
        if accuracy >= self.target:
            raise TargetReachedError


def data_loader(task: Task, batch_size: int) -> DataLoader:
    """Torch's, shuffling."""
    return DataLoader(Images(task), batch_size=batch_size, shuffle=True, drop_last=True)


def _network(task: Task, plan: ExecutionPlan) -> nn.Module:
    network = task.model()
    return network.to(memory_format=torch.channels_last) if plan.channels_last else network


def forward(plan: ExecutionPlan, network: nn.Module, images: Tensor) -> Tensor:
    """Logits in fp32, in a plan's precision and memory format."""
    if plan.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    bf16 = plan.precision == "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        return network(images).float()


def plain_loop(
    watch: Watch,
    plan: ExecutionPlan,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    steps: int,
    *,
    after: Callable[[], object] = lambda: None,
    reading: Callable[[], object] = contextlib.nullcontext,
) -> None:
    """A training loop as in every tutorial; `after` every update, `reading` around every look at the accuracy."""
    batches: Iterator = itertools.chain.from_iterable(itertools.repeat(loader))
    for step, (images, labels) in enumerate(itertools.islice(batches, steps), 1):
        network.train()
        loss = F.cross_entropy(forward(plan, network, images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        if step % watch.every == 0 or step == steps:
            with reading():
                watch.read(step, network, last=True)


def sgd_steps(watch: Watch, plan: ExecutionPlan, batch_size: int, steps: int) -> None:
    """SGD 0.1, momentum 0.9, decay 1e-4, a tenth at half and at three quarters of the run (He et al.'s CIFAR runs)."""
    network = _network(watch.task, plan)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    watch.peak = 0.1
    plain_loop(watch, plan, network, optimizer, data_loader(watch.task, batch_size), steps, after=scheduler.step)


def lr_finder(watch: Watch, plan: ExecutionPlan, batch_size: int, steps: int) -> None:
    """pytorch-lr-finder as in its README (1e-7 to 100, 100 iterations, steepest), then torch's OneCycleLR."""
    network, loader = _network(watch.task, plan), data_loader(watch.task, batch_size)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-7, momentum=0.9, weight_decay=1e-4)
    watch.peak = steepest(network, optimizer, loader, plan)
    optimizer = torch.optim.SGD(network.parameters(), lr=watch.peak, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, watch.peak, total_steps=steps + 1)
    plain_loop(watch, plan, network, optimizer, loader, steps, after=scheduler.step)


def steepest(network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, plan: ExecutionPlan) -> float:
    """The suggestion of pytorch-lr-finder; the network is put back."""

    class Planned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            return forward(plan, self.network, images)

    finder = torch_lr_finder.LRFinder(Planned(), optimizer, nn.CrossEntropyLoss(), device="cpu")
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())  # prints and a bar
    with quiet[0], quiet[1], warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        finder.range_test(loader, end_lr=100, num_iter=100)
        losses, rates = finder.history["loss"][10:-5], finder.history["lr"][10:-5]  # what its plot skips
    finder.reset()
    descents = [b - a for a, b in itertools.pairwise(losses)]
    return float(rates[descents.index(min(descents))])


def schedule_free(watch: Watch, plan: ExecutionPlan, batch_size: int, steps: int) -> None:
    """Schedule-free AdamW at its default rate; batch-norm statistics are estimated anew before each reading."""
    network, loader = _network(watch.task, plan), data_loader(watch.task, batch_size)
    optimizer = schedulefree.AdamWScheduleFree(network.parameters(), warmup_steps=max(1, steps // 20))
    optimizer.train()
    watch.peak = optimizer.param_groups[0]["lr"]
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    @contextlib.contextmanager
    def averaged() -> Iterator[None]:
        began = time.perf_counter()
        optimizer.eval()
        with torch.no_grad():  # its README: the average needs statistics of its own
            for images, _ in itertools.islice(batches, 20):
                forward(plan, network, images)
        watch._paused += time.perf_counter() - began
        try:
            yield
        finally:
            optimizer.train()

    plain_loop(watch, plan, network, optimizer, loader, steps, reading=averaged)


def with_lightning(watch: Watch, plan: ExecutionPlan, batch_size: int, steps: int) -> None:
    """Lightning's `lr_find` at its defaults, then torch's OneCycleLR, by its Trainer."""
    network, loader = _network(watch.task, plan), data_loader(watch.task, batch_size)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.lr, self.cycle = network, 1e-3, False

        def training_step(self, batch, index):
            images = batch[0].contiguous(memory_format=torch.channels_last) if plan.channels_last else batch[0]
            return F.cross_entropy(self.network(images).float(), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)
            if not self.cycle:
                return optimizer
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps + 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

        def on_train_batch_end(self, outputs, batch, index):
            if self.cycle:
                watch.read(self.trainer.global_step, network, last=self.trainer.global_step == steps)
                network.train()

    precision = "bf16-mixed" if plan.precision == "bf16-mixed" else "32-true"
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.lr = lightning_rate(module, loader, precision)
        watch.peak, module.cycle = module.lr, True
        trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", precision=precision, **QUIET)
        trainer.fit(module, loader)


def lightning_rate(module: "lightning.LightningModule", loader: DataLoader, precision: str = "32-true") -> float:
    """What Lightning's finder suggests at its defaults, 1e-3 where it suggests nothing."""
    quiet = QUIET | {"enable_checkpointing": True}
    finder = Tuner(lightning.Trainer(max_epochs=1, accelerator="cpu", precision=precision, **quiet))
    return finder.lr_find(module, loader).suggestion() or 1e-3


PEERS: dict[str, Callable[[Watch, ExecutionPlan, int, int], None]] = {
    name: method
    for name, package, method in (
        ("pytorch-lr-finder + OneCycleLR", "pytorch-lr-finder", lr_finder),
        ("Lightning lr_find + OneCycleLR", "Lightning", with_lightning),
        ("schedule-free AdamW", "schedule-free", schedule_free),
        ("SGD 0.1, steps", "", sgd_steps),
    )
    if package not in MISSING
}
