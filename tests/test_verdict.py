from dataclasses import replace

import numpy as np
import pytest

from superconv.rates.curve import Curve, merge
from superconv.rates.verdict import judge, loss_levels

LIKELY = (
    "lrRange3SS520kDropuoutFig10a",
    "range2Res20Fig4b",
    "range2SS80kRes56wd0",
    "range2SS80kRes56wd1",
    "range3Iter20kFig2b",
    "range3Iter5kFig2b",
)
UNLIKELY = ("lrRange3SS520kClip2Fig12a", "lrRange3SS520kClip5Fig12b", "lrRange3SS520kClip10Fig12a")
ALL = [*((name, "likely") for name in LIKELY), *((name, "unlikely") for name in UNLIKELY)]
logs = pytest.mark.parametrize(("name", "verdict"), ALL)


def curve_of(lr, values, *, seed=0, loss=False, stopped=False) -> Curve:
    none = (None,) * len(lr)
    values = tuple(float(v) for v in values)
    return Curve(
        lr=tuple(float(rate) for rate in lr),
        step=tuple(range(len(lr))),
        seed=(seed,) * len(lr),
        train_loss=values if loss else none,
        train_metric=none if loss else values,
        validation_loss=none,
        validation_metric=none,
        metric="loss" if loss else "accuracy",
        stopped=((seed, "blow-up"),) if stopped else (),
    )


def part(curve: Curve, rows: slice) -> Curve:
    columns = ("lr", "step", "seed", "train_loss", "train_metric", "validation_loss", "validation_metric")
    return replace(curve, **{name: getattr(curve, name)[rows] for name in columns})


def bump(lr, *, rise, edge, chance=0.1, top=0.9):
    """Accuracy that rises around one rate and falls to chance at another."""
    return chance + (top - chance) * (1 - np.exp(-lr / rise)) / (1 + (lr / edge) ** 16)


def noise(n, scale, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(n)


# ---- the author's logs


@logs
@pytest.mark.parametrize("metric", ["test_accuracy", "train_accuracy", "train_loss"])
def test_the_authors_range_tests(shared_logs, name, verdict, metric):
    found = judge(Curve.from_csv(shared_logs / f"{name}.csv", metric=metric))
    assert found.outcome == verdict, found
    assert found.confidence >= 0.9
    assert (found.lr_edge is None) == (verdict == "likely")
    if verdict == "likely":
        assert found.lr_max == pytest.approx(found.width * found.lr_min)
        assert found.lr_max > 1.9
        assert ("no rise" if metric == "train_loss" else "no fall") in found.reason
    else:
        assert 0.4 < found.lr_edge < 0.8
        assert 0.2 < found.lr_max < 0.55


@logs
@pytest.mark.parametrize("metric", ["test_accuracy", "train_accuracy"])
@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(None, None, 4), slice(1, None, 2)])
def test_fewer_points_change_nothing(shared_logs, name, verdict, metric, rows):
    assert judge(part(Curve.from_csv(shared_logs / f"{name}.csv", metric=metric), rows)).outcome == verdict


@logs
@pytest.mark.parametrize("share", [0.65, 0.8, 0.9])
def test_a_sweep_cut_short_changes_nothing(shared_logs, name, verdict, share):
    curve = Curve.from_csv(shared_logs / f"{name}.csv")
    assert judge(part(curve, slice(round(share * len(curve.lr))))).outcome == verdict


@logs
def test_noise_and_scale_change_nothing(shared_logs, name, verdict):
    lr, values = Curve.from_csv(shared_logs / f"{name}.csv").signal()
    for seed in range(5):
        assert judge(curve_of(lr, values + noise(len(lr), 0.04, seed))).outcome == verdict
    plain, percent = judge(curve_of(lr, values)), judge(curve_of(lr, 100 * values))
    assert percent.lr_max == plain.lr_max
    assert percent.outcome == verdict


def test_a_plateau_cut_before_any_fall_below_a_rate_of_1_is_not_called_likely(shared_logs):
    for name in UNLIKELY:
        lr, values = Curve.from_csv(shared_logs / f"{name}.csv").signal()
        found = judge(curve_of(lr[lr < 0.4], values[lr < 0.4]))
        assert (found.outcome, found.lr_edge, found.lr_max) == ("inconclusive", None, lr[lr < 0.4][-1])
        assert "extend the sweep" in found.reason


def test_a_slow_sweep_that_falls_at_its_end_is_unlikely(shared_logs):
    # the author's bottleneck and ResNeXt sweeps to 0.61 and 0.7 in 50k iterations have no log: this is their shape
    for name in ("range2SS80kRes56wd0", "range2Res20Fig4b"):
        lr, values = Curve.from_csv(shared_logs / f"{name}.csv").signal()
        fallen = np.where(lr > 0.5, 0.2, values)
        for end in (0.53, 0.61, 0.7):
            found = judge(curve_of(lr[lr < end], fallen[lr < end]))
            assert found.outcome == "unlikely"
            assert found.lr_edge == pytest.approx(0.5, abs=0.01)


# ---- curves of known shape: linear and exponential, short and long


@pytest.mark.parametrize("n", [20, 60, 300, 3000])
@pytest.mark.parametrize("scale", [0.01, 0.05])
def test_a_peak_is_unlikely_and_its_bounds_lie_on_it(n, scale):
    for lr in (np.linspace(0, 1, n), np.geomspace(1e-5, 10, n)):
        found = judge(curve_of(lr, bump(lr, rise=0.06, edge=0.5) + noise(n, scale)))
        assert found.outcome == "unlikely"
        assert 0.4 < found.lr_edge < 0.85
        assert 0.05 < found.lr_min <= found.lr_max < 0.5
        assert found.base_lr == found.lr_max / 10
        assert found.width == pytest.approx(found.lr_edge / found.lr_min)


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_a_plateau_over_decades_is_likely_although_it_ends(n):
    lr = np.geomspace(1e-6, 10, n)
    found = judge(curve_of(lr, bump(lr, rise=0.0005, edge=0.3) + noise(n, 0.02)))
    assert found.outcome == "likely"
    assert 0.2 < found.lr_edge < 0.6
    assert 0.1 < found.lr_max < 0.25


@pytest.mark.parametrize("n", [30, 100, 400])
def test_the_loss_alone_of_a_language_model(n):
    lr = np.geomspace(1e-6, 1, n)
    loss = 10.8 - 4.3 / (1 + (3e-4 / lr) ** 2) + np.minimum(1e4, np.where(lr > 0.006, (lr / 0.006) ** 2, 0))
    found = judge(curve_of(lr, loss + noise(n, 0.1), loss=True))
    assert found.outcome == "unlikely"
    assert 0.006 < found.lr_edge < 0.016
    assert 0.003 < found.lr_max < 0.01
    assert "training loss" in found.reason


@pytest.mark.parametrize("end", [0.05, 3.0])
def test_a_curve_that_still_rises_is_inconclusive_and_keeps_the_end_of_the_sweep(end):
    lr = np.linspace(0, end, 100)
    found = judge(curve_of(lr, 0.1 + 0.6 * lr / end + noise(100, 0.02)))
    assert (found.outcome, found.lr_edge, found.lr_max) == ("inconclusive", None, end)
    assert "extend the sweep" in found.reason


def test_where_nothing_was_learned_there_are_no_rates():
    lr = np.linspace(0, 3, 100)
    flat = [curve_of(lr, 0.1 + noise(100, 0.02, s)) for s in range(10)]
    flat += [curve_of(lr, 2.3 + noise(100, 0.05, s), loss=True) for s in range(10)]
    flat += [curve_of(lr, np.full(100, value)) for value in (0.1, np.nan, np.inf)]
    flat += [
        curve_of(lr, np.where(lr > 1, np.nan, 2.3), loss=True),
        curve_of(lr[:3], [0.1, 0.5, 0.9]),
        curve_of([], []),
    ]
    for found in map(judge, flat):
        assert (found.outcome, found.lr_min, found.lr_max, found.lr_edge, found.width, found.base_lr) == (
            "inconclusive",
            *(None,) * 5,
        )
        assert "check data and model" in found.reason


# ---- sweeps that broke down


def test_a_sweep_that_stopped_ends_at_its_edge():
    lr = np.linspace(0, 1, 50)
    values = 0.9 - 0.8 * np.exp(-lr / 0.1) + noise(50, 0.02)
    assert judge(curve_of(lr, values)).lr_edge is None
    found = judge(curve_of(lr, values, stopped=True))
    assert (found.outcome, found.lr_edge, found.lr_max) == ("unlikely", 1.0, 1 / 1.5)


@pytest.mark.parametrize(("bad", "loss"), [(np.nan, False), (np.nan, True), (np.inf, True), (1e30, True)])
def test_a_diverged_tail_is_a_fall(bad, loss):
    lr = np.linspace(0, 1, 80)
    good = 2.3 * np.exp(-lr / 0.1) if loss else 0.9 - 0.8 * np.exp(-lr / 0.1)
    found = judge(curve_of(lr, np.where(lr > 0.6, bad, good), loss=loss))
    assert 0.6 < found.lr_edge < 0.62
    assert found.lr_max == pytest.approx(found.lr_edge / 1.5)


@pytest.mark.parametrize("bottom", [0.0, -100.0, -1e6])
def test_how_deep_a_metric_falls_says_nothing_of_where_it_rose(bottom):
    """R² and likelihoods have no lower bound."""
    lr = np.geomspace(1e-5, 1, 100)
    found = judge(curve_of(lr, np.where(lr < 5e-2, bump(lr, rise=4e-3, edge=1.0, chance=0.0), bottom)))
    assert found.outcome != "likely"
    assert found.lr_min > 2e-3
    assert 4e-2 < found.lr_edge < 6e-2


def test_the_first_loss_of_a_network_without_statistics_is_no_scale(shared_logs):
    found = judge(Curve.from_csv(shared_logs / "lrRange3SS520kDropuoutFig10a.csv", metric="test_loss"))
    assert found.outcome == "likely"  # its first test loss is 87.3
    assert found.lr_min < 0.2


# ---- seeds


def test_a_stopped_seed_counts_as_fallen_beside_the_others():
    lr = np.linspace(0, 3, 120)
    values = 0.9 - 0.8 * np.exp(-lr / 0.1)
    good = [curve_of(lr, values + noise(120, 0.03, s), seed=s) for s in range(2)]
    assert judge(merge(good)).outcome == "likely"
    broken = curve_of(lr[:40], values[:40], seed=9, stopped=True)
    found = judge(merge([*good, broken]))
    assert found.lr_edge == pytest.approx(lr[40], abs=0.1)
    assert found.lr_max < lr[40]
    cut = curve_of(lr[:40], values[:40], seed=9)  # ended early, but not because it broke down
    assert judge(merge([*good, cut])).lr_edge is None


# ---- confidence


def test_confidence_is_seeded_and_low_where_the_verdict_hangs_on_few_points():
    lr = np.geomspace(1e-5, 10, 100)
    clear = curve_of(lr, bump(lr, rise=0.05, edge=0.5) + noise(100, 0.02))
    assert judge(clear, seed=1) == judge(clear, seed=1)
    assert judge(clear).confidence > 0.9
    lr = lr[::3]
    width = judge(curve_of(lr, bump(lr, rise=0.01, edge=0.8))).width
    assert 25 < width < 40  # beside the ratio that decides
    borderline = judge(curve_of(lr, bump(lr, rise=0.01, edge=0.8) + noise(len(lr), 0.05)))
    assert borderline.confidence < 0.9


def losses_of(lr, losses, *, seed=0, stopped=False) -> Curve:
    curve = curve_of(lr, np.full(len(lr), 0.1), seed=seed, stopped=stopped)
    return replace(curve, train_loss=tuple(map(float, losses)))


EXPLORED = np.geomspace(1e-5, 10, 50)


def test_the_level_of_the_loss_is_told_from_its_noise():
    calm = 1 + noise(50, 0.1)
    assert not loss_levels(losses_of(EXPLORED, calm)).fell
    learned = calm - 0.8 * (EXPLORED > 1e-3) * (EXPLORED < 1)
    levels = loss_levels(losses_of(EXPLORED, learned))
    assert levels.fell
    assert 1e-3 < levels.lowest < 1
    assert levels.start == pytest.approx(1, abs=0.1)
    chaos = np.where(EXPLORED > 1, 1000 * np.abs(noise(50, 1.0, seed=1)), learned)
    assert loss_levels(losses_of(EXPLORED, chaos)).noise == pytest.approx(levels.noise, rel=0.3)
    assert loss_levels(losses_of(EXPLORED[:4], calm[:4])) is None
    early = [2.3, 2.2, 2.0, 1.5, 1.0, 0.6, 0.4]
    for end in (np.nan, np.inf):
        assert loss_levels(losses_of(EXPLORED[:10], [*early, end, end, end])).fell


def test_what_is_borne_ends_at_the_first_rise():
    died = np.where((EXPLORED > 0.1) & (EXPLORED < 1), 2.5, 1.0) + noise(50, 0.02)  # and then lies at chance again
    assert 0.03 < loss_levels(losses_of(EXPLORED, died)).borne < 0.3
    assert loss_levels(losses_of(EXPLORED, 1 + noise(50, 0.02))).borne == pytest.approx(10)


def test_no_level_beyond_the_first_loss_of_any_seed_that_is_not_finite():
    calm, broken = np.ones(50), np.where(np.arange(50) < 30, 1.0, np.nan)
    curve = merge([losses_of(EXPLORED, calm, seed=0), losses_of(EXPLORED, broken, seed=1, stopped=True)])
    assert len(loss_levels(curve).lr) == 30


# ---- the rate that a sweep can defend, whatever its outcome


@logs
def test_the_suggested_peak_of_a_good_network_is_half_of_what_it_tolerates(shared_logs, name, verdict):
    for metric in ("test_accuracy", "train_loss"):
        found = judge(Curve.from_csv(shared_logs / f"{name}.csv", metric=metric))
        assert 0 < found.suggested_lr <= found.lr_max / 2
        if verdict == "likely":
            assert found.suggested_lr == found.lr_max / 2


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_every_sweep_ends_in_a_rate_that_it_swept(seed, loss):
    draw = np.random.default_rng(seed)
    lr = np.geomspace(1e-5, 1, 40)
    for values in (
        0.5 + 0.1 * draw.standard_normal(40),  # nothing is learned
        1 + lr + 0.01 * draw.standard_normal(40),  # loss that only rises
        np.where(lr < 0.01, 1.0, np.inf),
        2 - np.minimum(1, lr / 0.01) + np.maximum(0, lr / 0.1 - 1) + 0.01 * draw.standard_normal(40),
    ):
        found = judge(curve_of(lr, values, loss=loss))
        assert lr[0] / 2 <= found.suggested_lr <= lr[-1]
    assert judge(curve_of(lr[:3], values[:3], loss=loss)).suggested_lr > 0


def test_a_loss_that_only_rises_is_kept_below_its_rise():
    lr = np.geomspace(1e-5, 1, 60)
    found = judge(curve_of(lr, 1 + np.maximum(0, lr / 1e-3 - 1) + noise(60, 0.01), loss=True))
    assert found.outcome == "inconclusive"
    assert found.suggested_lr < 2e-3


def test_where_the_metric_says_nothing_the_training_loss_suggests():
    """Validated too seldom and too late: the accuracy is chance throughout."""
    lr = np.linspace(0, 3, 100)
    loss = 2.3 - 1.5 * np.minimum(1, lr / 0.1) + np.maximum(0, 3 * (lr - 0.2))
    curve = replace(curve_of(lr, 0.1 + noise(100, 0.005)), train_loss=tuple(loss + noise(100, 0.02)))
    found = judge(curve)
    assert found.lr_max is None
    assert 0.01 < found.suggested_lr < 0.1


def test_what_fewer_than_half_of_the_resamples_share_is_never_likely():
    likely = 0
    for seed in range(60):
        lr = np.geomspace(1e-4, 3, 30)
        found = judge(curve_of(lr, 0.1 + 0.6 * (lr > 0.03) + noise(30, 0.2 + 0.004 * seed, seed)))
        likely += found.outcome == "likely"
        assert found.outcome != "likely" or found.confidence >= 0.5
        assert "resamples" not in found.reason or found.outcome == "inconclusive"
    assert likely > 5


@pytest.mark.parametrize("scale", ["linear", "exponential"])
def test_a_rate_ten_times_past_the_lowest_loss_is_never_called_good(scale):
    """Nearer to its lowest than to its first value, and so on the plateau, but ten times past the lowest."""
    lr = np.linspace(1e-3, 3, 300) if scale == "linear" else np.geomspace(1e-4, 3, 100)
    loss = 2.3 - 2 * np.minimum(1, lr / 0.05) + 0.15 * np.log(np.maximum(1, lr / 0.05))
    found = judge(curve_of(lr, loss + noise(len(lr), 0.02), loss=True))
    assert found.lr_edge is not None
    assert found.lr_max <= 10 * 0.06
    assert "has risen" in found.reason
    assert found.suggested_lr <= 0.3


def test_words_go_the_way_of_the_curve():
    lr = np.geomspace(1e-5, 10, 100)
    accuracy = bump(lr, rise=0.06, edge=0.5)
    assert "has fallen" in judge(curve_of(lr, accuracy)).reason
    assert "has risen" in judge(curve_of(lr, 1 - accuracy, loss=True)).reason
    perplexity = replace(curve_of(lr, 100 * (1 - accuracy)), metric="perplexity", higher_is_better=False)
    assert "has risen" in judge(perplexity).reason
    assert "never fell clearly below" in judge(curve_of(lr, np.ones(100), loss=True)).reason
    assert "never rose clearly above" in judge(curve_of(lr, np.ones(100))).reason


def test_a_sweep_that_broke_the_network_at_once_suggests_no_rate_beyond():
    """As recorded: `range-test` to 10 of a network that bears 0.1; its first five losses already lay high."""
    lr = np.linspace(0, 10, 100)
    broken = np.concatenate([[1.4, 1.2], 2.5 + np.abs(noise(98, 1.5))])
    broken[-8:] += 4
    found = judge(replace(curve_of(lr, 0.33 + noise(100, 0.005)), train_loss=tuple(broken)))
    assert found.lr_max is None
    assert 0 < found.suggested_lr < 0.2
