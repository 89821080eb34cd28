"""What can be said on a command line: each command is a dataclass, made of the same dataclasses as the API's."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from superconv.commands.specs import BalancingOptions, ChoiceOptions, ComparisonOptions, TaskOptions
from superconv.recipe import ScheduleName


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it runs."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:i."""
    plan: str | None = None
    """Words of the execution plan, such as bf16,channels_last,eager; none times a few updates, where that pays."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where the runs of a study are made."""

    executor: Literal["in-process", "pool", "ray"] = "in-process"
    """One after the other in this process, in a pool of processes, or as tasks of Ray."""
    workers: int | None = None
    """Runs at a time, in a pool or Ray; none takes one per GPU, or per core without one. They share cores and GPUs."""
    ray_address: str | None = None
    """Of a Ray cluster whose machines see this folder under the same path; none starts Ray on this machine."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run is kept."""

    out: Path | None = None
    """The run's folder; none takes the next free one under runs/."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""
    resume: bool = False
    """Go on with the unfinished run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    evaluations: int = 10
    """How often the validation split is read while training."""
    checkpoint_steps: int | None = None
    """Write a checkpoint every so many updates, besides the timed ones."""
    checkpoint_minutes: float = 2.0
    """Write a checkpoint when the last is older than so many minutes."""
    tensorboard: bool = False
    """Log to TensorBoard, in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Range test, verdict, recipe, one cycle, test and report, with no rate to choose."""

    task: OmitArgPrefixes[TaskOptions]
    choices: OmitArgPrefixes[ChoiceOptions] = field(default_factory=ChoiceOptions)
    running: OmitArgPrefixes[Running] = field(default_factory=Running)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    refit: bool = False
    """Once everything is chosen, train on the images that were held out too."""


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The LR range test of a network on a data set, with its verdict."""

    task: OmitArgPrefixes[TaskOptions]
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    max_lr: float | None = None
    """End of the sweep; 3 is the paper's. None finds the edge first, by exponential sweeps."""
    steps: int = 100
    """Updates of the sweep; the paper's are 5,000 to 100,000."""
    start_lr: float = 0.0
    """First rate of a sweep to --max-lr."""
    mode: Literal["linear", "exponential"] = "linear"
    """How the rate rises to --max-lr; an exponential sweep needs a --start-lr above 0."""
    seeds: int = 1
    """Networks to sweep, from seeds 0, 1, …"""
    batch_size: int | None = None
    """Samples per update; none takes about a fortieth of the data, 32 to 256."""
    momentum: float = 0.9
    """Momentum, or first beta."""
    weight_decay: float = 1e-4
    """Weight decay."""
    optimizer: str = "SGD"
    """Any class of torch.optim, or CaffeSGD."""
    evaluate_every: int = 5
    """Read the validation split every so many updates; 0 keeps to the training signal."""
    validation_samples: int = 2000
    """At most so many validation images at a time."""
    recalibrate_batch_norm: int = 0
    """Batches to re-estimate batch-norm statistics on before each reading; 0 takes the running ones."""
    out: Path = Path("range_test")
    """Folder for range_test.json and the figure."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train by a recipe, without any search."""

    task: OmitArgPrefixes[TaskOptions]
    recipe: Path
    """The recipe.yaml of a run, or one written by hand. It holds no network and no augmentation:
    give --model, --flip and so on again."""
    running: OmitArgPrefixes[Running] = field(default_factory=Running)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The rate that curvature allows, measured over the first updates by the paper's method and a corrected one."""

    task: OmitArgPrefixes[TaskOptions]
    schedule: ScheduleName = "one_cycle"
    """Course of the rate."""
    max_lr: float = 1.0
    """Peak of the cycle, or the other schedules' initial rate."""
    base_lr: float | None = None
    """Rate of update 0 of a cycle; none takes a tenth of the peak."""
    warmup: float = 0.45
    """Fraction of the schedule in which a cycle rises; the paper's runs have 0.5."""
    annihilation: float = 0.1
    """Fraction of the schedule, at its end, in which a cycle falls below its base rate; the paper's runs have 0."""
    total_steps: int = 10000
    """Length of the schedule in updates; the paper's cycle has 10,000."""
    steps: int = 300
    """Updates to make; the paper shows the first 300."""
    batch_size: int | None = None
    """Samples per update; none takes about a fortieth of the data, 32 to 256."""
    momentum: float = 0.9
    """Momentum, or first beta, throughout."""
    nesterov: bool = False
    """Nesterov's momentum; the paper's runs are without."""
    weight_decay: float = 1e-4
    """Weight decay."""
    optimizer: str = "SGD"
    """Any class of torch.optim, or CaffeSGD."""
    forms: tuple[Literal["plain", "plain_with_buffers", "corrected", "corrected_l2"], ...] = (
        "plain",
        "plain_with_buffers",
        "corrected",
        "corrected_l2",
    )
    """The paper's form, with and without batch-norm buffers; the corrected one by L1 and L2 norms."""
    stride: int = 1
    """Updates between the iterates that are compared; the paper's long run has 10."""
    rescale: bool = False
    """Multiply the plain forms by the stride, which the author did not."""
    probe_every: int = 0
    """Updates between two probes of the top eigenvalue λ, each worth some 20 to 80 updates of 256 samples; 0: none."""
    seed: int = 0
    """Decides initial weights, order and augmentation."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    out: Path = Path("estimate")
    """Folder for estimate.jsonl, estimate.json and the figure."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The verdict on a range test made anywhere: a CSV with the columns lr and test_accuracy, or others."""

    curve: Positional[Annotated[Path, arg(metavar="CSV")]]
    """The CSV, a history as JSON (columns by name), or a range_test.json of superconv."""
    metric: str | None = None
    """The column to judge; none takes test_accuracy, or else the only one that there is. Losses, errors, perplexities
    and the like are known to be better when lower."""
    lower_is_better: bool = False
    """The column is better when lower, whatever its name."""
    json: bool = False
    """Print one JSON object."""
    plot: Path | None = None
    """Also draw the curve into this file (png, svg, pdf)."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a run anew, or compare several on one page."""

    runs: Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """The page; none takes report.html in the run's folder, or comparison.html here for several."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify image files with the model of a run."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of a finished run."""
    images: Positional[tuple[Path, ...]]
    """Image files of any size."""
    trust: bool = False
    """Run the code that the run's files name, where its model is package.module:callable and no built-in one."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """What this machine has, what of it superconv uses, and what is missing."""

    plan: str | None = None
    """A data set: also time the execution plans for it."""
    model: str | None = None
    """The model for that; none takes one that fits the images."""
    batch_size: int = 256
    """Samples per update for that."""
    steps: int = 1000
    """Updates of the run that it is for: compiling is tried for long ones only."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several schedules at equal lengths, and say how much shorter one cycle may be."""

    task: OmitArgPrefixes[TaskOptions]
    comparison: OmitArgPrefixes[ComparisonOptions]
    batch_size: int = 128
    """Samples per update."""
    weight_decay: float = 1e-4
    """Weight decay of every run."""
    momentum: float = 0.9
    """Momentum of every run, constant unless --min-momentum is given."""
    min_momentum: float | None = None
    """Momentum at the peak of the cycle."""
    final_lr: float | None = None
    """Rate of the last update; none takes a thousandth of the peak for one_cycle, and 0 for schedules that are no
    cycle."""
    warmup: float = 0.45
    """Fraction of the run in which a cycle rises."""
    ramp: float = 0.0
    """Fraction of the run in which the rate of every schedule that is no cycle rises from 0."""
    cooldown: float = 0.2
    """Fraction of the run, at its end, in which the rate of warmup_stable_decay falls."""
    cooldown_anneal: Literal["linear", "cosine", "sqrt"] = "linear"
    """Shape of that fall; sqrt is 1 − √x."""
    annihilation: float = 0.1
    """Fraction of the run, at its end, in which a cycle falls below its base rate."""
    nesterov: bool = False
    """Nesterov's momentum; the paper's runs are without."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    execution: OmitArgPrefixes[Execution] = field(default_factory=Execution)
    out: Path = Path("comparison")
    """Folder of the comparison and its runs; what is finished there is not made again."""


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How much weight decay, and other regularization, large rates leave room for, and the recipe that follows."""

    task: OmitArgPrefixes[TaskOptions]
    balancing: OmitArgPrefixes[BalancingOptions] = field(default_factory=BalancingOptions)
    batch_size: int | None = None
    """Samples per update to start from; none takes about a fortieth of the data, 32 to 256."""
    momentum: float = 0.9
    """Momentum to start from, constant over a cycle."""
    base_lr: float | None = None
    """Rate at both feet of the cycles; none takes a tenth of each peak."""
    warmup: float = 0.45
    """Fraction of the run in which a cycle rises."""
    annihilation: float = 0.1
    """Fraction of the run, at its end, in which a cycle falls below its base rate."""
    nesterov: bool = False
    """Nesterov's momentum; the paper's runs are without."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    execution: OmitArgPrefixes[Execution] = field(default_factory=Execution)
    out: Path = Path("balance")
    """Folder of the result and its runs; what is finished there is not made again."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """The paper's experiments, beside the author's logs, with a verdict on each of its claims."""

    figures: Positional[tuple[str, ...]] = ()
    """Names of experiments, such as fig1a, or all."""
    scale: Literal["cpu", "gpu", "paper"] = "cpu"
    """cpu: 2 to 6 hours on two cores; gpu: 30 minutes on an H100; paper: as the author's runs were, for days."""
    list: bool = False
    """Only list the experiments: their runs, updates and minutes, and what is done."""
    seeds: int | None = None
    """Runs of each setting, from seeds 0, 1, …; none takes the scale's, 3."""
    minutes: float | None = None
    """Start no run that would end later than this; the same command goes on where it stopped."""
    page: Path | None = None
    """Write the page of all scales, such as docs/reproduction.md, from all results; what is named is run first."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    execution: OmitArgPrefixes[Execution] = field(default_factory=Execution)
    out: Path = Path("results/reproduction")
    """Folder of the results, one below it for each scale; what is finished there is not made again."""
    runs: Path = Path("runs/reproduction")
    """Folder of the runs themselves: checkpoints, whole histories, weights."""


@dataclass(frozen=True, kw_only=True)
class Speedrun:
    """Seconds to a target accuracy, by the small network and the recipe of the CIFAR-10 speed records."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """cifar10, or another set of images of 31 pixels or more."""
    target: float = 0.85
    """Test accuracy to reach; 0.85 suits a CPU, 0.94 a GPU."""
    seeds: int = 5
    """Runs, from seeds 0, 1, …"""
    width: int | None = None
    """Channels of the network's first group; none takes what the target needs."""
    epochs: float | None = None
    """Length of a run in passes over the data; none takes what the target needs."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    out: Path = Path("speedrun.json")
    """File for all numbers."""


Command = (
    Annotated[Fit, subcommand("fit")]
    | Annotated[RangeTest, subcommand("range-test")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Estimate, subcommand("estimate")]
    | Annotated[Judge, subcommand("judge")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Balance, subcommand("balance")]
    | Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Speedrun, subcommand("speedrun")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Doctor, subcommand("doctor")]
)
