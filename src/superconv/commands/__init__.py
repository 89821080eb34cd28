"""What the commands do: ask the rooms below, print, write. Each gets its options and the line it was called by."""

from collections.abc import Callable, Mapping
from typing import Any

from superconv import cli
from superconv.commands import look, reproduce, study, train

COMMANDS: Mapping[type, Callable[[Any, str], None]] = {
    cli.Fit: train.fit,
    cli.RangeTest: train.range_test,
    cli.Train: train.train,
    cli.Estimate: train.estimate,
    cli.Compare: study.compare,
    cli.Balance: study.balance,
    cli.Reproduce: reproduce.reproduce,
    cli.Speedrun: study.speedrun,
    cli.Judge: look.judge,
    cli.Report: look.report,
    cli.Predict: look.predict,
    cli.Doctor: look.doctor,
}
