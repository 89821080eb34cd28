"""Train PyTorch networks in far fewer steps: find how large a learning rate they bear, and spend one cycle there.

Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", arXiv 1708.07120.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from superconv.errors import UserError as UserError
    from superconv.rates import schedules as schedules
    from superconv.rates.curve import Curve as Curve
    from superconv.rates.hessian_free import HessianFreeLR as HessianFreeLR
    from superconv.rates.lr_scheduler import CyclicalLR as CyclicalLR
    from superconv.rates.lr_scheduler import OneCycle as OneCycle
    from superconv.rates.lr_scheduler import RangeSweep as RangeSweep
    from superconv.rates.lr_scheduler import ScheduledLR as ScheduledLR
    from superconv.rates.range_test import RangeTest as RangeTest
    from superconv.rates.verdict import Verdict as Verdict
    from superconv.rates.verdict import judge as judge
    from superconv.recipe import Recipe as Recipe
    from superconv.specs import Choices as Choices
    from superconv.specs import ImageTask as ImageTask
    from superconv.studies.fit import fit as fit
    from superconv.studies.saved import load as load
    from superconv.studies.tuner import find_recipe as find_recipe
    from superconv.training.loop import train as train
    from superconv.training.plan import ExecutionPlan as ExecutionPlan
    from superconv.training.sweeps import range_test as range_test
    from superconv.training.task import Task as Task
    from superconv.training.task import image_task as image_task

_HOMES = {
    "UserError": "errors",
    "schedules": "rates",
    "Curve": "rates.curve",
    "HessianFreeLR": "rates.hessian_free",
    "CyclicalLR": "rates.lr_scheduler",
    "OneCycle": "rates.lr_scheduler",
    "RangeSweep": "rates.lr_scheduler",
    "ScheduledLR": "rates.lr_scheduler",
    "RangeTest": "rates.range_test",
    "Verdict": "rates.verdict",
    "judge": "rates.verdict",
    "Recipe": "recipe",
    "Choices": "specs",
    "ImageTask": "specs",
    "find_recipe": "studies.tuner",
    "fit": "studies.fit",
    "load": "studies.saved",
    "train": "training.loop",
    "ExecutionPlan": "training.plan",
    "range_test": "training.sweeps",
    "Task": "training.task",
    "image_task": "training.task",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import on first use, so that what needs no torch does not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'superconv' has no attribute {name!r}")
    if name == "schedules":
        return import_module("superconv.rates.schedules")
    return getattr(import_module(f"superconv.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
