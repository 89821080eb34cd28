"""What an experiment is: arms, each a run spec to be made from several seeds, beside the author's number or log."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from superconv.specs.run import RunSpec

ExperimentKind = Literal["training", "range_test", "estimate"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    """In legends and tables."""
    specs: tuple[RunSpec, ...]
    """Of seed 0. Of several, the one with the best validation accuracy is used; all but it are made for seed 0 only."""
    log: str | None = None
    """The author's log of this run, or of what it stands for at another scale."""
    paper: float | None = None
    """Final test accuracy in the paper (or arXiv 1803.09820), where there is no log."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A figure or table of the paper at one scale."""

    name: str
    """On the command line."""
    title: str
    figure: str
    """Where it stands in the paper."""
    kind: ExperimentKind = "training"
    arms: Mapping[str, Arm] = field(default_factory=dict)
    """By a short key, which claims use."""
    seeds: int = 3
    note: str = ""
    """What differs from the paper's; where there are no arms, why not."""

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """All distinct runs, as many as are made: of candidates seed 0 of all, and the first for the one to come."""
        every = [
            replace(spec, seed=seed)
            for arm in self.arms.values()
            for i, spec in enumerate(arm.specs)
            for seed in range(self.seeds if i == 0 else 1)
        ]
        return tuple(dict(zip(map(identity, every), every, strict=True)).values())


def identity(spec: RunSpec) -> str:
    """The hash of what a run computes, wherever that is: execution plan and device left out."""
    return replace(spec, plan=None, device="auto").hash
