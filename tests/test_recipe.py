from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superconv.errors import UserError
from superconv.recipe import Recipe, plain
from superconv.specs.image_task import ImageTask
from superconv.specs.run import RunSpec
from superconv.training import optimizers


def recipe(**fields) -> Recipe:
    return Recipe(**{"steps": 100, "batch_size": 32, "max_lr": 1.0, **fields})


# What a sentence is made of: PyYAML does not give back the control character NEL.
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))


@given(
    steps=st.integers(20, 10_000),
    max_lr=st.floats(1e-8, 1e3),
    decay=st.floats(0, 1),
    schedule=st.sampled_from(["one_cycle", "piecewise", "cosine", "linear", "warmup_stable_decay", "constant"]),
    reasons=st.dictionaries(TEXT.filter(bool), TEXT),
)
def test_yaml_round_trip(tmp_path_factory, steps, max_lr, decay, schedule, reasons):
    made = recipe(steps=steps, max_lr=max_lr, weight_decay=decay, schedule=schedule, reasons=reasons)
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(made.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == made


def test_a_rate_that_yaml_reads_as_a_string_is_a_number(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 100\nbatch_size: 32\nmax_lr: 1e-4\nweight_decay: 1e-6\n")
    loaded = Recipe.load(path)
    assert loaded.max_lr == 1e-4
    assert loaded.weight_decay == 1e-6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 100\nbatch_size: 32\nmax_lr: fast\n", "max_lr"),
        ("steps: 100\nbatch_size: 32\nmax_lr: 1\nlearning_rate: 2\n", "learning_rate"),
        ("steps: 100\nbatch_size: 32\n", "max_lr"),
        ("- 1\n", "mapping"),
        ("{", "YAML"),
        ("steps: 0\nbatch_size: 32\nmax_lr: 1\n", "steps"),
        ("steps: 100\nbatch_size: 32\nmax_lr: -1\n", "max_lr"),
        ("steps: 100\nbatch_size: 32\nmax_lr: 1\nschedule: zigzag\n", "schedule"),
    ],
)
def test_bad_files_are_one_line_that_names_file_and_field(tmp_path: Path, text: str, says: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Recipe.load(path)
    assert "recipe.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paper_preset_is_the_design_s():
    made = Recipe.preset("paper", steps=1000, batch_size=100, max_lr=3.0)
    lr, momentum = made.learning_rate(), made.momentum_schedule()
    assert (lr(0), max(map(lr, range(1000))), lr(900), lr(999)) == pytest.approx((0.3, 3.0, 0.3, 0.003), rel=1e-2)
    assert lr(450) == 3.0
    assert momentum is not None
    assert (momentum(0), momentum(450), momentum(999)) == (0.95, 0.85, 0.95)


def test_record_preset_is_the_design_s():
    made = Recipe.preset("record", steps=1000, batch_size=100, max_lr=2.0)
    lr = made.learning_rate()
    assert (lr(0), lr(230), lr(999)) == pytest.approx((0.4, 2.0, 0.14))
    assert made.momentum_schedule() is None
    assert made.momentum == 0.85


def test_other_schedules_keep_the_momentum():
    for name in ("piecewise", "cosine", "linear", "warmup_stable_decay", "constant"):
        assert recipe(schedule=name).momentum_schedule() is None


@pytest.mark.parametrize("schedule", ["piecewise", "cosine", "linear", "warmup_stable_decay", "constant"])
def test_every_schedule_that_is_no_cycle_takes_a_ramp(schedule):
    plain, ramped = (recipe(schedule=schedule, ramp=ramp).learning_rate() for ramp in (0.0, 0.1))
    assert plain(0) == ramped(10) == 1.0
    assert [ramped(t) for t in (0, 5)] == [0.0, 0.5]
    assert ramped(99) == pytest.approx(plain(99))


def test_a_cycle_rises_by_its_warmup_alone():
    for schedule in ("one_cycle", "triangular"):
        with pytest.raises(UserError, match="give warmup in place of ramp"):
            recipe(schedule=schedule, ramp=0.1)
    with pytest.raises(UserError, match="ramp is a fraction"):
        recipe(schedule="cosine", ramp=1.0)


def test_the_cooldown_has_a_length_and_a_shape():
    made = recipe(schedule="warmup_stable_decay", steps=101, cooldown=1.0, cooldown_anneal="sqrt")
    assert made.learning_rate()(25) == pytest.approx(0.5)
    with pytest.raises(UserError, match="anneal must be one of"):
        recipe(schedule="warmup_stable_decay", cooldown_anneal="zigzag")


def test_fields_that_came_later_do_not_change_the_name_of_a_run():
    known = RunSpec(task=ImageTask(data="digits"), recipe=recipe())
    assert not {"ramp", "cooldown", "cooldown_anneal", "dropout"} & known.plain()["recipe"].keys()
    assert RunSpec(task=ImageTask(data="digits"), recipe=recipe(schedule="cosine", ramp=0.1)).plain()["recipe"]["ramp"]


def test_piecewise_is_the_paper_s_baseline():
    lr = recipe(schedule="piecewise", steps=80_000, max_lr=0.35).learning_rate()
    assert [lr(t) for t in (0, 49_999, 50_000, 69_999, 70_000, 79_999)] == pytest.approx(
        [0.35, 0.35, 0.035, 0.035, 0.0035, 0.0035]
    )


@pytest.mark.parametrize(("warmup", "cycles"), [(0.45, 1), (0.5, 1), (0.25, 2), (0.05, 10)])
def test_triangular_ends_at_the_foot_of_a_whole_cycle(warmup: float, cycles: int):
    rate = Recipe(steps=1000, batch_size=32, max_lr=1.0, schedule="triangular", warmup=warmup).learning_rate()
    rates = [rate(t) for t in range(1001)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[1000] == pytest.approx(0.1)
    assert sum(r == pytest.approx(1.0) for r in rates) == cycles


def test_a_cycle_that_cannot_be_built_says_why():
    with pytest.raises(UserError, match="one_cycle"):
        recipe(steps=2)
    with pytest.raises(UserError, match="preset"):
        Recipe.preset("fast", steps=100, batch_size=1, max_lr=1.0)
    with pytest.raises(UserError, match="parts"):
        recipe(accumulate=5)


def test_an_optimizer_without_weight_decay_serves_where_none_is_asked_for():
    plain = {"steps": 100, "batch_size": 1, "max_lr": 0.01, "optimizer": "Rprop", "optimizer_args": {}}
    assert isinstance(optimizers.make(torch.nn.Linear(2, 2), Recipe(**plain, weight_decay=0.0)), torch.optim.Rprop)
    with pytest.raises(UserError, match="Rprop takes no weight_decay"):
        optimizers.make(torch.nn.Linear(2, 2), Recipe(**plain))


def test_plain_values_only():
    assert plain(replace(recipe(), reasons={"max_lr": "given"}))["reasons"] == {"max_lr": "given"}
