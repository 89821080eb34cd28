"""The README's examples run as printed."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import superconv
from superconv.data import TensorSource
from superconv.data.reading.digits import load_digits

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, re.DOTALL)[1]


def test_range_test_and_one_cycle_in_a_plain_loop():
    images, labels = map(torch.as_tensor, load_digits().splits["train"])
    images = images.float().flatten(1) / 255
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    before = [p.clone() for p in model.parameters()]
    scope = {"superconv": superconv, "F": F, "model": model, "optimizer": optimizer, "loader": loader}
    exec(example("range-test"), scope)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert scope["verdict"].lr_max > 0
    exec(example("one-cycle"), scope)
    accuracy = (model(images).argmax(1) == labels).float().mean()
    assert accuracy > 0.9


def test_no_rate_to_choose_in_a_plain_loop():
    images, labels = map(torch.as_tensor, load_digits().splits["train"])
    images = images.float().flatten(1) / 255
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    exec(example("auto"), {"superconv": superconv, "F": F, "model": model, "optimizer": optimizer, "loader": loader})
    assert (model(images).argmax(1) == labels).float().mean() > 0.95


def test_a_task_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = map(torch.as_tensor, load_digits().splits["train"])
    images = images.float().flatten(1) / 255
    scope = {"superconv": superconv, "F": F, "TensorSource": TensorSource}
    scope |= {"make_model": lambda: torch.nn.Linear(64, 10), "images": images[200:], "labels": labels[200:]}
    scope |= {"held_out_images": images[:200], "held_out_labels": labels[:200]}
    exec(example("task"), scope)
    assert scope["result"].scores["validation_accuracy"] > 0.9
    assert Path("runs/mine/report.html").exists()


def test_the_table_for_users_of_torch_gives_torch_s_own_cycle():
    text = (Path(__file__).parents[1] / "docs" / "schedulers.md").read_text(encoding="utf-8")
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    scope = {"superconv": superconv, "optimizer": optimizer}
    exec(re.search(r"<!-- example: torch-defaults -->\n```python\n(.*?)```", text, re.DOTALL)[1], scope)
    theirs = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=1000)
    for _ in range(999):
        ours, expected = optimizer.param_groups[0], theirs.param_groups[0]
        assert abs(ours["lr"] - expected["lr"]) < 0.001
        assert abs(ours["momentum"] - expected["momentum"]) < 0.002
        for each, scheduler in ((optimizer, scope["schedule"]), (theirs, schedule)):
            each.step()
            scheduler.step()
