"""The whole state of a run in one file, written whole or not at all."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from superconv import files
from superconv.errors import UserError, one_line
from superconv.training.hooks import Hook
from superconv.training.trainer import Trainer


def save(trainer: Trainer, path: Path, *, seconds: float) -> None:
    """Write weights, buffers, optimizers, scaler, hooks and position; `seconds` is the training time so far."""
    scaler = _scaler(trainer)
    state = {
        "model": trainer.model.state_dict(),
        "buffers": dict(trainer.model.module.named_buffers()),  # state_dict leaves out the non-persistent ones
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scaler": None if scaler is None else scaler.state_dict(),
        "step": trainer.step,
        "drawn": trainer.drawn,
        "sums": trainer.scores.sums,
        "hooks": {name: hook.state_dict() for name, hook in _named(trainer.hooks)},
        "seconds": seconds,
    }
    with files.whole(path) as temporary:
        torch.save(state, temporary)


def load(trainer: Trainer, path: Path) -> float:
    """Put a fresh trainer where `save` left off; the seconds spent so far come back.

    Raises:
        UserError: The file is damaged, or belongs to another model or optimizer.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        module = trainer.model.module
        buffers = dict(module.named_buffers())
        for name, value in state["buffers"].items():
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)
            else:  # made or resized while training, which `load_state_dict` would refuse
                owner, _, leaf = name.rpartition(".")
                saved = value.to(trainer.device)
                module.get_submodule(owner).register_buffer(leaf, saved, persistent=name in state["model"])
        trainer.model.load_state_dict(state["model"])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        scaler = _scaler(trainer)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        trainer.step, trainer.drawn = state["step"], state["drawn"]
        trainer.scores.sums = state["sums"]
        kept = state.get("hooks", {})  # a checkpoint of before hooks were kept
        for name, hook in _named(trainer.hooks):
            if name in kept:
                hook.load_state_dict(kept[name])
        seconds = float(state["seconds"])
    except Exception as error:
        reason = one_line(error, most=200)
        raise UserError(f"{path} cannot be resumed from ({reason}); delete it to start afresh") from error
    for scheduler in trainer.schedulers:
        scheduler.load_state_dict({"last_epoch": trainer.step})
    return seconds


def _named(hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """Hooks by their class and which of that class they are, as a resumed run may have others besides."""
    seen = Counter[str]()
    for hook in hooks:
        name = type(hook).__qualname__
        seen[name] += 1
        yield f"{name} {seen[name]}", hook


def _scaler(trainer: Trainer) -> Any:
    return getattr(trainer.fabric.strategy.precision, "scaler", None)
