"""The mean of the weights in the last checkpoints, which a run judges and saves in place of its last weights.

    --set=average=5     Vaswani et al. 2017, section 6.1; Izmailov et al. 2018 say why a mean generalises better

Which checkpoints follows from the run's config alone, so a run that was interrupted, and saved itself for that, takes the same.
"""

from zoo.config import Refusal

SPAN = 4  # checkpoints are made so often that those of the mean are from the last fourth of the run


def steps_of(config, count):
    """The steps after which the last `count` regular checkpoints of a `TrainConfig` are made, in order.

    steps_of(config, 3)     of 100 steps with a checkpoint every 30: [60, 90, 100]
    """
    saved = {*range(config.checkpoint_every, config.steps + 1, config.checkpoint_every), config.steps}
    return sorted(saved)[-count:] if count else []


def check(config, count):
    """Raises Refusal where a run has not so many checkpoints."""
    there = len(steps_of(config, config.steps + 1))
    if count > there:
        raise Refusal(
            f"average={count} is more than the {there} checkpoints of this run; give a smaller --checkpoint_every, or more "
            "--steps."
        )


def checkpoint_every(steps, count):
    """The steps between two checkpoints, where the user gives none."""
    return max(steps // max(6, SPAN * count), 1)
