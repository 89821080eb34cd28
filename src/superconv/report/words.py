"""Numbers and values as people write them."""

from collections.abc import Mapping, Sequence

FEW = 200  # samples: of fewer, one is more than half a point


def percent(value: float) -> str:
    """0.97777 as 97.78 %."""
    return f"{100 * value:.2f}\u202f%"


def score(metric: str, value: float | None, samples: float | None = None) -> str:
    """A score in the way of its metric; a dash where there is none.

    Args:
        metric: Name of the metric.
        value: The score.
        samples: Number of samples that it was read on; an accuracy on a few is shown as a count too.

    >>> score("accuracy", 0.0, 1)
    '0 of 1 (0.00\u202f%)'
    """
    if value is None:
        return "–"
    if metric != "accuracy" or not 0 <= value <= 1:
        return f"{value:.4g}"
    few = samples is not None and 0 < samples < FEW
    return f"{round(value * samples)} of {samples:.0f} ({percent(value)})" if few and samples else percent(value)


def pace(per_second: float | None) -> str:
    """Images per second, to three digits."""
    if per_second is None:
        return "–"
    return f"{float(f'{per_second:.3g}'):,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds in the units that people use."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"


def words(value: object) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(v)}" for key, v in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(words(v) for v in value)
    return str(value)


def shown(name: str, value: float) -> str:
    """A value of a setting as people write it: decays as 3e-5."""
    if name != "weight_decay" or not value:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
