"""A fit whose training diverges is made again under a lower peak, unless the peak was given."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file
from small_tasks import PLAN, Quadratic, quadratic
from torch import nn

from superconv import files
from superconv.data.source import TensorSource
from superconv.errors import Interrupted, UserError
from superconv.recipe import Recipe
from superconv.runs.folder import RunFolder
from superconv.runs.workspace import run_folder
from superconv.search import pace as pace_module
from superconv.search.pace import measure_pace
from superconv.search.recipe import Found
from superconv.search.settle import settle
from superconv.specs.choices import Choices
from superconv.studies.fit import fit
from superconv.studies.retry import milder
from superconv.training.estimation import EstimateHook
from superconv.training.hooks import Hook


class Breaks(Hook):
    """Ruins the weights of so many trainings, and notes the peak of every one."""

    def __init__(self, trainings: int) -> None:
        self.left, self.peaks = trainings, []

    def on_start(self, trainer) -> None:
        if trainer.purpose == "training":
            self.peaks.append(trainer.recipe.max_lr)

    def on_update(self, trainer) -> None:
        if trainer.purpose == "training" and trainer.step == 20 and self.left:
            self.left -= 1
            trainer.model.module.weight.data.fill_(float("inf"))


def test_a_training_that_diverged_is_made_again_under_a_third_of_its_peak(tmp_path):
    breaks = Breaks(1)
    numbers = fit(quadratic(), tmp_path, steps=60, plan=PLAN, hooks=[breaks]).numbers
    first, second = breaks.peaks
    assert (numbers["stopped"], numbers["steps"]) == (None, 60)
    assert second == pytest.approx(first / 3, rel=0.01)
    kept, found = Recipe.load(tmp_path / "diverged-1" / "recipe.yaml"), Recipe.load(tmp_path / "recipe.yaml")
    assert (kept.max_lr, found.max_lr) == (first, second)
    assert found.reasons["max_lr"].startswith(f"a third of {first:.3g}, which diverged at update 2")
    assert found.weight_decay == pytest.approx(3 * kept.weight_decay, rel=0.05)  # a smaller rate leaves more room
    failed = files.read_json(tmp_path / "diverged-1" / "run.json")
    assert failed["stopped"] == "diverged"
    assert numbers["search_seconds"] == pytest.approx(failed["search_seconds"] + failed["seconds"], abs=0.01)
    rows = (tmp_path / "history.jsonl").read_text().splitlines()
    assert '"step": 60' in rows[-1] or '"step":60' in rows[-1]
    assert fit(quadratic(), tmp_path, steps=60, plan=PLAN).numbers == numbers


def test_one_process_at_a_time_fits_in_a_folder(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process works in"):
        fit(quadratic(), tmp_path, steps=60, plan=PLAN)
    assert fit(quadratic(), tmp_path, steps=60, plan=PLAN).numbers["steps"] == 60


def test_what_a_training_left_that_was_put_aside_outlives_a_failure(tmp_path):
    def fail() -> None:
        options = {"name": "x", "settled": {}, "resume": False, "overwrite": False, "plan": PLAN}
        with run_folder(tmp_path / "run", **options) as folder:
            (folder.path / "diverged-1").mkdir()
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert (tmp_path / "run" / "diverged-1").exists()


class Counted(TensorSource):
    """Counts how often it is read."""

    reads = 0

    def to(self, device: torch.device) -> "Counted":
        return self

    def batches(self, *arguments, **options):
        type(self).reads += 1
        return super().batches(*arguments, **options)


def test_search_and_training_do_not_read_the_test_split(tmp_path):
    seen = []

    class Looks(Hook):
        def on_update(self, trainer) -> None:
            seen.append(Counted.reads)

    train_source = quadratic().train
    counted = Counted(train_source.inputs, train_source.targets)
    numbers = fit(replace(quadratic(), test=counted), tmp_path, steps=60, plan=PLAN, hooks=[Looks()]).numbers
    assert len(seen) > 120
    assert not any(seen)
    assert Counted.reads == 1
    assert numbers["test_loss"] > 0


@pytest.mark.parametrize("name", ["resume", "recipe", "stages", "nothing"])
def test_what_fit_gives_itself_is_refused_before_any_search(tmp_path, name):
    with pytest.raises(TypeError, match=name):
        fit(quadratic(), tmp_path, steps=60, plan=PLAN, **{name: True})
    assert not any(tmp_path.iterdir())


class Spoils(Hook):
    """Sets all weights of the first training, row after row."""

    def __init__(self, weight: float) -> None:
        self.weight, self.trainings = weight, 0

    def on_start(self, trainer) -> None:
        self.trainings += trainer.purpose == "training"

    def on_log(self, trainer, row) -> None:
        if self.trainings == 1 and trainer.step >= 20:
            trainer.model.module.weight.data.fill_(self.weight)


@pytest.mark.parametrize(
    ("weight", "reached"),
    [
        (0.0, 24),  # the same output for every input
        (9.0, 60),  # far worse than short cycles end, which the last row tells
    ],
)
def test_a_training_that_breaks_down_with_a_finite_loss_is_made_again(tmp_path, weight, reached):
    tested = replace(quadratic(), test=quadratic().train)
    numbers = fit(tested, tmp_path, steps=60, plan=PLAN, hooks=[Spoils(weight)]).numbers
    assert numbers["stopped"] is None
    assert numbers["test_loss"] is not None
    failed = files.read_json(tmp_path / "diverged-1" / "run.json")
    assert (failed["stopped"], failed["steps"]) == ("diverged", reached)
    assert "test_loss" not in failed


def test_a_resumed_fit_knows_what_short_cycles_had_learned(tmp_path):
    class Stops(Hook):
        def on_update(self, trainer) -> None:
            trainer.stop = trainer.purpose == "training" and trainer.step == 30

    with pytest.raises(Interrupted):
        fit(quadratic(), tmp_path, steps=60, plan=PLAN, hooks=[Stops()])
    assert fit(quadratic(), tmp_path, steps=60, plan=PLAN, hooks=[Spoils(9.0)]).numbers["stopped"] is None
    assert files.read_json(tmp_path / "diverged-1" / "run.json")["steps"] == 60


def test_it_ends_after_three_and_never_changes_what_was_given(tmp_path):
    stubborn, given = Breaks(9), Breaks(9)
    assert fit(quadratic(), tmp_path / "a", steps=60, plan=PLAN, hooks=[stubborn]).numbers["stopped"] == "diverged"
    assert len(stubborn.peaks) == 3
    assert len([*(tmp_path / "a").glob("diverged-*")]) == 2
    resumed = fit(quadratic(), tmp_path / "a", steps=60, plan=PLAN, hooks=[stubborn]).numbers
    assert len(stubborn.peaks) == 3
    failed = [files.read_json(path / "run.json")["seconds"] for path in (tmp_path / "a").glob("diverged-*")]
    assert len(failed) == 2
    assert resumed["search_seconds"] > sum(failed)
    assert (
        fit(quadratic(), tmp_path / "b", steps=60, max_lr=0.3, plan=PLAN, hooks=[given]).numbers["stopped"]
        == "diverged"
    )
    assert given.peaks == [0.3]
    assert not [*(tmp_path / "b").glob("diverged-*")]


def test_minutes_leave_a_second_training_what_the_first_did_not_take():
    recipe = Recipe(steps=400, batch_size=32, max_lr=0.9, weight_decay=0.0, reasons={"weight_decay": "given"})
    settled, traits = settle(quadratic(), Choices(steps=400, weight_decay=0.0))
    numbers, until = {"steps": 100, "seconds": 10.0}, time.perf_counter() + 7
    lower = milder(settled, traits, Found(recipe=recipe, seconds=2.0), numbers, until=until, plan=PLAN)
    assert 50 <= lower.recipe.steps <= 70
    assert (lower.recipe.max_lr, lower.recipe.weight_decay, lower.seconds) == (0.3, 0.0, 12.0)
    late = milder(settled, traits, Found(recipe=recipe), numbers, until=time.perf_counter() - 1, plan=PLAN)
    assert late.recipe.steps == 20


def test_what_a_diverged_training_left_does_not_reach_the_next(tmp_path):
    following = Recipe(steps=60, batch_size=32, max_lr=0.1)
    folder = RunFolder(tmp_path)
    for name in ("recipe.yaml", "history.jsonl", "run.json", "checkpoint.pt", "model.safetensors"):
        (tmp_path / name).write_text("of the first")
    folder.put_aside()
    folder.recipe.write(following)
    folder.make_room()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diverged-1", "recipe.yaml"]
    assert Recipe.load(tmp_path / "recipe.yaml") == following
    assert sorted(p.name for p in (tmp_path / "diverged-1").iterdir()) == ["history.jsonl", "recipe.yaml", "run.json"]


def test_the_pace_of_what_breaks_down_is_that_of_its_updates(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow():
        clock[0] += 0.5
        return Quadratic()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        clock[0] += 0.01
        return F.mse_loss(output, target)

    unscaled = replace(quadratic(scale=1e4), model=slow, loss=loss)
    pace = measure_pace(unscaled, Recipe(steps=100, batch_size=32, max_lr=1.0), PLAN, evaluations=1)
    assert pace.start == pytest.approx(0.51)
    assert pace.update == pytest.approx(0.01)


def test_the_time_of_a_run_that_measures_curvature_leaves_room_for_that(monkeypatch):
    monkeypatch.setattr(EstimateHook, "_probe", lambda *_: time.sleep(0.2) or {})
    recipe = Recipe(steps=100, batch_size=32, max_lr=1.0)
    assert measure_pace(quadratic(), recipe, PLAN, evaluations=1, estimated=True).start > 5 * 0.2


def test_a_plan_whose_device_is_gone_is_named(tmp_path):
    files.write_json(tmp_path / "plan.json", {**vars(PLAN), "device": "cuda:7"})
    with pytest.raises(UserError, match=r"goes on where it began: device cuda:7 is not there"):
        fit(quadratic(), tmp_path, steps=20)


def test_choices_are_given_by_name_and_a_folder_keeps_its_own(tmp_path):
    numbers = fit(quadratic(), str(tmp_path), plan=PLAN, epochs=3, max_lr=0.3, evaluations=2).numbers
    assert numbers["steps"] == 48
    assert fit(quadratic(), tmp_path, epochs=3, plan=PLAN, max_lr=0.3).numbers == numbers
    with pytest.raises(UserError, match="steps 48, not 160"):
        fit(quadratic(), tmp_path, plan=PLAN, epochs=10)
    for other, says in (
        ({"optimizer": "AdamW"}, "optimizer SGD, not AdamW"),
        ({"momentum": 0.5}, r"momentum 0\.95, not 0\.5"),
        ({"clip_norm": 1.0}, r"clip_norm None, not 1\.0"),
        ({"max_lr": 0.1}, r"max_lr 0\.3, not 0\.1"),
        ({"weight_decay": 0.5}, "weight_decay .*, not 0.5"),
        ({"seed": 7}, r"another seed \(0, not 7\)"),
    ):
        with pytest.raises(UserError, match=says):
            fit(quadratic(), tmp_path, plan=PLAN, **{"epochs": 3, "max_lr": 0.3, **other})
    with pytest.raises(UserError, match=r"another name \(quadratic, not another\)"):
        fit(replace(quadratic(), name="another"), tmp_path, plan=PLAN, epochs=3, max_lr=0.3)
    with pytest.raises(TypeError, match="epoks"):
        fit(quadratic(), tmp_path / "new", plan=PLAN, epoks=10)
    assert not (tmp_path / "new").exists()


class Tied(nn.Module):
    """A linear layer under two names, as language models tie the embedding to the head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs))


def test_tied_weights_are_kept(tmp_path):
    fit(replace(quadratic(), model=Tied), tmp_path, plan=PLAN, steps=20, max_lr=0.01)
    stored = load_file(tmp_path / "model.safetensors")
    model = Tied()
    model.load_state_dict(stored)
    assert torch.equal(stored["first.weight"], stored["second.weight"])
