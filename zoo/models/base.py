"""The contracts of models: language models, from the n-gram to GPT; encoders, such as BERT; either with the head of a task;
and classifiers.

A language model turns token ids into *features*, one vector (or history) a position, and features into logits. Splitting the
two lets a decoder project only the last position, and lets a family score given tokens without (B, T, V).

Shape letters: B batch, T positions, V vocabulary, D hidden, X whatever a family's features are.
"""

import keras
from keras import ops

from zoo.layers.chunked_cross_entropy import Unprojected, chunked_log_probs, resolve_logits


class LanguageModel(keras.Model):
    """Base class: `model(token_ids, state=None) -> logits`, or `(logits, state)` when a state is given.

    A family implements `features`, `project` and `init_state`, and a `build` that makes its weights; everything else follows.

    A state is a dict of tensors. Each is batch-first, (B, ...), or a scalar that all rows share, so a beam can reorder
    any family's state with one gather along axis 0.

    Attributes:
        carries_state: True when training feeds each batch the state that the last one left (truncated backpropagation
            through time); the data is then laid out so that rows go on where they stopped.
        context_tokens: how many tokens before a window fix its probabilities exactly (n - 1 for an n-gram); 0 if
            unbounded. Evaluation overlaps its windows by as many.
        max_length: longest sequence the model can take, or None.
        one_row_apart: whether a served step is faster when its layers know that the batch has one row, which then has a graph
            of its own.
    """

    carries_state = one_row_apart = False
    context_tokens = 0
    max_length = None

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).registered_name)
        super().__init__(**kwargs)
        self.config = config

    def features(self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, training=False):
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

    def projection(self):
        """The `Projection` (`zoo/layers/chunked_cross_entropy.py`) that `project` is, or None for a family whose logits are no
        such product: their loss then needs (B, T, V) whole."""
        return None

    def init_state(self, batch_size, max_length):
        """The state before the first token. Both arguments may be ints or scalar int32 tensors."""
        raise TypeError(f"{type(self).__name__} does not implement init_state().")

    def layers_by_depth(self):
        """Layers from the input to the output, as lists: what makes vectors of ids; each block; what follows the last block."""
        raise TypeError(f"{type(self).__name__} does not implement layers_by_depth().")

    def encode(self, token_ids, padding_mask=None, segment_ids=None, training=False):
        """Hidden states (B, T, D), as an `Encoder` gives them, each position seeing those up to itself.

        `segment_ids`, the parts of a pair, are an encoder's; a language model tells them by the token between.
        """
        return self.features(token_ids, padding_mask=padding_mask, training=training)[0]

    def call(self, token_ids, state=None, padding_mask=None, segment_ids=None, positions=None, training=False):
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
        projection = self.projection()
        if resolve_logits("auto", projection, token_ids):
            return chunked_log_probs(Unprojected(features, projection), labels), state
        logits = self.project(features)
        return -ops.sparse_categorical_crossentropy(labels, logits, from_logits=True), state

    def build_from_ids(self):
        """Creates every weight, without a pass. Returns the model."""
        if not self.built:
            self.build()
        return self

    def get_config(self):
        return self.config.to_dict()


class Encoder(keras.Model):
    """Base class of models whose positions all see each other: `encode(token_ids, padding_mask, segment_ids) -> (B, T, D)`.

    A family implements `encode`, and a `build` that makes its weights. Calling the model is the same.

    Attributes:
        max_length: longest sequence the model can take, or None.
    """

    carries_state = False
    context_tokens = 0
    max_length = None

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).registered_name)
        super().__init__(**kwargs)
        self.config = config

    def layers_by_depth(self):
        """Layers from the input to the output, as lists: what makes vectors of ids; each block; what follows the last block."""
        raise TypeError(f"{type(self).__name__} does not implement layers_by_depth().")

    def encode(self, token_ids, padding_mask=None, segment_ids=None, training=False):
        """Token ids to hidden states.

        Args:
            token_ids: int32 (B, T).
            padding_mask: bool (B, T), True for real tokens, or None: all are. Every row has at least one.
            segment_ids: int32 (B, T), which part of a pair each token belongs to, 0 or 1; None for one part.
            training: whether dropout is on.

        Returns:
            float (B, T, D); what stands at padding is never to be read.
        """
        raise TypeError(f"{type(self).__name__} does not implement encode().")

    def call(self, token_ids, padding_mask=None, segment_ids=None, training=False):
        return self.encode(token_ids, padding_mask, segment_ids, training=training)

    def build_from_ids(self):
        """Creates every weight, without a pass. Returns the model."""
        if not self.built:
            self.build()
        return self

    def get_config(self):
        return self.config.to_dict()


class Classifier(keras.Model):
    """Base class of models that are classifiers as they stand: `model(token_ids, padding_mask) -> logits (B, C)`.

    A family's config has `num_classes`, which a task sets. A family implements `call`, and `fit_statistics` if it must see the
    training texts before the first step.

    Attributes:
        max_length: longest sequence the model can take, or None.
    """

    carries_state = False
    context_tokens = 0
    max_length = None

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).registered_name)
        super().__init__(**kwargs)
        self.config = config

    def fit_statistics(self, rows):
        """Sets what follows from the training texts in closed form.

        Args:
            rows: list of int32 arrays, the ids of one text each.
        """

    def build_from_ids(self):
        """Creates every weight. Returns the model."""
        self.build()
        return self

    def get_config(self):
        return self.config.to_dict()


class WithHead(keras.Model):
    """A model and the head that a task has put on it, both kept whole: the head can be exchanged for that of another task.

    Args:
        backbone: a `LanguageModel` or an `Encoder`.
        head: a layer that is called with hidden states (B, T, D); what else it takes, and what it gives, is its task's affair.

    Call: as `Encoder.encode`, with the head's outputs as the result.
    """

    carries_state = False
    context_tokens = 0

    def __init__(self, backbone, head):
        super().__init__(name="headed")
        self.backbone, self.head = backbone, head
        self.config, self.max_length = backbone.config, backbone.max_length
        self.registered_name = backbone.registered_name

    def call(self, token_ids, padding_mask=None, segment_ids=None, training=False):
        hidden_BTD = self.backbone.encode(token_ids, padding_mask, segment_ids, training=training)
        return self.head(hidden_BTD, training=training)

    def build_from_ids(self):
        """Creates every weight. Returns the model."""
        self.backbone.build_from_ids()
        hidden_BTD = self.backbone.encode(ops.zeros((1, 2), dtype="int32"))
        self.head.build(tuple(hidden_BTD.shape))
        self.built = True
        return self
