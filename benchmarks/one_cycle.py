"""What `OneCycle(max_lr="auto")` costs an update after its ramp, beside the same loop under torch's OneCycleLR.

    python benchmarks/one_cycle.py

One thread, alternating blocks in one process; the median of paired ratios. A ResNet-20 (batch 64, 32 × 32) and an MLP
whose update takes about a millisecond.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import records
import torch
import torch.nn.functional as F
from torch import nn

from superconv import OneCycle, files, models

CASES = {"ResNet-20": (64, 4), "MLP, about 1 ms": (64, 300)}  # batch, updates of a block


def network(name: str) -> nn.Module:
    """A network of the benchmark."""
    torch.manual_seed(0)
    if name == "ResNet-20":
        return models.create("resnet20", num_classes=10, image_shape=(3, 32, 32))
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def looped(name: str, *, watched: bool) -> tuple[Callable[[int], float], OneCycle | None]:
    """A loop that makes so many updates and tells the seconds of one."""
    model, (batch, _) = network(name), CASES[name]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    if watched:
        scheduler = OneCycle(optimizer, "auto", 100_000, model=model)
    else:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=100_000)

    def block(updates: int) -> float:
        began = time.perf_counter()
        for _ in range(updates):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if watched:
                scheduler.step(loss)
            else:
                scheduler.step()
        return (time.perf_counter() - began) / updates

    return block, scheduler if watched else None


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/one_cycle.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (_, updates) in CASES.items():
        (plain, _), (watched, scheduler) = looped(name, watched=False), looped(name, watched=True)
        while scheduler.phase == "ramp":
            watched(1)
        plain(updates), watched(updates)
        pairs = []
        for i in range(given.rounds):
            first, second = (plain, watched) if i % 2 else (watched, plain)
            a, b = first(updates), second(updates)
            pairs.append((a, b) if i % 2 else (b, a))
        ratios = [b / a - 1 for a, b in pairs]
        own = statistics.median(b - a for a, b in pairs)
        rows.append({"network": name, "update_ms": 1e3 * statistics.median(a for a, _ in pairs), "overhead": ratios})
        rows[-1]["own_us"] = 1e6 * own
        share = 100 * statistics.median(ratios)
        print(f"{name}: update {rows[-1]['update_ms']:.2f} ms, overhead {share:+.2f} %, {1e6 * own:.0f} µs")
    files.write_json(given.out, {"rows": rows, "command": records.command(), **records.place("cpu")})


if __name__ == "__main__":
    main()
