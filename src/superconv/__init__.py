"""Train PyTorch networks in far fewer steps: find how large a learning rate they tolerate, and spend one cycle there.

Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", arXiv 1708.07120.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superconv.data import DatasetSource as DatasetSource
    from superconv.data import Source as Source
    from superconv.data import TensorSource as TensorSource
    from superconv.errors import UserError as UserError
    from superconv.rates import schedules as schedules
    from superconv.rates.curve import Curve as Curve
    from superconv.rates.hessian_free import CurvatureEstimate as CurvatureEstimate
    from superconv.rates.lr_scheduler import CyclicalLR as CyclicalLR
    from superconv.rates.lr_scheduler import RangeSweep as RangeSweep
    from superconv.rates.lr_scheduler import ScheduledLR as ScheduledLR
    from superconv.rates.one_cycle import OneCycle as OneCycle
    from superconv.rates.range_test import RangeTest as RangeTest
    from superconv.rates.verdict import Verdict as Verdict
    from superconv.rates.verdict import judge as judge
    from superconv.recipe import Recipe as Recipe
    from superconv.report.plots import plot_curve as plot_curve
    from superconv.runs.classifier import Classifier as Classifier
    from superconv.runs.classifier import load_run as load_run
    from superconv.search.find_peak import find_peak as find_peak
    from superconv.search.peak import PeakSearch as PeakSearch
    from superconv.search.recipe import Found as Found
    from superconv.search.recipe import find_recipe as find_recipe
    from superconv.specs.choices import Choices as Choices
    from superconv.specs.image_task import ImageTask as ImageTask
    from superconv.specs.studies import Comparison as Comparison
    from superconv.studies.compare import compare as compare
    from superconv.studies.fit import FitResult as FitResult
    from superconv.studies.fit import fit as fit
    from superconv.training.hooks import Hook as Hook
    from superconv.training.hooks import RunState as RunState
    from superconv.training.hooks import Stages as Stages
    from superconv.training.loop import Run as Run
    from superconv.training.loop import train as train
    from superconv.training.plan import ExecutionPlan as ExecutionPlan
    from superconv.training.sweep import sweep_rates as sweep_rates
    from superconv.training.task import Task as Task
    from superconv.training.task import image_task as image_task

    __version__: str

_HOMES = {
    "Choices": "specs.choices",
    "Classifier": "runs.classifier",
    "Comparison": "specs.studies",
    "CurvatureEstimate": "rates.hessian_free",
    "Curve": "rates.curve",
    "CyclicalLR": "rates.lr_scheduler",
    "DatasetSource": "data",
    "ExecutionPlan": "training.plan",
    "FitResult": "studies.fit",
    "Found": "search.recipe",
    "Hook": "training.hooks",
    "ImageTask": "specs.image_task",
    "OneCycle": "rates.one_cycle",
    "PeakSearch": "search.peak",
    "RangeSweep": "rates.lr_scheduler",
    "RangeTest": "rates.range_test",
    "Recipe": "recipe",
    "Run": "training.loop",
    "RunState": "training.hooks",
    "ScheduledLR": "rates.lr_scheduler",
    "Source": "data",
    "Stages": "training.hooks",
    "Task": "training.task",
    "TensorSource": "data",
    "UserError": "errors",
    "Verdict": "rates.verdict",
    "compare": "studies.compare",
    "find_peak": "search.find_peak",
    "find_recipe": "search.recipe",
    "fit": "studies.fit",
    "image_task": "training.task",
    "judge": "rates.verdict",
    "load_run": "runs.classifier",
    "plot_curve": "report.plots",
    "schedules": "rates",
    "sweep_rates": "training.sweep",
    "train": "training.loop",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import on first use, so that what needs no torch does not wait for it."""
    if name == "__version__":
        return metadata.version("superconv")
    if name not in _HOMES:
        raise AttributeError(f"module 'superconv' has no attribute {name!r}")
    if name == "schedules":
        return import_module("superconv.rates.schedules")
    return getattr(import_module(f"superconv.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
