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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from superconv.data.sampling import in_order
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

RECALIBRATION = 50  # batches over which schedule-free estimates batch-norm statistics anew, as its README does
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

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def plain_plan(device: str = "cpu") -> ExecutionPlan:
    """What a loop that knows of no plans does: fp32, channels-first, eager."""
    return ExecutionPlan.choose(device=device, plan="fp32,channels_first")


def wait(device: str | torch.device) -> None:
    """Let the device finish before a clock is read."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize(device)


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


class Planned(nn.Module):
    """A network under an execution plan, for loops that know of none: any inputs in, fp32 on the plan's device out."""

    def __init__(self, network: nn.Module, plan: ExecutionPlan) -> None:
        super().__init__()
        self.network, self.plan = network.to(plan.device), plan
        if plan.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if plan.compiled:
            self.network.compile(mode=plan.compiled)

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output."""
        inputs = inputs.to(self.plan.device)
        if self.plan.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.plan.precision)
        with torch.autocast(inputs.device.type, dtype, enabled=dtype is not None):
            return self.network(inputs).float()


def scaler(plan: ExecutionPlan) -> torch.amp.GradScaler:
    """Scales losses where a plan computes in fp16; elsewhere it changes nothing."""
    return torch.amp.GradScaler(plan.device.partition(":")[0], enabled=plan.precision == "16-mixed")


class TargetReachedError(Exception):
    """The target was reached: nothing more to do."""


@dataclass
class Watch:
    """A clock that stands still while validation accuracy is read, a target that ends the run, and where it runs."""

    task: Task
    target: float
    every: int
    """Updates between two readings."""
    plan: ExecutionPlan = field(default_factory=plain_plan)
    fused: bool | None = None
    """True under a plan of superconv's, whose optimizers are fused; none leaves torch's choice."""
    points: list[tuple[float, int, float]] = field(default_factory=list)
    """Seconds, updates and validation accuracy of each reading."""
    peak: float | None = None
    """What the method took as its largest rate."""

    def __post_init__(self) -> None:
        self._began, self._paused = time.perf_counter(), 0.0

    def network(self) -> Planned:
        """A fresh network under the plan."""
        return Planned(self.task.model(), self.plan)

    @property
    def seconds(self) -> float:
        """Time so far, readings apart."""
        wait(self.plan.device)
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
        device = next(network.parameters()).device
        with torch.inference_mode():
            split = self.task.validation.batches(in_order(len(self.task.validation), 1000), seed=0, augment=False)
            right = sum(int((network(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in split)
        accuracy = right / len(self.task.validation)
        self.points.append((seconds, step, accuracy))
        self._paused += time.perf_counter() - began
        if accuracy >= self.target:
            raise TargetReachedError


def data_loader(task: Task, batch_size: int) -> DataLoader:
    """Torch's, shuffling."""
    return DataLoader(Images(task), batch_size=batch_size, shuffle=True, drop_last=True)


def sgd(network: nn.Module, rate: float, *, fused: bool | None = None) -> torch.optim.SGD:
    """The optimizer of all peers that bring none: momentum 0.9, decay 1e-4."""
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, fused=fused)


def plain_loop(
    watch: Watch,
    network: Planned,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    steps: int,
    *,
    after: Callable[[], object] = lambda: None,
    reading: Callable[[], object] = contextlib.nullcontext,
) -> None:
    """A training loop as in every tutorial; `after` every update, `reading` around every look at the accuracy."""
    batches: Iterator = itertools.chain.from_iterable(itertools.repeat(loader))
    scaled = scaler(watch.plan)
    for step, (images, labels) in enumerate(itertools.islice(batches, steps), 1):
        network.train()
        loss = F.cross_entropy(network(images), labels.to(watch.plan.device))
        optimizer.zero_grad()
        scaled.scale(loss).backward()
        scaled.step(optimizer)
        scaled.update()
        after()
        if step % watch.every == 0 or step == steps:
            with reading():
                watch.read(step, network, last=True)


def sgd_steps(watch: Watch, batch_size: int, steps: int) -> None:
    """SGD 0.1, a tenth at half and at three quarters of the run (He et al.'s CIFAR runs)."""
    network, loader = watch.network(), data_loader(watch.task, batch_size)
    watch.peak = 0.1
    optimizer = sgd(network, watch.peak, fused=watch.fused)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    plain_loop(watch, network, optimizer, loader, steps, after=scheduler.step)


def lr_finder(watch: Watch, batch_size: int, steps: int) -> None:
    """pytorch-lr-finder, then torch's OneCycleLR."""
    network, loader = watch.network(), data_loader(watch.task, batch_size)
    watch.peak = steepest(network, sgd(network, 1e-7, fused=watch.fused), loader)
    optimizer = sgd(network, watch.peak, fused=watch.fused)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, watch.peak, total_steps=steps + 1)
    plain_loop(watch, network, optimizer, loader, steps, after=scheduler.step)


def steepest(
    network: Planned,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> float:
    """pytorch-lr-finder as in its README (1e-7 to 100, 100 iterations) and what its plot suggests.

    The network is put back.
    """
    options = {}
    if network.plan.precision == "16-mixed":
        amp = {"device_type": "cuda", "dtype": torch.float16}
        options = {"amp_backend": "torch", "amp_config": amp, "grad_scaler": scaler(network.plan)}
    finder = torch_lr_finder.LRFinder(network, optimizer, loss, device=network.plan.device, **options)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())  # prints and a bar
    with quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder.range_test(loader, end_lr=100, num_iter=100)
    finder.reset()
    return suggested(finder.history)


def suggested(history: dict[str, list[float]]) -> float:
    """What pytorch-lr-finder's plot suggests, 1e-3 where its sweep was too short for that.

    Its plot leaves out 10 points at the start and 5 at the end, and takes the steepest by central differences; drawing
    it would cost the peer seconds.
    """
    losses, rates = history["loss"][10:-5], history["lr"][10:-5]
    return float(rates[int(np.gradient(np.array(losses)).argmin())]) if len(losses) > 1 else 1e-3


def schedule_free(watch: Watch, batch_size: int, steps: int) -> None:
    """Schedule-free AdamW at its default rate; batch-norm statistics are estimated anew before each reading."""
    network, loader = watch.network(), data_loader(watch.task, batch_size)
    optimizer = schedulefree.AdamWScheduleFree(network.parameters(), warmup_steps=max(1, steps // 20))
    optimizer.train()
    watch.peak = optimizer.param_groups[0]["lr"]
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    @contextlib.contextmanager
    def averaged() -> Iterator[None]:
        wait(watch.plan.device)
        began = time.perf_counter()
        optimizer.eval()
        with torch.no_grad():  # its README: the average needs statistics of its own
            for images, _ in itertools.islice(batches, RECALIBRATION):
                network(images)
        wait(watch.plan.device)
        watch._paused += time.perf_counter() - began
        try:
            yield
        finally:
            optimizer.train()

    plain_loop(watch, network, optimizer, loader, steps, reading=averaged)


def with_lightning(watch: Watch, batch_size: int, steps: int) -> None:
    """Lightning's `lr_find` at its defaults, then torch's OneCycleLR, by its Trainer."""
    network, loader = watch.network(), data_loader(watch.task, batch_size)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.lr, self.cycle = network, 1e-3, False

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = sgd(self, self.lr, fused=watch.fused)
            if not self.cycle:
                return optimizer
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps + 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

        def on_train_batch_end(self, outputs, batch, index):
            if self.cycle:
                watch.read(self.trainer.global_step, network, last=self.trainer.global_step == steps)
                network.train()

    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.lr = lightning_rate(module, loader, watch.plan)
        watch.peak, module.cycle = module.lr, True
        lightning_trainer(watch.plan, max_steps=steps).fit(module, loader)


def lightning_trainer(plan: ExecutionPlan, **options: object) -> "lightning.Trainer":
    """Lightning's Trainer on a plan's device and in its precision, without its bar and its logs."""
    kind, _, index = plan.device.partition(":")
    devices = 1 if kind == "cpu" else [int(index or 0)]
    return lightning.Trainer(accelerator=kind, devices=devices, precision=plan.precision, **QUIET | options)


def lightning_rate(module: "lightning.LightningModule", loader: DataLoader, plan: ExecutionPlan) -> float:
    """What Lightning's finder suggests at its defaults, 1e-3 where it suggests nothing."""
    finder = Tuner(lightning_trainer(plan, enable_checkpointing=True))
    return finder.lr_find(module, loader).suggestion() or 1e-3


PEERS: dict[str, Callable[[Watch, int, int], None]] = {
    name: method
    for name, package, method in (
        ("pytorch-lr-finder + OneCycleLR", "pytorch-lr-finder", lr_finder),
        ("Lightning lr_find + OneCycleLR", "Lightning", with_lightning),
        ("schedule-free AdamW", "schedule-free", schedule_free),
        ("SGD 0.1, steps", "", sgd_steps),
    )
    if package not in MISSING
}
