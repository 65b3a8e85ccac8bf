"""Loss scaling for float16 (Micikevicius et al. 2018, section 3.2), whose smallest normal number is 6e-5: below lie many
gradients, which would be 0.
"""

import tensorflow as tf

FIRST_SCALE = 2.0**15
GOOD_STEPS = 2_000  # after so many steps without an overflow the scale doubles
LARGEST_SCALE, SMALLEST_SCALE = 2.0**24, 1.0


class LossScaling:
    """The factor that a loss is multiplied by before it is differentiated, and the gradients divided by after.

    It halves when a gradient overflowed, and the step then changes no weight; it doubles after `GOOD_STEPS` good steps.

    Attributes:
        scale: the factor for the mean loss, float32.
        good_steps: steps since it changed.
    """

    def __init__(self):
        self.scale = tf.Variable(FIRST_SCALE, name="scale", trainable=False)
        self.good_steps = tf.Variable(0, name="good_steps", trainable=False)

    def variables(self):
        return [self.scale, self.good_steps]

    def learn(self, finite):
        """Notes whether the gradients of a step were finite."""
        if not finite:
            self.scale.assign(max(float(self.scale) / 2, SMALLEST_SCALE))
            self.good_steps.assign(0)
        elif int(self.good_steps) + 1 == GOOD_STEPS:
            self.scale.assign(min(float(self.scale) * 2, LARGEST_SCALE))
            self.good_steps.assign(0)
        else:
            self.good_steps.assign_add(1)
