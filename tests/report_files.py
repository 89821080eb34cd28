"""Files of runs as they are left behind, for the tests of reports and figures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from superconv import files
from superconv.history import History
from superconv.rates import schedules
from superconv.rates.curve import Curve
from superconv.rates.verdict import judge
from superconv.recipe import Recipe

STEPS = 500


def sweep(
    *,
    edge: float,
    steps: int = 150,
    exponential: bool = False,
    seed: int = 0,
    validated: bool = True,
    loss_only: bool = False,
) -> Curve:
    """A sweep that rises, stays, and falls at `edge`."""
    rng = np.random.default_rng(seed)
    rise = schedules.exponential_range if exponential else schedules.linear_range
    rate = rise(steps, 10.0, start_lr=1e-6) if exponential else rise(steps, 1.5 * edge)
    lr = [rate(t) for t in range(steps)]
    good = [1 / (1 + np.exp(-2.2 * np.log10(max(r, 1e-9) / (edge / 25)))) / (1 + (r / edge) ** 12) for r in lr]
    accuracy = np.clip([0.1 + 0.84 * g + rng.normal(0, 0.05) for g in good], 0, 1).tolist()
    loss = [
        2.35 - 2.1 * g + abs(rng.normal(0, 0.08)) + (0 if r < edge else 8 * (r / edge - 1) ** 2)
        for g, r in zip(good, lr, strict=True)
    ]
    empty: tuple[None, ...] = (None,) * steps
    every = [t % (steps // 20) == 0 for t in range(steps)]
    return Curve(
        lr=tuple(lr),
        step=tuple(range(steps)),
        seed=(seed,) * steps,
        train_loss=tuple(map(float, loss)),
        train_metric=empty if loss_only else tuple(accuracy),
        validation_loss=empty,
        validation_metric=empty
        if loss_only or not validated
        else tuple(
            float(0.1 + 0.82 * g) + 0.02 * rng.normal() if e else None for e, g in zip(every, good, strict=True)
        ),
        metric="loss" if loss_only else "accuracy",
        higher_is_better=True,
        total_steps=steps,
        max_lr=lr[-1],
    )


def write_run(
    folder: Path,
    *,
    name: str = "digits, mlp",
    metric: str = "accuracy",
    max_lr: float = 0.31,
    seed: int = 0,
    swept: bool = True,
    finished: bool = True,
    tested: bool = True,
    **changes: Any,
) -> Path:
    """The files of a run, as `superconv fit` leaves them."""
    rng = np.random.default_rng(seed)
    why = "range test over 150 updates: the plateau ends there" if swept else "given"
    recipe = Recipe(
        steps=STEPS,
        batch_size=32,
        max_lr=max_lr,
        reasons={"max_lr": why, "batch_size": "about a fortieth of 1293 samples"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "data": "digits",
        "model": "mlp",
        "model_args": {},
        "validation": 0.1,
        "flip": "none",
        "shift": 1,
        "weights": None,
    }
    files.write_json(folder / "spec.json", {"task": task, "choices": {"epochs": None}, "seed": seed})
    files.write_text(folder / "recipe.yaml", recipe.to_yaml())
    if swept:
        explored, curve = sweep(edge=0.45, steps=100, exponential=True, validated=False), sweep(edge=0.45, seed=seed)
        value = {
            "exploration": explored.to_dict(),
            "curve": curve.to_dict(),
            "verdict": asdict(judge(curve)),
            "seconds": 3.1,
        }
        files.write_json(folder / "range_test.json", value)
    rate, momentum = recipe.learning_rate(), recipe.momentum_schedule()
    assert momentum is not None
    with History(folder / "history.jsonl") as history:
        for step in range(5, STEPS + 1 if finished else 241, 5):
            done = 1 - np.exp(-step / 70)
            row = {"step": step, "lr": rate(step - 1), "momentum": momentum(step - 1)}
            row["train_loss"] = 2.3 * (1 - done) + 0.03 + 0.06 * abs(rng.normal())
            row |= {} if metric == "loss" else {f"train_{metric}": min(1.0, 0.1 + 0.88 * done + 0.02 * rng.normal())}
            if step % 50 == 0:
                row["validation_loss"] = 2.3 * (1 - done) + 0.09 + 0.02 * rng.normal()
                row |= {} if metric == "loss" else {f"validation_{metric}": 0.1 + 0.86 * done + 0.01 * rng.normal()}
            history.append(row | {"seconds": step / 60, "images_per_second": 15200.0})
    numbers = {
        "name": name,
        "metric": metric,
        f"validation_{metric}": 0.9722,
        "validation_loss": 0.1123,
        **({f"test_{metric}": 0.96389, "test_loss": 0.1402} if tested else {}),
        "steps": STEPS,
        "stopped": None,
        "seconds": 8.437,
        "search_seconds": 3.113 if swept else 0.0,
        "images_per_second": 15234.7,
        "seed": seed,
        "spec_hash": "0a1b2c3d4e5f",
        "plan": {"device": "cpu", "precision": "32-true", "channels_last": True, "compiled": None, "threads": None},
        "machine": "2 x86_64 cores, 2 threads",
        "versions": {"superconv": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.2"},
        "samples": 1293,
        "model": {"name": "mlp", "num_classes": 10, "image_shape": [1, 8, 8], "batch_norm_size": None, "args": {}},
        "class_names": [str(digit) for digit in range(10)],
        "mean": [0.3053],
        "std": [0.3762],
        "task": task,
        "command": "superconv fit digits --model mlp --shift 1",
        **changes,
    }
    if finished:
        files.write_json(folder / "run.json", numbers)
    return folder


def comparison(*, ratio: float | None = 4.0) -> dict[str, Any]:
    """What `superconv compare` writes."""

    def rows(top: float) -> list[dict[str, Any]]:
        means = {steps: top - 40 / steps for steps in (200, 400, 800, 1600)}
        return [
            {
                "steps": n,
                "validation": [m] * 3,
                "test": [m - 0.01, None, m],
                "mean": m,
                "low": m - 0.01,
                "high": m + 0.01,
            }
            for n, m in means.items()
        ]

    line = {
        "baseline": "piecewise",
        "baseline_steps": 1600,
        "one_cycle_steps": ratio and int(1600 / ratio),
        "ratio": ratio,
        "low": ratio and 2.0,
        "high": None,
        "reason": "one cycle of 400 updates reaches piecewise at 1600",
    }
    return {
        "name": "mnist, lenet",
        "metric": "accuracy",
        "schedules": {"one_cycle": rows(0.99), "piecewise": rows(0.91234)},
        "speed_up": [line],
        "rates": {"one_cycle": 0.1, "piecewise": 0.02},
        "seeds": [0, 1, 2],
        "machine": "2 x86_64 cores",
        "command": "superconv compare mnist --model lenet",
    }
