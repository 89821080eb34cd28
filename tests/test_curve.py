import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superconv.errors import UserError
from superconv.rates.curve import Curve, merge


def curve_of(lr, *, seed=0, stopped=(), **columns) -> Curve:
    rows = len(lr)
    empty = (None,) * rows
    names = ("train_loss", "train_metric", "validation_loss", "validation_metric")
    filled = {name: tuple(columns.pop(name, empty)) for name in names}
    return Curve(
        lr=tuple(lr), step=tuple(range(rows)), seed=(seed,) * rows, stopped=tuple(stopped), **filled, **columns
    )


def write(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def table(header: str = "lr,test_accuracy", rows: int = 20, sep: str = ",") -> str:
    return "\n".join([header, *(f"{0.1 * i:.3f}{sep}{0.5 + 0.01 * i:.3f}" for i in range(rows))]) + "\n"


# ---- the table


def test_columns_of_unequal_length_and_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="train_loss has 1 rows, lr has 2"):
        curve_of([0.1, 0.2], train_loss=[1.0])
    for rate in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="learning rate"):
            curve_of([0.1, rate])


def test_signal_sorts_averages_equal_rates_and_leaves_out_what_was_not_measured():
    curve = curve_of([0.3, 0.1, 0.1, 0.2], train_loss=[3.0, 1.0, 2.0, None])
    lr, values = curve.signal()
    assert lr.tolist() == [0.1, 0.3]
    assert values.tolist() == [1.5, 3.0]


def test_signal_keeps_the_values_of_a_diverged_run():
    values = curve_of([0.1, 0.2, 0.3], train_loss=[1.0, math.inf, math.nan]).signal()[1]
    assert values[1] == math.inf
    assert math.isnan(values[2])


def test_the_validation_metric_is_preferred_once_measured_often_enough():
    lr = np.linspace(0.0, 1.0, 40)
    sparse = [0.5 if i % 10 == 0 else None for i in range(40)]
    dense = [0.5 if i % 4 == 0 else None for i in range(40)]
    metric, loss = [0.6] * 40, [1.0] * 40
    assert curve_of(lr, validation_metric=sparse, train_metric=metric).column == "train_metric"
    assert curve_of(lr, validation_metric=dense, train_metric=metric).column == "validation_metric"
    only_losses = curve_of(lr, validation_loss=dense, train_loss=loss, metric="loss")
    assert only_losses.column == "validation_loss"
    assert not only_losses.rising_is_better
    assert only_losses.label == "validation loss"
    short = curve_of(lr[:4], train_loss=loss[:4], validation_metric=[0.1, None, None, None])
    assert short.column == "train_loss"


def test_seeds_are_stacked_by_merge_and_told_apart_by_signal():
    curves = [
        curve_of([0.1, 0.2], seed=s, train_metric=[s, s + 1.0], stopped=[(s, "blow-up")], max_lr=1.0, total_steps=s + 5)
        for s in (0, 3)
    ]
    both = merge(curves)
    assert both.seeds == (0, 3)
    assert both.stopped == ((0, "blow-up"), (3, "blow-up"))
    assert (both.max_lr, both.total_steps) == (1.0, None)
    assert both.signal(seed=3)[1].tolist() == [3.0, 4.0]
    assert both.signal()[1].tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="seeds of its own"):
        merge([curves[0], curves[0]])
    with pytest.raises(ValueError, match="different metrics"):
        merge([curves[0], replace(curves[1], metric="f1")])
    with pytest.raises(ValueError, match="at least one"):
        merge([])


# ---- JSON

values = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(st.floats(0, 1e6), values, values), max_size=20), st.booleans())
def test_any_curve_survives_strict_json(rows, higher):
    curve = curve_of(
        [r[0] for r in rows],
        train_loss=[r[1] for r in rows],
        validation_metric=[r[2] for r in rows],
        higher_is_better=higher,
        stopped=[(0, "loss is NaN")],
        max_lr=3.0,
    )
    text = curve.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = Curve.from_json(text)
    assert repr(again) == repr(curve)  # NaN equals NaN here
    assert Curve.from_dict(curve.to_dict()).lr == curve.lr


def test_save_replaces_the_file_whole_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "curve.json"
    old, new = curve_of([0.1], train_loss=[1.0]), curve_of([0.2], train_loss=[2.0])
    old.save(path)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            new.save(path)
    assert Curve.load(path) == old
    new.save(path)
    assert Curve.load(path) == new
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[]", "schema is None"),
        ('{"schema": 99}', "schema is 99"),
        ('{"schema": 1}', "lr"),
        (lambda d: {**d, "colour": 1}, "colour"),
        (lambda d: {**d, "lr": ["fast"]}, "lr"),
        (lambda d: {**d, "lr": [0.1, 0.2]}, "rows"),
        (lambda d: {**d, "lr": ["NaN"]}, "finite"),
    ],
)
def test_what_is_no_curve_is_refused_in_one_line_that_names_the_file(tmp_path, text, says):
    if callable(text):
        text = json.dumps(text(curve_of([0.1], train_loss=[1.0]).to_dict()))
    path = write(tmp_path / "c.json", text)
    with pytest.raises(UserError, match=says) as error:
        Curve.load(path)
    assert "c.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_loading_a_missing_file_names_it(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        Curve.load(tmp_path / "absent.json")


# ---- CSV


def test_a_log_of_the_author_is_read_as_it_is(shared_logs):
    path = shared_logs / "range3Iter5kFig2b.csv"
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["lr"]]  # the last row has no rate
    curve = Curve.from_csv(path)
    assert curve.lr == tuple(float(row["lr"]) for row in rows)
    assert curve.step == tuple(int(row["iteration"]) for row in rows)
    assert curve.validation_metric == tuple(float(row["test_accuracy"]) for row in rows)
    assert curve.label == "validation accuracy"
    loss = Curve.from_csv(path, metric="train_loss")
    assert (loss.column, loss.metric, loss.rising_is_better) == ("train_loss", "loss", False)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (table(), "utf-8"),
        (table(), "utf-8-sig"),
        (table(), "utf-16"),
        (table().replace("\n", "\r\n"), "utf-8"),
        (table(" LR , Test Accuracy "), "utf-8"),
        (table('"learning rate","TEST-ACCURACY"'), "utf-8"),
        (table("lr;test_accuracy", sep=";").replace(".", ","), "utf-8"),
        (table("lr\ttest_accuracy", sep="\t"), "utf-8"),
        ("\n" + table().replace("\n", "\n\n"), "utf-8"),
        (table("lr,test_accuracy,note").replace("0.510", "0.510,a b"), "utf-8"),
        (table() + ",0.9\n2.5,\n2.6\n2.7,n/a\n", "utf-8"),
    ],
)
def test_csv_of_any_dialect_gives_the_same_curve(tmp_path, text, encoding):
    curve = Curve.from_csv(write(tmp_path / "c.csv", text, encoding=encoding))
    assert curve.lr == tuple(round(0.1 * i, 3) for i in range(20))
    assert curve.validation_metric == tuple(round(0.5 + 0.01 * i, 3) for i in range(20))


def test_nan_between_values_means_not_measured_and_at_the_end_diverged(tmp_path):
    between = table().replace("0.550", "nan") + "2.0,nan\n"
    assert len(Curve.from_csv(write(tmp_path / "a.csv", between)).lr) == 19
    curve = Curve.from_csv(write(tmp_path / "b.csv", table() + "2.0,nan\n2.1,NaN\n"))
    assert len(curve.lr) == 22
    assert math.isnan(curve.validation_metric[-1] or 0.0)
    assert Curve.from_csv(write(tmp_path / "c.csv", table() + "2.0,inf\n")).validation_metric[-1] == math.inf


def test_steps_order_the_rows_and_seeds_split_them(tmp_path):
    lines = [f"{i},{seed},{0.1 * i},{0.5 + seed}" for i in range(12) for seed in (7, 2)]
    text = "\n".join(["iteration,seed,lr,test_accuracy", *reversed(lines)])
    curve = Curve.from_csv(write(tmp_path / "c.csv", text))
    assert curve.seeds == (2, 7)
    assert curve.step == (*range(12), *range(12))
    assert curve.signal(seed=7)[1].tolist() == [7.5] * 12


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("test_error", False),
        ("perplexity", False),
        ("val_rmse", False),
        ("WER", False),
        ("f1", True),
        ("certainty", True),
    ],
)
def test_the_direction_follows_from_the_name(tmp_path, metric, higher):
    curve = Curve.from_csv(write(tmp_path / "c.csv", table(f"lr,{metric}")), metric=metric)
    assert curve.rising_is_better is higher
    text = write(tmp_path / "c.csv", table(f"lr,{metric}"))
    assert Curve.from_csv(text, metric=metric, higher_is_better=not higher).rising_is_better is not higher
    assert curve.column == "validation_metric"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("lr,test_accuracy\n", "only 0 usable points"),
        (table(rows=9), "only 9 usable points"),
        (table("rate,test_accuracy"), "no column 'lr' or 'learning_rate'; the columns are rate, test_accuracy"),
        (table("lr,acc,f1"), "no column 'test_accuracy'; the columns are lr, acc, f1.*--metric"),
        (table().replace("0.550", "fast"), "line 7, column 'test_accuracy': 'fast' is not a number"),
        ("\n\n" + table().replace("0.550", "fast"), "line 9, column"),
        (table().replace("0.300", "-0.3"), "line 5, column 'lr'.*-0.3 is impossible"),
        (table().replace("0.300", "inf"), "line 5, column 'lr'.*inf is impossible"),
        ("lr,test_accuracy\n" + "0.1,0.5\n" * 20, "does not rise"),
        ("\n".join(["lr,test_accuracy", *(f"{2 - 0.1 * i},0.5" for i in range(15))]), "does not rise"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, text, says):
    path = write(tmp_path / "c.csv", text)
    with pytest.raises(UserError, match=says) as error:
        Curve.from_csv(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_binary_and_folder_paths_are_user_errors(tmp_path):
    (tmp_path / "b.csv").write_bytes(bytes(range(256)) * 4)
    for name, says in (("absent.csv", "No such file"), ("", "cannot be read"), ("b.csv", "not a text file")):
        with pytest.raises(UserError, match=says):
            Curve.from_csv(tmp_path / name)


def test_a_log_of_a_cycle_is_no_range_test(shared_logs):
    for name in ("clr3SS5kFig1a.csv", "lr35Fig1a.csv"):
        with pytest.raises(UserError, match="training log"):
            Curve.from_csv(shared_logs / name)
