"""The learning rate of step 8: the usual one, unless the finder's curve forbids it."""

from __future__ import annotations

from keras_sgdr.lr_finder.lr_curve import DIVERGENCE_MARGIN, LRCurve
from keras_sgdr.lr_finder.suggestions import divergence_index

# For the last layer group, with AdamW, a warm-up and frozen batch norms; the first group has a third of it.
USUAL_RATE = 1e-3


def choose_rate(curve: LRCurve) -> tuple[float, str]:
    """Returns the rate of step 8 and the reason, in words.

    A head that has learnt leaves nothing to read in a curve but noise, and where it ends: no rule of `LRCurve.suggest`
    that looks for a fall finds one. So the rate is `USUAL_RATE`, which was measured to train well on folders of many
    kinds (see README), but not above what the curve's divergence suggests.
    """
    first = divergence_index(curve.losses, curve.guessing_loss or 0.0)
    if first is None:
        return USUAL_RATE, f"the usual one, for the curve has not diverged at {curve.learning_rates[-1]:.1e}"
    diverges = float(curve.learning_rates[first])
    limit = diverges / DIVERGENCE_MARGIN
    if limit >= USUAL_RATE:
        return USUAL_RATE, f"the usual one; the curve diverges at {diverges:.1e}"
    return limit, f"below the usual {USUAL_RATE:.0e}, for the curve diverges at {diverges:.1e} already"
