from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_files import sweep

from superconv.errors import UserError
from superconv.rates.curve import Curve, merge
from superconv.rates.verdict import judge
from superconv.recipe import Recipe
from superconv.report.plots import plot_curve, plot_history, plot_schedule, save_curve
from superconv.studies.compare_plots import plot_comparison


def drawn(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_a_curve_shows_its_bounds(shared_logs: Path):
    curve = Curve.from_csv(shared_logs / "lrRange3SS520kClip2Fig12a.csv")
    verdict = judge(curve)
    ax = plot_curve(curve, verdict=verdict)
    assert drawn(ax) == [f"min {verdict.lr_min:.2g}", f"max {verdict.lr_max:.2g}", f"edge {verdict.lr_edge:.2g}"]
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts] + [ax.title.get_window_extent()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert ax.get_xscale() == "linear"
    assert ax.get_ylabel() == "validation accuracy (%)"
    assert 40 < max(ax.lines[-4].get_ydata()) < 60  # per cent


def test_labels_of_close_bounds_do_not_overlap():
    curve = sweep(edge=0.5)
    verdict = replace(judge(curve), lr_min=0.7, lr_max=0.71, lr_edge=0.72)
    ax = plot_curve(curve, verdict=verdict)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    boxes = [text.get_window_extent() for text in ax.texts] + [legend.get_window_extent()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.y0 >= ax.get_window_extent().y1 for box in boxes)  # nothing covers data


def test_an_exponential_sweep_has_a_logarithmic_axis():
    assert plot_curve(sweep(edge=0.5, exponential=True)).get_xscale() == "log"


def test_seeds_are_thin_lines_and_their_mean_is_bold():
    curves = [sweep(edge=0.5, seed=seed) for seed in range(3)]
    ax = plot_curve(replace(merge(curves), stopped=((1, "loss is not finite"),)))
    widths = sorted(line.get_linewidth() for line in ax.lines if len(np.atleast_1d(line.get_xdata())) > 1)
    assert widths == [0.8, 0.8, 0.8, 2.2]
    legend = ax.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["validation accuracy, mean of 3 seeds", "training broke down"]
    bold = max(ax.lines, key=lambda line: line.get_linewidth())
    mean = np.mean([[v for v in c.validation_metric if v is not None] for c in curves], axis=0)
    np.testing.assert_allclose(np.asarray(bold.get_ydata()), 100 * mean)


def test_a_loss_that_blows_up_does_not_press_the_rest_flat():
    curve = sweep(edge=0.5, loss_only=True)
    curve = replace(curve, train_loss=(*curve.train_loss[:-2], 1e6, float("nan")))
    ax = plot_curve(curve, verdict=judge(curve))
    assert ax.get_ylim()[1] < 10
    assert ax.get_ylabel() == "training loss"


@pytest.mark.parametrize(("start", "end"), [(-90, -100), (-50, -200)])
def test_losses_below_zero_are_all_seen(start: float, end: float):
    curve = sweep(edge=0.5, loss_only=True)
    losses = np.linspace(start, end, len(curve.lr))
    curve = replace(curve, train_loss=tuple(map(float, losses)))
    low, high = plot_curve(curve, verdict=judge(curve)).get_ylim()
    assert low < end < start < high


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("loss_only", [False, True])
def test_a_sweep_that_broke_down_at_once_is_drawn(rows: int, loss_only: bool):
    whole = sweep(edge=0.5, loss_only=loss_only)
    columns = ("lr", "step", "seed", "train_loss", "train_metric", "validation_loss", "validation_metric")
    curve = replace(whole, **{name: getattr(whole, name)[:rows] for name in columns})
    assert plot_curve(curve, verdict=judge(curve)).get_xlabel() == "learning rate"
    broken = replace(whole, train_loss=(float("nan"),) * len(whole.lr), stopped=((0, "loss is not finite"),))
    assert plot_curve(broken, verdict=judge(broken)).get_xlabel() == "learning rate"


def test_a_comparison_of_a_single_length_is_drawn():
    ax = plot_comparison({"one_cycle": [(200, 0.9, None, None)], "cosine": [(200, 0.8, 0.7, 0.9)]})
    assert [text.get_text() for text in ax.get_xticklabels()] == ["200"]


def test_a_schedule_is_drawn_exactly():
    recipe = Recipe(steps=400, batch_size=32, max_lr=0.4)
    ax = plot_schedule(recipe)
    rate = recipe.learning_rate()
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), [rate(t) for t in range(400)])
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 2
    constant = plot_schedule(replace(recipe, schedule="piecewise")).get_figure()
    assert isinstance(constant, Figure)
    assert len(constant.axes) == 1


def test_a_history_needs_what_it_draws():
    rows = [{"step": n, "train_loss": 1.0 / n, "validation_loss": None if n % 10 else 2.0 / n} for n in range(1, 101)]
    ax = plot_history({"a": rows})
    assert ax.get_yscale() == "log"
    assert [len(np.asarray(line.get_xdata())) for line in ax.lines] == [100, 100, 10]
    with pytest.raises(ValueError, match="train_accuracy"):
        plot_history({"a": rows}, "accuracy")


def test_plots_go_onto_given_axes():
    axes = Figure().subplots(2, 2)
    recipe = Recipe(steps=40, batch_size=8, max_lr=0.1)
    points = {"one_cycle": [(200, 0.9, None, None), (400, 0.95, 0.94, 0.96)]}
    assert plot_curve(sweep(edge=0.5), ax=axes[0, 0]) is axes[0, 0]
    assert plot_schedule(recipe, ax=axes[0, 1]) is axes[0, 1]
    assert plot_history({"a": [{"step": 1, "train_loss": 1.0}]}, ax=axes[1, 0]) is axes[1, 0]
    assert plot_comparison(points, ax=axes[1, 1]) is axes[1, 1]
    assert [text.get_text() for text in axes[1, 1].get_xticklabels()] == ["200", "400"]
    assert plot_curve(sweep(edge=0.5), ax=axes[0, 0]) is axes[0, 0]


def test_figures_are_saved_in_the_format_of_their_name(tmp_path: Path):
    curve = sweep(edge=0.5)
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")):
        save_curve(curve, tmp_path / name, verdict=judge(curve))
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"\.png"):
        save_curve(curve, tmp_path / "a.docx")
