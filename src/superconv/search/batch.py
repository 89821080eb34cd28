"""Length and batch of a training, where the user left them open."""

import os
from math import log2

from superconv.rates.laws import BatchLaw, LengthLaw
from superconv.specs.choices import Choices


def length_of(choices: Choices, samples: int, batch_size: int, *, law: LengthLaw | None = None) -> int:
    """Updates of the training that is asked for, if not in minutes; the usual length where none is given."""
    law = law or LengthLaw()
    if choices.steps is not None:
        return choices.steps
    if choices.epochs is not None:
        return max(1, round(choices.epochs * samples / batch_size))
    return max(law.least, round(law.epochs * samples / batch_size))


def batch_for(choices: Choices, samples: int, *, law: BatchLaw | None = None) -> tuple[int, str]:
    """Samples of an update, of which all processes and accumulated parts get as many, and why."""
    law = law or BatchLaw()
    usual = size = law.usual(samples)
    while choices.epochs and size > law.low and choices.epochs * samples / size < law.fewest_updates:
        size //= 2
    share = samples * law.share
    reason = f"about a fortieth of {samples} samples, {law.low} to {law.high}"
    if size < usual:
        reason = f"below the usual {usual}, so that a run this short has more updates"
    elif size != 1 << max(0, round(log2(max(share, law.share)))):
        extreme = "least" if size == law.low else "most"
        reason = f"the {extreme} that is usual: a fortieth of the data is {share:.3g}"
    parts = (choices.accumulate or 1) * int(os.environ.get("WORLD_SIZE", "1"))
    if size % parts:
        size = parts * max(1, round(size / parts))
        reason += f", as a multiple of {parts} parts"
    return size, reason
