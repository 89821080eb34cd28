"""One run as plain values: what a file can hold and a hash can name."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from superconv.files import make_native
from superconv.recipe import LATER, Recipe, plain
from superconv.specs.image_task import ImageTask

RECALIBRATED = 4
"""Batches before each reading of a range test on which batch-norm statistics are estimated anew: running ones lag
behind a rising rate."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: two equal specs are the same run and are made once."""

    task: ImageTask
    recipe: Recipe
    kind: Literal["training", "trial", "range_test"] = "training"
    """A `trial` leaves the test split alone; a `range_test` sweeps the rate to the recipe's `max_lr`, linearly from 0
    or exponentially from its `base_lr`."""
    seed: int = 0
    device: str = "auto"
    plan: str | None = None
    evaluations: int = 10
    evaluation_samples: int | None = None
    """Images of an evaluation while training; more than there are go around them, as in the paper's runs."""
    estimate: int = 0
    """Measure the curvature estimate every so many updates (`estimate.jsonl`); 0 does not."""

    def __post_init__(self) -> None:
        make_native(self)

    def plain(self) -> dict[str, Any]:
        """The spec as plain values; the recipe without its reasons, nor `LATER` fields left alone."""
        recipe = {k: v for k, v in plain(self.recipe).items() if k != "reasons" and (k, v) not in LATER.items()}
        names = ("seed", "device", "plan", "evaluations", "evaluation_samples", "estimate")
        rest = {k: getattr(self, k) for k in names}
        kind = {} if self.kind == "training" else {"kind": self.kind}
        values: dict[str, Any] = json.loads(json.dumps({"task": self.task.plain(), "recipe": recipe, **rest, **kind}))
        return values  # as JSON gives them back: a tuple is a list

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name the spec."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
