"""The peak for a training that superconv can neither see nor put back: another process, DeepSpeed, another language."""

from collections.abc import Callable
from math import isfinite

from superconv.errors import UserError, above, at_least
from superconv.files import native
from superconv.rates.laws import LengthLaw
from superconv.rates.traits import Traits
from superconv.search.peak import PeakSearch, search_by
from superconv.search.probe import Probe

SHARE = 0.3  # of the run's updates, as `fit` spends
_UNKNOWN = Traits(
    optimizers=(), heavy_ball=True, momentum=True, decoupled=False, normalises=False, batch_norm=False, dropout=()
)


def find_peak(
    train: Callable[[float, int], float | None],
    *,
    total_steps: int,
    start_lr: float = 0.01,
    share: float = SHARE,
) -> PeakSearch:
    """Find the peak of one cycle by short cycles, each trained from a fresh start by a function of yours.

    Cycles of two lengths are trained under several peaks, a factor of 3 apart. The best peak of the longer ones is
    taken for the whole run, moved by what it did between the two lengths. All of that costs `share` of the run's
    updates, and is thrown away: where the loop is in Python, `OneCycle(max_lr="auto")` costs less.

    Args:
        train: (max_lr, steps) → validation loss at the end of one cycle of so many updates up to that peak, from the
            same initial weights each time; `None` or a loss that is not finite where training broke down.
        total_steps: Updates of the run that the peak is for.
        start_lr: First peak to try. The others follow from the losses, so a factor of 1,000 from the best will do.
        share: Updates that the cycles may cost, as a share of `total_steps`; 100 updates at least.

    Returns:
        The peak (`max_lr`; `None` where every cycle broke down), the cycles (`probes`), their cost (`updates`) and a
        reason.

    Raises:
        UserError: A value makes no sense, or the function returned no number.

    >>> import math, superconv
    >>> def train(max_lr, steps):
    ...     return 1 + math.log(max_lr / 0.2) ** 2  # in place of a training, one that is best at 0.2
    >>> found = superconv.find_peak(train, total_steps=1000)
    >>> f"{found.max_lr:.2f}", found.updates
    ('0.20', 300)
    """
    total_steps, start_lr, share = native(total_steps), native(start_lr), native(share)
    at_least(LengthLaw().fewest, total_steps=total_steps)
    above(0, start_lr=start_lr, share=share)

    def cycle(length: int, max_lr: float, _: float) -> Probe:
        loss = train(max_lr, length)
        try:
            number = None if loss is None else float(loss)
        except (TypeError, ValueError):
            kind = type(loss).__name__
            raise UserError(f"train(max_lr, steps) must return the validation loss, a number, not {kind}") from None
        known = number if number is not None and isfinite(number) else None
        return Probe(max_lr=max_lr, length=length, steps=length, loss=known)

    updates = max(100, round(share * total_steps))
    return search_by(cycle, steps=total_steps, start=start_lr, updates=updates, traits=_UNKNOWN)
