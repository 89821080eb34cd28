"""The dropout that a run leaves room for."""

from collections.abc import Sequence

from superconv.rates.laws import DropoutLaw


def balanced_dropout(own: Sequence[float], epochs: float, *, law: DropoutLaw | None = None) -> tuple[float, str]:
    """The most dropout that a run leaves room for, and why.

    The network's own is lowered where it is more, never raised.

    Args:
        own: Rates of the network's layers, ascending.
        epochs: Passes over the data in the run.
        law: Constants; the usual ones, if not given.
    """
    most = float(f"{(law or DropoutLaw()).most * epochs**0.5:.2g}")
    if own[-1] <= most:
        return own[-1], "as the network has it"
    return most, f"{epochs:.3g} epochs at large rates have no use for the network's {own[-1]:g}"
