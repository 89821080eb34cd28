"""All experiments, in the order of the paper, and what of it is left out."""

from collections.abc import Callable, Mapping

from superconv.errors import UserError
from superconv.reproduction import balance, cycles, networks
from superconv.reproduction import range_tests as sweeps
from superconv.reproduction.experiment import Experiment
from superconv.reproduction.scales import Scale

_MAKERS: tuple[Callable[[Scale], Experiment], ...] = (
    cycles.figure_1a,
    cycles.figure_1b,
    cycles.baseline,
    cycles.max_rate,
    sweeps.figure_2a,
    sweeps.figure_2b,
    sweeps.figure_4,
    sweeps.figure_5,
    cycles.table_1,
    cycles.depth,
    cycles.batch,
    cycles.cifar100,
    balance.adaptive,
    balance.dropout,
    sweeps.dropout_range,
    balance.momentum,
    balance.weight_decay,
    sweeps.decay_range,
    sweeps.bottleneck,
    networks.wide,
    networks.dense,
    networks.shallow,
    networks.mnist,
    networks.imagenet,
)

LEFT_OUT: Mapping[str, str] = {
    "Figures 3a and 3b": "pictures of loss surfaces, borrowed from Goodfellow et al.",
    "Table 5": "the layers of ResNet-56: `resnet56-author` is that network, and tests count its parameters",
    "LeNet with Caffe's policy inv": "a second baseline within 0.03 points of the first",
    "range tests with decay on biases and with renamed layers (Figure 4a)": "the same network written three times",
}


def experiments(scale: Scale) -> dict[str, Experiment]:
    """All experiments at a scale, by name."""
    made = [maker(scale) for maker in _MAKERS]
    return {experiment.name: experiment for experiment in made}


def chosen(scale: Scale, names: tuple[str, ...]) -> dict[str, Experiment]:
    """The experiments of these names, in their order; `all` is all of them.

    Raises:
        UserError: There is none of a name.
    """
    every = experiments(scale)
    if unknown := [name for name in names if name not in (*every, "all")]:
        raise UserError(f"there is no experiment {unknown[0]!r}; there are {', '.join(every)}, or all")
    return every if "all" in names else {name: every[name] for name in names}
