"""A balance's banner says no more than its table."""

from dataclasses import replace
from pathlib import Path

import pytest

from superconv import cli, files
from superconv.studies.balance.page import summary
from superconv.studies.balance.space import Trial
from superconv.studies.balance.study import Balance

RESULTS = Path(__file__).parents[1] / "results"


def stored(name: str) -> Balance:
    value = files.read_json(RESULTS / name / "balance.json")
    value.pop("command")
    return files.checked(Balance, value, source=name)


@pytest.mark.parametrize("name", ["balance-cifar10-10k-bf16", "balance-cifar10-10k"])
def test_decays_that_chance_could_have_put_in_order_are_no_trend(name):
    balance = stored(name)
    mood, headline, _ = summary(balance)
    assert mood == "open"
    assert "chance" in headline


def test_decays_whose_ranges_lie_apart_are_a_trend():
    balance = stored("balance-cifar10-10k-bf16")

    def trial(peak: float, decay: float, accuracy: float) -> Trial:
        setting = replace(balance.chosen.setting, max_lr=peak, weight_decay=decay)
        return Trial(setting=setting, accuracy=accuracy, loss=1.0)

    grid = (trial(0.3, 1e-3, 0.7), trial(0.3, 1e-5, 0.5), trial(3.0, 1e-5, 0.7), trial(3.0, 1e-3, 0.3))
    apart = replace(balance, grid=grid, best=(grid[0], grid[2]), chosen=grid[2])
    assert summary(apart)[:2] == ("good", "The larger the rate, the smaller the best weight decay")


@pytest.mark.parametrize("name", ["balance-cifar10", "compare-mnist"])
def test_the_page_of_a_study_is_made_again_from_its_result(name, tmp_path):
    out = tmp_path / "page.html"
    assert cli.main(["report", str(RESULTS / name), "--out", str(out)]) == 0
    assert "<svg" in out.read_text(encoding="utf-8")
