"""How long a run trains, and how often it stops to judge and to save itself.

--steps=800     so many updates
--epochs=5      so many passes over the training data; how many steps that takes follows from the data
"""

import dataclasses
import math

from trainers.engine import averaging


def settled(config, average, steps_per_epoch=None):
    """A `TrainConfig` with its number of steps, and of steps between evaluations and checkpoints where no flag gives them.

    A config with `epochs` stays as it is until `steps_per_epoch` is known.

    Args:
        config: the run.
        average: of so many checkpoints the mean is taken at the end.
        steps_per_epoch: of its training batches.

    Raises:
        Refusal: the run has fewer checkpoints than that.
    """
    if config.epochs is not None:
        if steps_per_epoch is None:
            return config
        config = dataclasses.replace(config, steps=math.ceil(config.epochs * steps_per_epoch - 1e-6))
    sixth = max(config.steps // 6, 1)
    saved = averaging.checkpoint_every(config.steps, average) if average else sixth
    config = dataclasses.replace(
        config, eval_every=config.eval_every or sixth, checkpoint_every=config.checkpoint_every or saved
    )
    averaging.check(config, average)
    return config
