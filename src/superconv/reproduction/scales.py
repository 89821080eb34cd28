"""The three scales of a reproduction, and what their recipes and tasks have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RECALIBRATED, RunSpec

TEST_SHARE = 3.6  # images that are evaluated in the time in which one is trained on
TEST_IMAGES = 10_000
GPUS = 8  # among which the author dealt a batch
TEST_BATCHES = 200  # of a GPU's share, in one of the author's tests: 25,000 images of batches of 1,000
TESTED_EVERY = 100  # updates between two of them
MEAN_FRACTION = {20_000: 0.97, 15_000: 0.96, 10_000: 0.95, 8_000: 0.93, 6_000: 0.90, 4_000: 0.85, 2_000: 0.80}
"""Share of batch norm's averages that an update keeps, by the length of the author's cycle (his x.sh, Table 1b)."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """So many training images, and how many updates the cycle and the piecewise-constant baseline have."""

    images: int
    cycle: int
    piecewise: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large an experiment is made; what it compares is the same at every scale."""

    name: str
    about: str
    exact: bool = False
    """As the author's runs were: Caffe's solver and multipliers, batch norm over a GPU's 125 images with his averages,
    the mean image, images in order, his triangle, tests of 25,000 images. Otherwise torch's SGD, shuffled images, the
    1cycle policy, and training images held out."""
    data: str = "cifar10"
    held_out: int = 2000
    """Training images on which choices are made; the author had none."""
    batch_size: int
    depths: tuple[int, ...]
    """Of the author's ResNets, from shallow to deep; the middle one is the paper's main network at full scale."""
    main_depth: int
    headline: Length
    rest: Length
    sizes: tuple[Length, ...]
    """Of the training set, large to small (Table 1)."""
    lengths: tuple[int, ...]
    """Of the cycle (Figure 1b), short to long."""
    side: int
    """Updates of cycles that are compared with one another alone, so that none need saturate."""
    max_lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    ranges: tuple[int, ...]
    """Lengths of the range tests (Figure 2b); the middle one serves the others."""
    readings: int
    """Evaluations of a range test."""
    block_depth: int
    """Of the bottleneck and ResNeXt networks."""
    block_steps: int
    wide: str
    wide_steps: tuple[int, ...]
    """Lengths of the wide network's cycles and, last, of its baseline."""
    dense: str
    dense_trains: bool
    """Whether the dense network is trained, or only swept."""
    small_batch: int
    """Of the large networks and of LeNet."""
    mnist_epochs: tuple[float, ...]
    """Of LeNet's cycles and, last, of its baseline."""
    adaptive_steps: int
    """Of the optimizers' piecewise-constant runs."""
    seeds: int = 3
    paces: Mapping[str, float] = field(default_factory=dict)
    """Training images a second, by model."""
    pilot: str = ""
    """Why the sizes are what they are."""
    imagenet: bool = False

    def model(self, depth: int | None = None) -> str:
        """The author's ResNet of a depth, the main one by default."""
        return f"resnet{depth or self.main_depth}-author"

    def cycle(self, steps: int, max_lr: float = 3.0, **fields: Any) -> Recipe:
        """One cycle from 0.1: the author's triangle, or 1cycle with a last tenth down to 0.001."""
        shape: dict[str, Any] = {"schedule": "triangular", "warmup": 0.5} if self.exact else {"schedule": "one_cycle"}
        if self.exact and fields.get("min_momentum") is not None:
            shape = {"schedule": "one_cycle", "warmup": 0.5, "annihilation": 0.0, "final_lr": 0.1}
        return self.recipe(**{"steps": steps, "max_lr": max_lr, "base_lr": 0.1, **shape, **fields})

    def piecewise(self, steps: int, max_lr: float = 0.35, **fields: Any) -> Recipe:
        """The paper's baseline: a tenth of the rate at 5/8 and again at 7/8 of the run."""
        return self.recipe(**{"steps": steps, "max_lr": max_lr, "schedule": "piecewise", **fields})

    def range_test(self, steps: int, max_lr: float = 3.0, **fields: Any) -> Recipe:
        """A rate that rises from 0 in a straight line, as Caffe's triangle of a half-cycle of the whole run."""
        rise = {"schedule": "triangular", "base_lr": 0.0, "warmup": 1.0}
        return self.recipe(**{"steps": steps, "max_lr": max_lr, **rise, **fields})

    def recipe(self, **fields: Any) -> Recipe:
        """A recipe of the paper's constants: momentum 0.9, decay 1e-4, no Nesterov."""
        constants = {"batch_size": self.batch_size, "momentum": 0.9, "min_momentum": None, "weight_decay": 1e-4}
        return Recipe(**{**constants, **self.solver(), **fields})

    def solver(self, optimizer: str = "SGD", **args: Any) -> dict[str, Any]:
        """An optimizer, Caffe's own in place of SGD and its multipliers for all where the scale is exact."""
        name = "CaffeSGD" if self.exact and optimizer == "SGD" else optimizer
        return {"optimizer": name, "optimizer_args": {**({"caffe_multipliers": True} if self.exact else {}), **args}}

    def task(self, **fields: Any) -> ImageTask:
        """CIFAR-10 with the author's flips, on the main network; at full scale his input, order and test split too."""
        common = {"data": self.data, "model": self.model(), "flip": "random", "validation": self.held_out}
        exact = {"validation": 0, "watch_test": True, "normalization": "mean_image", "shuffle": False}
        return ImageTask(**{**common, **(exact if self.exact else {}), **fields})

    def run(self, recipe: Recipe, *, images: int | None = None, fraction: float | None = None, **task: Any) -> RunSpec:
        """A run on so many images, all of them without; `fraction` is that of the author's batch-norm averages."""
        if self.exact and "batch_norm_size" not in task:
            task |= {"batch_norm_size": recipe.batch_size // GPUS}
            kept = 0.999 if recipe.schedule == "piecewise" else MEAN_FRACTION.get(recipe.steps, 0.95)
            task |= {"batch_norm_average": fraction or kept}
        whole = images is None or images >= 50_000
        watched: dict[str, Any] = {"evaluations": 10}
        if self.exact:
            tested = TEST_BATCHES * (recipe.batch_size // GPUS)
            watched = {"evaluations": max(1, recipe.steps // TESTED_EVERY), "evaluation_samples": tested}
        return RunSpec(task=self.task(**{"train_samples": None if whole else images, **task}), recipe=recipe, **watched)

    def tuned(self, recipes: Sequence[Recipe], **options: Any) -> tuple[RunSpec, ...]:
        """Candidates for an arm: they are chosen among on images that were held out, at any scale.

        What they are compared with has to go through here too, so as to train on as many images.
        """
        apart: dict[str, Any] = {"validation": 5000, "watch_test": False} if self.exact else {}
        return tuple(replace(self.run(recipe, **apart, **options), evaluation_samples=None) for recipe in recipes)

    def sweep(self, recipe: Recipe, **options: Any) -> RunSpec:
        """A range test; the author's were trainings under Caffe's triangle, and so are those at full scale."""
        spec = self.run(recipe, **{"images": self.rest.images, "fraction": 0.95, **options})
        return spec if self.exact else replace(spec, kind="range_test", evaluations=self.readings)

    def estimate(self, recipe: Recipe, *, every: int, **options: Any) -> RunSpec:
        """A run for its curvature estimates alone."""
        spec = self.run(recipe, **{"images": self.rest.images, "fraction": 0.95, **options})
        return replace(spec, kind="trial", evaluations=0, estimate=every)

    def minutes(self, spec: RunSpec) -> float:
        """What a run takes, by the scale's paces: training, evaluations and final tests.

        Raises:
            UserError: The scale has no pace for the model.
        """
        model = str(spec.task.model)
        if model not in self.paces:
            raise UserError(f"scale {self.name} has no pace for {model}")
        pace = self.paces[model] / (1.3 if spec.estimate else 1.0)
        tested = spec.evaluations * (spec.evaluation_samples or self.held_out)
        if spec.kind == "range_test":
            tested += spec.evaluations * RECALIBRATED * spec.recipe.batch_size
        else:
            tested += self.held_out + TEST_IMAGES * (spec.kind == "training")
        return (spec.recipe.steps * spec.recipe.batch_size + tested / TEST_SHARE) / pace / 60


CPU = Scale(
    name="cpu",
    about="two cores, in parts of less than 30 minutes: 2 to 3 hours with bf16 instructions, 5 to 6 without",
    held_out=1000,
    batch_size=250,
    main_depth=8,
    depths=(8, 14),
    headline=Length(images=5000, cycle=800, piecewise=3200),
    rest=Length(images=5000, cycle=800, piecewise=3200),
    sizes=(Length(images=10_000, cycle=800, piecewise=3200), Length(images=5000, cycle=800, piecewise=3200)),
    lengths=(100, 200, 400, 800),
    side=400,
    max_lrs=(1.0, 3.0, 3.5),
    batch_sizes=(125, 250, 500),
    ranges=(200, 400, 800),
    readings=20,
    block_depth=11,
    block_steps=400,
    wide="wrn8",
    wide_steps=(400, 1200),
    dense="densenet13",
    dense_trains=False,
    small_batch=125,
    mnist_epochs=(2, 4, 8, 14),
    adaptive_steps=400,
    pilot="A pilot with 2,000 images and batches of 125 showed nothing: one cycle of 800 updates ended at 56.0 %, the "
    "piecewise-constant rate of 3,200 at 55.0, their difference within ±13 points. Hence these sizes; side "
    "experiments, which compare cycles with one another, have cycles of half the length.",
    paces={  # bf16, channels-last: three measured, the last five guessed at 1.2 to 2.5 times the fp32 of AVX2 cores
        "resnet8-author": 4100,
        "resnet14-author": 2360,
        "lenet": 18_000,
        "wrn8": 1900,
        "densenet13": 1200,
        "cifar10-full": 4000,
        "bottleneck11-author": 1500,
        "resnext11-author": 1200,
    },
)

GPU = Scale(
    name="gpu",
    about="30 minutes of one H100-class card, in parts of at most 8 minutes",
    batch_size=500,
    main_depth=20,
    depths=(8, 20, 56),
    headline=Length(images=50_000, cycle=1500, piecewise=6000),
    rest=Length(images=10_000, cycle=600, piecewise=2400),
    sizes=(Length(images=50_000, cycle=1500, piecewise=6000), Length(images=10_000, cycle=600, piecewise=2400)),
    lengths=(150, 300, 600, 1200),
    side=600,
    max_lrs=(1.0, 2.0, 3.0, 3.5),
    batch_sizes=(125, 250, 500, 1000),
    ranges=(150, 600, 1200),
    readings=50,
    block_depth=29,
    block_steps=400,
    wide="wrn14",
    wide_steps=(300, 1200),
    dense="densenet40",
    dense_trains=False,
    small_batch=250,
    mnist_epochs=(12, 25, 50),
    adaptive_steps=600,
    paces={  # estimates, not measured: bf16, channels-last
        "resnet8-author": 90_000,
        "resnet20-author": 60_000,
        "resnet56-author": 25_000,
        "resnet110-author": 12_000,
        "wrn14": 15_000,
        "densenet40": 6_000,
        "lenet": 250_000,
        "cifar10-full": 120_000,
        "bottleneck29-author": 25_000,
        "resnext29-author": 15_000,
    },
)

PAPER = Scale(
    name="paper",
    about="the author's runs as they were, days of one H100-class card",
    exact=True,
    batch_size=1000,
    main_depth=56,
    depths=(20, 56, 110),
    headline=Length(images=50_000, cycle=10_000, piecewise=80_000),
    rest=Length(images=50_000, cycle=10_000, piecewise=80_000),
    sizes=tuple(Length(images=n, cycle=10_000, piecewise=80_000) for n in (50_000, 40_000, 30_000, 20_000, 10_000)),
    lengths=(2000, 4000, 6000, 8000, 10_000, 15_000, 20_000),
    side=10_000,
    max_lrs=(1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
    batch_sizes=(256, 512, 1000, 1536),
    ranges=(5000, 20_000, 100_000),
    readings=200,
    block_depth=56,
    block_steps=20_000,
    wide="wrn32",
    wide_steps=(2450, 4900, 9800, 78_400),
    dense="densenet40",
    dense_trains=True,
    small_batch=512,
    mnist_epochs=(12, 25, 50, 85),
    adaptive_steps=80_000,
    paces={  # estimates, not measured: fp32
        "resnet20-author": 40_000,
        "resnet56-author": 15_000,
        "resnet110-author": 7_000,
        "wrn32": 3_000,
        "densenet40": 3_000,
        "lenet": 150_000,
        "cifar10-full": 80_000,
        "bottleneck56-author": 8_000,
        "resnext56-author": 4_000,
        "resnet50": 1_000,
        "timm.models.inception_resnet_v2:inception_resnet_v2": 500,
    },
    imagenet=True,
)

SCALES: Mapping[str, Scale] = {scale.name: scale for scale in (CPU, GPU, PAPER)}


def steps_of(epochs: float, images: int, batch_size: int) -> int:
    """Updates of so many passes over the images."""
    return round(epochs * images / batch_size)


def total_minutes(scale: Scale, specs: Sequence[RunSpec]) -> float:
    """What runs take together, one after the other."""
    return sum(map(partial(Scale.minutes, scale), specs))
