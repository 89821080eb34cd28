"""The momentum of a parameter group, `momentum` or the first of its betas, and whether a cycle moves it unasked."""

from typing import Any

USUAL = (0.8, 0.99)
"""Momenta that a cycle moves by itself; others, such as 0.5 for a GAN, were chosen for a reason, and 0 stays 0."""

USUAL_CYCLE = (0.95, 0.85)
"""Momentum at the feet and at the peak (arXiv 1803.09820)."""


def has(group: dict[str, Any]) -> bool:
    """Whether a group can have a momentum."""
    return "momentum" in group or "betas" in group


def of(group: dict[str, Any]) -> float:
    """Momentum of a group, 0 for none."""
    return float(group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0])


def is_usual(group: dict[str, Any]) -> bool:
    """Whether a group's momentum is one that a cycle means."""
    low, high = USUAL
    return low <= of(group) <= high


def put(group: dict[str, Any], value: float) -> None:
    """Set the momentum; of betas, only the first."""
    if "momentum" in group:
        group["momentum"] = float(value)
    elif "betas" in group:
        group["betas"] = (float(value), *group["betas"][1:])
