"""Mistakes in a task that its first batch shows, each told in one line before anything is trained."""

from typing import Any

import torch
from torch import Tensor

from superconv.data import Source
from superconv.errors import UserError
from superconv.training.measures import (
    IGNORED,
    Loss,
    Measured,
    accuracy,
    averages_evenly,
    cross_entropy_options,
    logits_of,
    own_loss,
)
from superconv.training.task import Task


def all_count(loss: Loss, source: Source) -> bool:
    """Whether each target of a source that holds them is a class label, and counts alike in cross-entropy."""
    labels, options = held_labels(source), cross_entropy_options(loss)
    if labels is None or options is None:
        return False
    return options.get("weight") is None and options.get("ignore_index", IGNORED) < 0 and int(labels.min()) >= 0


def held_labels(source: Source) -> Tensor | None:
    """The class labels of a source that holds them in memory."""
    labels = getattr(source, "labels", getattr(source, "targets", None))
    return labels if isinstance(labels, Tensor) and not _real(labels) and labels.numel() else None


def uneven_parts(loss: Loss, output: Any, measure: Measured) -> list[str]:
    """A note, where a batch has several parts and nothing tells how much each of them counts."""
    known = cross_entropy_options(loss)
    if known is None:
        told = measure.share is not None or averages_evenly(loss)
    else:
        told = bool(known) or own_loss(output) is None
    note = (
        "the loss gives a mean alone, so all parts of a batch weigh the same whatever they count: where targets are "
        "masked, ignored or weighted, let it return (sum, count)"
    )
    return [] if told else [note]


@torch.no_grad()
def check_batch(task: Task, output: Any, target: Any) -> None:
    """Check that loss and metric of a task fit the outputs and targets of its first batch.

    Raises:
        UserError: Cross-entropy is asked of other targets than classes, labels are more than outputs, or accuracy has
            no meaning.
    """
    options = cross_entropy_options(task.loss)
    if options is not None and (options or own_loss(output) is None):
        _check_classes(task, logits_of(output), target, options.get("ignore_index", IGNORED))
    if task.metric is accuracy:
        accuracy(output, target)


def _check_classes(task: Task, logits: Tensor, target: Any, ignored: int) -> None:
    """Check what cross-entropy is given."""
    if not isinstance(target, Tensor):
        raise UserError(f"cross-entropy takes a tensor of class labels, not {type(target).__name__}: give a loss")
    found, outputs = tuple(target.shape), tuple(logits.shape)
    if _real(target):
        if found == outputs:
            return  # probabilities
        raise UserError(
            f"cross-entropy (the default loss) takes class labels, whole numbers, and the targets are "
            f"{str(target.dtype).removeprefix('torch.')} {found} for outputs {outputs}: for a regression give "
            "loss=torch.nn.functional.mse_loss and metric=None"
        )
    if len(outputs) < 2 or (outputs[0], *outputs[2:]) != found:
        raise UserError(
            f"cross-entropy takes outputs (b, k, …) for class labels (b, …), not {outputs} for {found}: change the "
            "model's output, or give a loss"
        )
    every = [target, *(held_labels(s) for s in (task.train, task.validation, task.test) if s is not None)]
    labels = [counted for t in every if t is not None and len(counted := t[t != ignored])]
    lowest, highest = min((int(t.min()) for t in labels), default=0), max((int(t.max()) for t in labels), default=0)
    if lowest < 0 or highest >= outputs[1]:
        raise UserError(
            f"the model has {outputs[1]} outputs, for labels from 0 to {outputs[1] - 1}, and the labels go from "
            f"{lowest} to {highest}: give it {highest + 1}, or number the classes from 0"
        )


def _real(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()
