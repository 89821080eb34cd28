"""Does a run find its own peak on causal transformers, from scratch and in fine-tuning? Beside grids in factors of 2.

    python benchmarks/ramps_transformers.py [--kinds text-64 …] [--seeds 0 1] [--minutes 20]
    python benchmarks/ramps_transformers.py --show

From scratch: two pre-norm layers of widths 64, 128 and 256 write Python's help (AdamW, decay 0.01, batches of 32
windows of 64 characters, gradients clipped to 1). Fine-tuning: the network of width 128, trained for 800 updates on
the help, goes on with source code of the standard library, whole or by LoRA (rank 8, in the feed-forward layers).
All train in one plain loop; the grid's peaks are those of `OneCycle` with a number, whose cycle is the same. Losses
are of a validation part, in nats a character. Rows are kept one by one in
results/benchmarks/ramps_transformers.json.
"""

import argparse
import copy
import json
import sysconfig
import time
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean

import records
import torch
from regret_tasks import WINDOW, CharacterModel, per_position
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from superconv import OneCycle, files

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
BATCH, CLIP, DECAY, PRE_TRAINED = 32, 1.0, 0.01, 0.004
KINDS = {  # updates, peaks of the grid
    "text-64": (800, (0.002, 0.004, 0.008, 0.016)),
    "text-128": (800, (0.001, 0.002, 0.004, 0.008)),
    "text-256": (800, (0.0005, 0.001, 0.002, 0.004)),
    "tune-code": (300, (0.0005, 0.001, 0.002, 0.004)),
    "lora-code": (300, (0.0025, 0.005, 0.01, 0.02)),
}
METHODS = ("auto with a probe", "auto")


class LoRA(nn.Module):
    """A frozen linear layer and what is added to it (arXiv 2106.09685)."""

    def __init__(self, linear: nn.Linear, *, rank: int = 8) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(requires_grad=False)
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, changed by a product of low rank."""
        return self.linear(x) + 2 * (x @ self.down.T) @ self.up.T


@cache
def windows(of: str) -> tuple[Tensor, Tensor]:
    """Windows of a text, to train and to validate: (n, 65) codes of characters."""
    if of == "help":
        text = "\n".join(topics[key] for key in sorted(topics))
    else:
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sources[:60])
    codes = torch.tensor([ALPHABET.index(c) for c in text if c in ALPHABET])
    whole = codes[: len(codes) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)
    cut = round(0.9 * len(whole))
    return whole[:cut], whole[cut : cut + 320]


def trained(model: nn.Module, of: str, updates: int, peak: float | str, seed: int, *, probed: bool = False) -> dict:
    """Train a network, and give its validation loss before and after."""
    train, held_out = windows(of)
    order = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=DECAY)

    def loss_of(batch: Tensor) -> Tensor:
        return per_position(model(batch[:, :-1]), batch[:, 1:])

    def validated() -> float:
        with torch.no_grad():
            return fmean(float(loss_of(part)) for part in held_out.split(BATCH))

    before = validated()
    options: dict = {}
    if peak == "auto":
        aside = train[torch.randint(len(train), (BATCH,), generator=order)]
        options = {"model": model, "probe": (lambda: loss_of(aside)) if probed else None}
    scheduler = OneCycle(optimizer, peak, updates, **options)
    for _ in range(updates):
        loss = loss_of(train[torch.randint(len(train), (BATCH,), generator=order)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        scheduler.step(loss)
    row = {"before": before, "loss": validated(), "max_lr": scheduler.max_lr}
    return row | ({"lost": scheduler.lost, "events": [e.reason for e in scheduler.events]} if peak == "auto" else {})


@cache
def pre_trained() -> nn.Module:
    """The network that is fine-tuned."""
    torch.manual_seed(0)
    model = CharacterModel(len(ALPHABET), width=128)
    trained(model, "help", 800, PRE_TRAINED, 0)
    return model


def network(kind: str, seed: int) -> tuple[nn.Module, str]:
    """A network as a kind begins with it, and the text that it learns."""
    if kind.startswith("text"):
        torch.manual_seed(seed)
        return CharacterModel(len(ALPHABET), width=int(kind.partition("-")[2])), "help"
    model = copy.deepcopy(pre_trained())
    torch.manual_seed(seed)
    if kind.startswith("lora"):
        model.requires_grad_(requires_grad=False)
        for layer in model.layers.layers:
            layer.linear1, layer.linear2 = LoRA(layer.linear1), LoRA(layer.linear2)
    return model, "code"


def show(rows: list[dict]) -> None:
    """Print how far each is from the grid's best."""
    table = Table("kind", "before", "grid: loss at peak", "method", "loss, seed by seed", "above the grid", "peaks")
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        grid: dict[float, list[float]] = {}
        for row in own:
            if row["method"] == "grid":
                grid.setdefault(row["max_lr"], []).append(row["loss"])
        if not grid:
            continue
        best = min(fmean(losses) for losses in grid.values())
        words = ", ".join(f"{fmean(losses):.3f} at {peak:g}" for peak, losses in sorted(grid.items()))
        for method in METHODS:
            if these := [row for row in own if row["method"] == method]:
                losses = [row["loss"] for row in these]
                table.add_row(
                    kind, f"{own[0]['before']:.3f}", words, method, " ".join(f"{loss:.3f}" for loss in losses),
                    f"{100 * (fmean(losses) / best - 1):+.1f} % (worst {100 * (max(losses) / best - 1):+.1f})",
                    " ".join(f"{row['max_lr']:.2g}" for row in these),
                )  # fmt: skip
    Console(width=160).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--show", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/ramps_transformers.json"))
    given = parser.parse_args()
    end = time.perf_counter() + 60 * given.minutes
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    done = {(row["kind"], row["method"], row["seed"], row.get("asked")) for row in stored["rows"]}
    for kind in [] if given.show else given.kinds:
        updates, peaks = KINDS[kind]
        jobs = [(m, s, "auto") for s in given.seeds for m in METHODS] + [
            ("grid", s, p) for s in given.seeds for p in peaks
        ]
        for method, seed, peak in jobs:
            if (kind, method, seed, peak) in done or time.perf_counter() > end:
                continue
            began = time.perf_counter()
            model, of = network(kind, seed)
            row = trained(model, of, updates, peak, seed, probed="probe" in method)
            row = {"kind": kind, "method": method, "seed": seed, "asked": peak, "updates": updates, **row}
            stored["rows"].append(row | {"seconds": round(time.perf_counter() - began, 1)})
            stored |= {"command": records.command(), **records.place("cpu")}
            files.write_json(given.out, stored)
            lost = f", lost {row['lost']:.0f}" if "lost" in row else ""
            print(
                f"{kind} {method} seed {seed}: {row['before']:.3f} → {row['loss']:.3f} at {row['max_lr']:.3g}{lost}",
                flush=True,
            )
    show(stored["rows"])


if __name__ == "__main__":
    main()
