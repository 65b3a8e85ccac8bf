"""The language-model contract, which every family from the n-gram to GPT fulfils.

A model turns token ids into *features*, one vector (or history) a position, and features into logits. Splitting the two
lets a decoder project only the last position, and lets a family score given tokens without (B, T, V).

Shape letters: B batch, T positions, V vocabulary, X whatever a family's features are.
"""

import keras
from keras import ops


class LanguageModel(keras.Model):
    """Base class: `model(token_ids, state=None) -> logits`, or `(logits, state)` when a state is given.

    A family implements `features`, `project` and `init_state`; everything else follows from those three.

    A state is a dict of tensors. Each is batch-first, (B, ...), or a scalar that all rows share, so a beam can reorder
    any family's state with one gather along axis 0.

    Attributes:
        carries_state: True when training feeds each batch the state that the last one left (truncated backpropagation
            through time); the data is then laid out so that rows go on where they stopped.
        context_tokens: how many tokens before a window fix its probabilities exactly (n - 1 for an n-gram); 0 if
            unbounded. Evaluation overlaps its windows by as many.
        max_length: longest sequence the model can take, or None.
    """

    carries_state = False
    context_tokens = 0
    max_length = None

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).registered_name)
        super().__init__(**kwargs)
        self.config = config

    def features(
        self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, training=False
    ):
        """Token ids to features.

        Args:
            token_ids: int32 (B, T).
            state: a dict from `init_state` or an earlier call, or None.
            padding_mask: bool (B, T), True for real tokens, or None. With a state, padding may only stand at the left
                of a row and leaves that row's state as it was.
            segment_ids: int32 (B, T), the document each token belongs to; documents do not see each other. Or None.
            positions: int32 (B, T), the position of each token in its document. Or None: counted from the row's first
                real token.
            training: whether dropout is on.

        Returns:
            `(features, state)`: features (B, T, X); the new state, or None if none was given.
        """
        raise TypeError(f"{type(self).__name__} does not implement features().")

    def project(self, features):
        """Features (B, T, X) to logits (B, T, V), in float32."""
        raise TypeError(f"{type(self).__name__} does not implement project().")

    def init_state(self, batch_size, max_length):
        """The state before the first token. Both arguments may be ints or scalar int32 tensors."""
        raise TypeError(f"{type(self).__name__} does not implement init_state().")

    def call(
        self, token_ids, state=None, padding_mask=None, segment_ids=None, positions=None, training=False
    ):
        features, new_state = self.features(
            token_ids, state, padding_mask=padding_mask, segment_ids=segment_ids, positions=positions, training=training
        )
        logits = self.project(features)
        return logits if state is None else (logits, new_state)

    def next_logits(self, token_ids, state, padding_mask=None):
        """Logits of the token after the last one, (B, V) float32, and the new state: one step of decoding."""
        features, state = self.features(token_ids, state, padding_mask=padding_mask)
        return self.project(features[:, -1:])[:, 0], state

    def token_log_probs(self, token_ids, labels, state=None, **masks):
        """Natural log-probability of given tokens.

        Args:
            token_ids: int32 (B, T), the inputs.
            labels: int32 (B, T), the token that follows each input.
            state: as in `features`.
            **masks: `padding_mask`, `segment_ids`, `positions`, as in `features`.

        Returns:
            float32 (B, T) log p(labels | inputs so far), and the new state (None if none was given).
        """
        features, state = self.features(token_ids, state, **masks)
        logits = self.project(features)
        return -ops.sparse_categorical_crossentropy(labels, logits, from_logits=True), state

    def build_from_ids(self):
        """Creates every weight by tracing one short batch. Returns the model."""
        self(ops.zeros((1, 2), dtype="int32"))
        return self

    def get_config(self):
        return self.config.to_dict()
