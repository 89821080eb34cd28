"""`superconv judge` on files from the field, and sweeps that are made again in the right place."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from superconv import Task
from superconv.cli import main
from superconv.rates.verdict import judge
from superconv.recipe import Recipe
from superconv.training.plan import ExecutionPlan
from superconv.training.sweep import search_rates
from superconv.training.task import accuracy


def history() -> dict[str, list[float]]:
    lr = np.geomspace(1e-5, 1, 60)
    loss = 2.3 - 1.8 / (1 + (1e-3 / lr) ** 2) + np.where(lr > 0.05, 20 * (lr - 0.05), 0)
    return {"lr": lr.tolist(), "loss": (loss + 0.01 * np.random.default_rng(0).standard_normal(60)).tolist()}


def run(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["h.json", "h.csv"])
def test_judge_says_what_it_judged_in_which_direction_and_which_peak_it_suggests(tmp_path, capsys, name):
    columns = history()
    rows = "\n".join(f"{lr},{loss}" for lr, loss in zip(*columns.values(), strict=True))
    (tmp_path / name).write_text(json.dumps(columns) if name == "h.json" else f"lr,loss\n{rows}\n")
    said = run(capsys, "judge", tmp_path / name)
    assert "judged training loss, better when lower" in said
    assert "suggested peak" in said
    assert "has risen" in said
    found = json.loads(run(capsys, "judge", tmp_path / name, "--json"))
    assert (found["judged"], found["higher_is_better"]) == ("training loss", False)
    assert 0.003 < found["suggested_lr"] < 0.1


def test_judge_takes_a_column_the_other_way_round_where_that_is_said(tmp_path, capsys):
    rows = "\n".join(f"{0.01 * i},{abs(i - 20)}" for i in range(40))
    (tmp_path / "c.csv").write_text(f"lr,mystery\n{rows}\n")
    assert "validation mystery, better when higher" in run(capsys, "judge", tmp_path / "c.csv")
    assert "validation mystery, better when lower" in run(capsys, "judge", tmp_path / "c.csv", "--lower-is-better")


def test_judge_of_a_table_in_json_still_imports_no_torch(tmp_path):
    (tmp_path / "h.json").write_text(json.dumps(history()))
    code = "import sys; from superconv.cli import main; main(['judge', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "h.json")], check=False).returncode == 0


def test_a_sweep_that_began_far_past_all_useful_rates_is_made_again_where_they_are():
    """Numbers in the hundreds: the first sweep to 0.6 broke down after seven updates, and 0.3 was all it could say."""
    draw = torch.Generator().manual_seed(5)
    x = 300 + 300 * torch.rand(2000, 12, generator=draw)
    y = x[:, :3].argmax(1)

    task = Task(
        name="hundreds",
        model=lambda: nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)),
        train=(x[:1400], y[:1400]),
        validation=(x[1400:1700], y[1400:1700]),
        loss=F.cross_entropy,
        metric=accuracy,
    )
    recipe = Recipe(
        steps=100, batch_size=32, max_lr=1.0, schedule="constant", min_momentum=None, momentum=0.9, optimizer_args={}
    )
    plan = ExecutionPlan.choose(device="cpu", plan="fp32,channels_first,threads=1")
    first, aimed = (search_rates(task, recipe, plan=plan, aimed=aimed) for aimed in (False, True))
    assert first.verdict.lr_max is None
    assert first.curve.lr[-1] > 0.1
    assert aimed.curve.lr[-1] < 0.01
    assert len(aimed.curve.lr) > 50
    assert 1e-5 < aimed.verdict.suggested_lr < 3e-3
    assert aimed.updates > first.updates
    assert aimed.verdict == judge(aimed.curve)
