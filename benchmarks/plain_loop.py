"""A peak that the run finds, beside a usual constant rate, in the same plain loop: digits, 8 epochs, batches of 64.

    python benchmarks/plain_loop.py [--seeds 20] [--show]

An MLP, a CNN and a CNN with batch norm; SGD at 0.1 without momentum, and AdamW at 1e-3. `OneCycle(max_lr="auto")` takes
the very same optimizer. Rows are paired by seed, and kept one by one in results/benchmarks/plain_loop.json.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

import records
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from superconv import OneCycle, files
from superconv.data.reading.digits import load_digits

EPOCHS, BATCH = 8, 64
NETWORKS = ("mlp", "cnn", "cnn with batch norm")
OPTIMIZERS = {"SGD 0.1": lambda p: torch.optim.SGD(p, lr=0.1), "AdamW 1e-3": lambda p: torch.optim.AdamW(p, lr=1e-3)}
SCHEDULES = ("constant", "auto", "auto with a probe")


def network(kind: str) -> nn.Module:
    """A small network for digits."""
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    norms = [nn.BatchNorm2d(16), nn.BatchNorm2d(32)] if "norm" in kind else [nn.Identity(), nn.Identity()]
    first = [nn.Conv2d(1, 16, 3, padding=1), norms[0], nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), norms[1], nn.ReLU()]
    return nn.Sequential(*first, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))


def run(kind: str, optimizer_name: str, schedule: str, seed: int, splits: dict) -> dict:
    """One training; what is stored of it."""
    (x, y), (test_x, test_y) = splits["train"], splits["test"]
    torch.manual_seed(seed)
    model, began = network(kind), time.perf_counter()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    order = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True, generator=order, drop_last=True
    )
    scheduler = None
    if schedule != "constant":
        x0, y0 = x[:BATCH], y[:BATCH]
        probe = (lambda: F.cross_entropy(model(x0), y0)) if "probe" in schedule else None
        scheduler = OneCycle(optimizer, "auto", EPOCHS * len(loader), model=model, probe=probe)
    for _ in range(EPOCHS):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step(loss)
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).float().mean())
    row = {"network": kind, "optimizer": optimizer_name, "schedule": schedule, "seed": seed, "accuracy": accuracy}
    if scheduler:
        row |= {"max_lr": scheduler.max_lr, "lost": scheduler.lost, "events": [e.what for e in scheduler.events]}
    return row | {"seconds": round(time.perf_counter() - began, 2)}


def show(rows: list[dict]) -> None:
    """How far each is above the constant rate, in points: mean, worst seed."""
    table = Table("network", "optimizer", "schedule", "accuracy, %", "above constant: mean", "worst", "peaks", "seeds")
    for kind in NETWORKS:
        for name in OPTIMIZERS:
            own = [row for row in rows if (row["network"], row["optimizer"]) == (kind, name)]
            base = {row["seed"]: row["accuracy"] for row in own if row["schedule"] == "constant"}
            for schedule in SCHEDULES:
                these = [row for row in own if row["schedule"] == schedule and row["seed"] in base]
                if not these:
                    continue
                above = [100 * (row["accuracy"] - base[row["seed"]]) for row in these]
                peaks = sorted(row["max_lr"] for row in these) if schedule != "constant" else []
                table.add_row(
                    kind, name, schedule, f"{100 * fmean(r['accuracy'] for r in these):.2f}", f"{fmean(above):+.2f}",
                    f"{min(above):+.1f}", f"{peaks[0]:.2g} to {peaks[-1]:.2g}" if peaks else "", str(len(these)),
                )  # fmt: skip
    Console(width=140).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--show", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/plain_loop.json"))
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    done = {tuple(row[k] for k in ("network", "optimizer", "schedule", "seed")) for row in stored["rows"]}
    if not given.show:
        read = load_digits().splits
        splits = {}
        for split in ("train", "test"):
            x, y = (torch.as_tensor(each) for each in read[split])
            splits[split] = x.reshape(-1, 1, 8, 8).float() / 255 - 0.5, y
        for seed in range(given.seeds):
            for kind in NETWORKS:
                for name in OPTIMIZERS:
                    for schedule in SCHEDULES:
                        if (kind, name, schedule, seed) not in done:
                            stored["rows"].append(run(kind, name, schedule, seed, splits))
            stored |= {"command": records.command(), **records.place("cpu")}
            files.write_json(given.out, stored)
    show(stored["rows"])


if __name__ == "__main__":
    main()
