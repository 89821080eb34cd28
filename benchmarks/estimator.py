"""What `CurvatureEstimate` costs: its own calls within real training steps of ResNet-20, as a share of the step.

    python benchmarks/estimator.py [--batch-size 256] [--steps 30] [--out results/benchmarks/estimator.json]

Each form is attached to the same kind of run in turn, rounds alternate between the forms, and medians are reported. The
calls are timed from inside, because the difference of two step times is noisier than the cost itself.
"""

import argparse
import statistics
import time
from pathlib import Path

import records
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from superconv import files, models
from superconv.rates.hessian_free import CurvatureEstimate

FORMS = {
    "plain": {"form": "plain"},
    "corrected": {"form": "corrected"},
    "corrected, L2": {"form": "corrected", "norm": "l2"},
}


class Timed(CurvatureEstimate):
    """The estimate with a clock around its hooks."""

    spent = 0.0

    def _before(self, *args):
        began = time.perf_counter()
        super()._before(*args)
        self.spent += time.perf_counter() - began

    def _after(self, *args):
        began = time.perf_counter()
        super()._after(*args)
        self.spent += time.perf_counter() - began


def round_of(name: str, batch_size: int, steps: int) -> tuple[list[float], list[float], float]:
    """Seconds of each step, of the estimate within it, and copies of the parameters that are kept."""
    torch.manual_seed(0)
    network = models.create("resnet20", num_classes=10, image_shape=(3, 32, 32))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))
    estimate = Timed(optimizer, **FORMS[name])
    whole, own = [], []
    for step in range(steps + 4):
        estimate.spent, began = 0.0, time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if step >= 4:  # warm-up, and the steps in which copies are made
            whole.append(time.perf_counter() - began)
            own.append(estimate.spent)
    part = estimate.state_dict()["parts"][0]
    kept = sum(t.numel() for t in (*part["first"], *part["second"]))
    return whole, own, kept / sum(p.numel() for p in network.parameters())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/estimator.json"))
    given = parser.parse_args()
    measured = {name: ([], [], []) for name in FORMS}
    for _ in range(given.rounds):
        for name in FORMS:
            for kept, new in zip(measured[name], round_of(name, given.batch_size, given.steps), strict=True):
                kept.extend(new if isinstance(new, list) else [new])
    table = Table("form", "step (ms)", "estimate (ms)", "share of the step", "spread", "copies of the parameters")
    rows = {}
    for name, (whole, own, copies) in measured.items():
        shares = [o / (w - o) for w, o in zip(whole, own, strict=True)]
        low, _, high = statistics.quantiles(shares, n=4)
        rows[name] = {
            "step_ms": 1e3 * statistics.median(whole),
            "estimate_ms": 1e3 * statistics.median(own),
            "share": statistics.median(shares),
            "share_quartiles": [low, high],
            "parameter_copies": copies[0],
        }
        row = rows[name]
        table.add_row(
            name,
            f"{row['step_ms']:.0f}",
            f"{row['estimate_ms']:.2f}",
            f"{row['share']:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{row['parameter_copies']:.2f}",
        )
    Console().print(table)
    facts = {"batch_size": given.batch_size, "model": "resnet20", "precision": "fp32", "steps": len(whole)}
    files.write_json(given.out, {"forms": rows, **facts, "command": records.command(), **records.place("cpu")})


if __name__ == "__main__":
    main()
