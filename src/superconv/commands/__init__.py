"""What the commands do: ask the rooms below, print, write. Each gets its options and the line it was called by."""

from collections.abc import Callable, Mapping
from typing import Any

from superconv.commands import look, options, reproduce, study, train

COMMANDS: Mapping[type, Callable[[Any, str], None]] = {
    options.Fit: train.fit,
    options.RangeTest: train.range_test,
    options.Train: train.train,
    options.Estimate: train.estimate,
    options.Compare: study.compare,
    options.Balance: study.balance,
    options.Reproduce: reproduce.reproduce,
    options.Speedrun: study.speedrun,
    options.Judge: look.judge,
    options.Report: look.report,
    options.Predict: look.predict,
    options.Doctor: look.doctor,
}
