"""NumPy's numbers where people have them from np.logspace and the like: all that is stored is plain."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from small_tasks import PLAN, kept, quadratic
from small_tasks import recipe as recipe_of
from torch import nn

from superconv import Choices, Comparison, ImageTask, OneCycle, RangeTest, Recipe, fit, train
from superconv.specs.run import RunSpec
from superconv.specs.studies import Balancing
from superconv.training.hooks import Hook

RATE, STEPS, DECAY = np.logspace(-3, 0, 4)[2], np.int64(40), np.float64(1e-4)


def numbers():
    return {"max_lr": RATE, "steps": STEPS, "weight_decay": DECAY, "batch_size": np.int32(16)}


@pytest.mark.parametrize("kind", [Recipe, Choices])
def test_recipes_and_choices_hold_plain_numbers(kind):
    made = kind(**numbers(), momentum=np.float32(0.5), label_smoothing=torch.tensor(0.1))
    assert {type(getattr(made, name)) for name in ("steps", "batch_size")} == {int}
    assert {type(getattr(made, n)) for n in ("max_lr", "weight_decay", "momentum", "label_smoothing")} == {float}


def test_a_recipe_of_numpy_numbers_is_written():
    made = Recipe(**numbers(), optimizer="AdamW", optimizer_args={"betas": (np.float64(0.8), np.float64(0.99))})
    assert "max_lr: 0.1\n" in made.to_yaml()
    assert [type(beta) for beta in made.optimizer_args["betas"]] == [float, float]


def test_an_interrupted_run_of_numpy_numbers_resumes(tmp_path):
    class Early(Hook):
        def on_update(self, run):
            run.stop = run.step == 20

    task, recipe = quadratic(), recipe_of(**numbers())
    whole = train(task, recipe, plan=PLAN, seed=np.int64(3)).model.state_dict()
    train(task, recipe, plan=PLAN, seed=np.int64(3), hooks=[Early()], **kept(tmp_path))
    again = train(task, recipe, plan=PLAN, seed=np.int64(3), resume=True, **kept(tmp_path)).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_fit_of_numpy_numbers_is_kept(tmp_path):
    result = fit(quadratic(), tmp_path, **numbers(), seed=np.int64(1), evaluations=np.int64(2), progress=False)
    assert fit(quadratic(), tmp_path, **numbers(), seed=1, progress=False).finished_before
    assert Recipe.load(tmp_path / "recipe.yaml") == result.recipe


def test_schedulers_and_range_tests_leave_plain_numbers_in_the_optimizer(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for peak in (RATE, np.array([RATE]), [RATE]):
        scheduler = OneCycle(optimizer, peak, STEPS, momentum=(np.float64(0.9), np.float32(0.5)))
        scheduler.step(epoch=np.int64(7))
        torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True)[1] == {"last_epoch": 7}
    OneCycle(optimizer, RATE, STEPS, base_lr=RATE / 10, final_lr=np.float32(0.0), momentum=None)
    with RangeTest(model, optimizer, max_lr=RATE, steps=np.int64(5), start_lr=RATE / 100, mode="exponential") as test:
        while not test.done:
            optimizer.zero_grad()
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            optimizer.step()
            test.record(np.float64(loss.item()))
            assert type(optimizer.param_groups[0]["lr"]) is float
    assert {type(lr) for lr in test.curve.lr} == {float}
    assert type(test.curve.max_lr) is float


def test_tasks_and_studies_hold_plain_numbers():
    task = ImageTask(
        data="digits", train_samples=np.int64(100), validation=np.float64(0.2), model_args=(("width", np.int64(3)),)
    )
    spec = RunSpec(task=task, recipe=Recipe(**numbers()), seed=np.int64(3))
    plain = replace(task, train_samples=100, validation=0.2, model_args=(("width", 3),))
    same = RunSpec(task=plain, recipe=Recipe(steps=40, batch_size=16, max_lr=float(RATE), weight_decay=1e-4), seed=3)
    assert spec.hash == same.hash
    json.dumps([asdict(Comparison(steps=(STEPS, 2 * STEPS), seeds=np.int64(2)))])
    json.dumps([asdict(Balancing(max_lr=tuple(np.logspace(-2, -1, 2)), weight_decay=np.logspace(-5, -3, 3)))])
