"""When a step went wrong, and which batches are then left out.

A step is bad when its loss or gradient is not a finite number, or when its loss is a *spike* that the weights made: higher
than the median of the last `WINDOW` losses by more than `SIGMAS` standard deviations (estimated by the median absolute
deviation, which a few outliers do not move) and by more than `NATS`. Before `WINDOW` losses are known, nothing is a spike.

A spike has one of two reasons: the weights are bad, or the text is another one here. The validation text tells: where its loss
after the step is below that limit, or has not risen by `RISEN` over the lowest so far, the weights are good, and the run goes
on, with a new window of losses.

After a bad step the run goes back to its last good checkpoint and leaves the batch of that step out, as Chowdhery et al. 2022
(PaLM, section 5.1) do. When the step after one that was left out is bad too, the weights were bad before: then the batch
before goes as well, and the run goes back to a checkpoint from before that. So the skipped stretch grows on both sides
until the run gets past it, or until more than `MOST_SKIPPED` of the last `SKIPPED_WITHIN` steps were left out. Then a loss that
is not finite ends the run. At a spike it goes on for `PATIENCE` steps without looking: the text may be another one for so long.
If the median of the losses is not below the limit then, the run is lost, and ends. All of this is a function of the losses, so
a run that is killed and resumed makes the same choices.
"""

import math
import statistics

WINDOW = 100
SIGMAS, NATS, RISEN = 10.0, 1.0, 0.5
MOST_SKIPPED, SKIPPED_WITHIN = 8, 1_000
PATIENCE = 300  # of them the last `WINDOW` are looked at
SIGMA_OF_MAD = 1.4826  # standard deviation of a normal distribution in units of its median absolute deviation


def badness(loss, gradient_norm, recent):
    """Why a step is bad, in words, or None.

    Args:
        loss: of the step, nats a token.
        gradient_norm: of the step, or None where it is not known.
        recent: losses of the steps before, the newest last.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if gradient_norm is not None and not math.isfinite(gradient_norm):
        return f"the norm of the gradient is {gradient_norm}"
    if loss > limit(recent):
        return f"the loss is {loss:.4g} where the median of the last {WINDOW} is {statistics.median(recent):.4g}"
    return None


def is_lost(recent, former):
    """Whether losses have stayed above a former `limit`."""
    return statistics.median(recent) > former


def are_good(validation_loss, lowest_loss, recent):
    """Whether the weights after a spike are good.

    Args:
        validation_loss: of these weights, nats a token.
        lowest_loss: the lowest validation loss so far, or None.
        recent: as for `badness`.
    """
    return validation_loss < max(limit(recent), -math.inf if lowest_loss is None else lowest_loss + RISEN)


def limit(recent):
    """What a loss is a spike above, nats a token."""
    if len(recent) < WINDOW:
        return math.inf
    median = statistics.median(recent)
    deviation = SIGMA_OF_MAD * statistics.median(abs(value - median) for value in recent)
    return median + max(SIGMAS * deviation, NATS)


def remember(recent, loss):
    """`recent` with `loss` at its end, `WINDOW` long at most."""
    return [*recent[1 - WINDOW :], loss]


def widened(skipped, step):
    """The steps to leave out when `step` is bad too, as a sorted list.

    With it goes the step before the stretch of skipped ones that ends just before `step`, if there is such a stretch.
    """
    first = step
    while first - 1 in skipped:
        first -= 1
    before = {first - 1} if 0 < first < step else set()
    return sorted({*skipped, step} | before)


def hopeless(skipped, step):
    """Whether so many steps before `step` had to be left out that another try is pointless."""
    return sum(step - SKIPPED_WITHIN < other for other in skipped) > MOST_SKIPPED
