"""What every model is: a language model, an encoder, an encoder-decoder, a classifier, or one of them with the head of a task.

A batch goes into a model whole: `model(batch)`, a dict with the names of `zoo/data/batch.py`. A model takes the inputs that it
names in `takes`, leaves alone what belongs to the loss, and refuses an input that it would otherwise ignore.

Shape letters: B batch, T positions, S positions of a source, V vocabulary, D hidden, X whatever a family's features are.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from zoo.config import Refusal
from zoo.data.batch import NO_INPUTS
from zoo.layers.cache import rewound
from zoo.layers.chunked_cross_entropy import Projection, Unprojected, chunked_log_probs, resolve_logits
from zoo.layers.linear import times_rows


class Model(keras.Model):
    """Base class of all models.

    Args:
        config: the family's config. `config.kind` says what the model is, `config.fitted` whether it is fitted in closed form.

    Attributes:
        takes: names of `INPUTS` that the model takes.
        passes: names of the methods that one pass of the model goes through; a server with XLA compiles them
            (`zoo/serving/compiled.py`). Empty for a model that looks its numbers up in tables.
        carries_state: True when training feeds each batch the state that the last one left (truncated backpropagation
            through time); the data is then laid out so that rows go on where they stopped.
        context_tokens: how many tokens before a window fix its probabilities exactly (n - 1 for an n-gram); 0 if
            unbounded. Evaluation overlaps its windows by as many.
        forgets_at_eos: whether nothing before an `eos_id` changes what comes after it, so that texts may be scored end to end.
        max_length: longest sequence the model can take, or None.
        aligns: whether `alignment` says how much each token of a target looked at each of the source.
        one_row_apart: whether a served step is faster when its layers know that the batch has one row, which then has a graph
            of its own.
        temperature: what `limited` divides logits by; not 1 where a calibration has found another (`Task.limit_ids`).
        rewinds: whether a state can be taken back to fewer tokens, so that a draft of some tokens may be tried
            (`zoo/signatures/drafting.py`).
        num_ids: how many ids the tokenizer has, where the table has more rows, for a round number; else None. The ids above
            have no probability in decoding and scoring (`limited`). A task sets it (`Task.limit_ids`).
    """

    takes = ("token_ids", "padding_mask")
    passes = ()
    num_ids, temperature = None, 1.0
    carries_state = one_row_apart = rewinds = forgets_at_eos = aligns = False
    context_tokens, max_length = 0, None

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).registered_name)
        super().__init__(**kwargs)
        self.config = config

    @property
    def kind(self):
        """What the model is: one of `zoo.config.KINDS`."""
        return self.config.kind

    @property
    def fitted(self):
        """Whether the model is fitted in closed form, by `fit_closed_form`, and not in steps."""
        return self.config.fitted

    def without_head(self):
        """The model below the head of a task: the model itself where it has none."""
        return self

    def taken(self, batch):
        """The inputs of a batch that this model takes, as a dict.

        Args:
            batch: a dict with the names of `zoo/data/batch.py`, or token ids alone.

        Raises:
            Refusal: the batch has an input that this model would ignore, a name that no batch has, or no `token_ids`.
        """
        if not isinstance(batch, dict):
            return {"token_ids": batch}
        if batch.get("token_ids") is None:
            raise Refusal(f"{self.registered_name} needs token_ids; the batch has {', '.join(batch) or 'nothing'}.")
        ignored = [name for name, value in batch.items() if value is not None and name not in (*self.takes, *NO_INPUTS)]
        if ignored:
            raise Refusal(
                f"{self.registered_name} does not take {', '.join(ignored)}; it takes {', '.join(self.takes)}. "
                "Leave the others out of the batch."
            )
        return {name: batch[name] for name in self.takes if batch.get(name) is not None}

    def layers_by_depth(self):
        """Layers from the input to the output, as lists: what makes vectors of ids; each block; what follows the last block.

        Raises:
            Refusal: the model has no blocks.
        """
        raise Refusal(f"{self.registered_name} has no blocks; freeze, layer_decay and lora_rank are for models that have some.")

    def table(self):
        """The table of token embeddings, a variable (V, E).

        Raises:
            Refusal: the model has none.
        """
        raise Refusal(f"{self.registered_name} has no table of embeddings, so it cannot begin with word vectors.")

    def token_vectors(self):
        """What turns tokens into numbers: an object and the name of its method whose result stands for the tokens of a row. An
        explanation scales that result (`scaled_tokens`).

        Raises:
            Refusal: the model looks its numbers up in tables, and has no gradients.
        """
        return self.embeddings, "call"

    def scaled_tokens(self, values, factors_BT):
        """The result of `token_vectors` with each token multiplied by a factor, float32 (B, T)."""
        return values * ops.cast(factors_BT, values.dtype)[:, :, None]

    def limited(self, logits):
        """Logits (..., V) at the model's temperature, in which the ids from `num_ids` on have no probability."""
        logits = logits if self.temperature == 1 else logits / self.temperature
        return logits if self.num_ids is None else logits + _no_probability(self.num_ids, logits.shape[-1], logits.dtype)

    def build_from_ids(self):
        """Creates every weight, without a pass. Returns the model."""
        if not self.built:
            self.build()
        return self

    def get_config(self):
        return self.config.to_dict()

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model with the fields of `get_config`, with fresh weights: what `keras.models.clone_model` calls."""
        return cls(cls.config_class.from_dict(config)).build_from_ids()

    def save(self, filepath, *args, **kwargs):
        """Refuses: a file of Keras would not hold the tokenizer and the task. `save_weights` and `load_weights` work."""
        whole = f"zoo.bundle.Bundle(model, tokenizer, task).save({str(filepath)!r})"
        name = self.registered_name
        raise Refusal(f"{name} is saved as a bundle, with its tokenizer and its task: {whole}, or model.save_weights.")

    def export(self, filepath, *args, **kwargs):
        """Refuses likewise: what is served takes texts."""
        raise Refusal(f"{self.registered_name} is exported with its tokenizer: zoo.load(bundle).export({str(filepath)!r}).")


class LanguageModel(Model):
    """Base class: `model(batch) -> logits`, or `model(batch, state=state) -> (logits, state)`.

    A language model turns token ids into *features*, one vector (or history) a position, and features into logits. Splitting
    the two lets a decoder project only the last position, and lets a family score given tokens without (B, T, V).

    A family implements `features`, `project` and `init_state`, and a `build` that makes its weights; everything else follows.

    A state is a dict of tensors. Each is batch-first, (B, ...), or a scalar that all rows share, so a beam can reorder
    any family's state with one gather along axis 0.
    """

    takes = ("token_ids", "padding_mask", "segment_ids", "positions")
    passes = ("init_state", "next_logits", "token_log_probs", "hidden")

    def features(self, token_ids, state=None, *, training=False, padding_mask=None, segment_ids=None, positions=None):
        """Token ids to features.

        Args:
            token_ids: int32 (B, T).
            state: a dict from `init_state` or an earlier call, or None.
            training: whether dropout is on.
            padding_mask: bool (B, T), True for real tokens, or None. With a state, padding may only stand at the left
                of a row's chunk and leaves that row's state as it was.
            segment_ids: int32 (B, T), the document each token belongs to; documents do not see each other. Or None.
            positions: int32 (B, T), the position of each token in its document. Or None: counted from the row's first
                real token.

        A family may take further names of `INPUTS`; it says so in `takes`.

        Returns:
            `(features, state)`: features (B, T, X); the new state, or None if none was given.
        """
        raise TypeError(f"{type(self).__name__} does not implement features().")

    def project(self, features):
        """Features (B, T, X) to logits (B, T, V), in float32."""
        raise TypeError(f"{type(self).__name__} does not implement project().")

    def projection(self):
        """The `Projection` (`zoo/layers/chunked_cross_entropy.py`) that `project` is, or None for a family whose logits are not
        such a product: their loss then needs (B, T, V) whole."""
        return None

    def init_state(self, batch_size, max_length):
        """The state before the first token. Both arguments may be ints or scalar int32 tensors."""
        raise TypeError(f"{type(self).__name__} does not implement init_state().")

    def state_axes(self):
        """Name of a tensor of the state -> {axis: what its length goes by}: `room` for the tokens that there is room for,
        `source` for the length of a source. Axes that are not named have one length for all requests."""
        # Lengths far enough apart for a model that rounds its room up.
        short, long = self.init_state(1, 2), self.init_state(1, 130)
        return {
            name: {axis: "room" for axis in range(1, len(value.shape)) if value.shape[axis] != long[name].shape[axis]}
            for name, value in short.items()
        }

    def room_left(self, state):
        """How many tokens more a state can take, a scalar int32; None for a family whose states are never full."""
        return None

    def hidden(self, batch, training=False):
        """Hidden states (B, T, D) for the head of a task, each position seeing those up to itself."""
        inputs = self.taken(batch)
        return self.features(inputs.pop("token_ids"), training=training, **inputs)[0]

    def call(self, batch, state=None, padding_mask=None, segment_ids=None, positions=None, training=False):
        given = dict(padding_mask=padding_mask, segment_ids=segment_ids, positions=positions)
        inputs = {**self.taken(batch), **{name: value for name, value in given.items() if value is not None}}
        features, new_state = self.features(inputs.pop("token_ids"), state, training=training, **inputs)
        logits = self.project(features)
        return logits if state is None else (logits, new_state)

    def next_logits(self, token_ids, state, padding_mask=None, **inputs):
        """Logits of the token after the last one, (B, V) float32, and the new state: one step of decoding."""
        features, state = self.features(token_ids, state, padding_mask=padding_mask, **inputs)
        return self.limited(self.project(features[:, -1:])[:, 0]), state

    def logits_after_each(self, token_ids, state):
        """Logits of the token after each one, (B, T, V) float32, and the new state: T steps of decoding in one pass."""
        features, state = self.features(token_ids, state)
        return self.limited(self.project(features)), state

    def rewound(self, state, num_columns):
        """The state as it was when it held `num_columns` columns of what it holds, a scalar int32: see `cache.rewound`.

        Raises:
            Refusal: the family keeps no more than its latest state.
        """
        if not self.rewinds:
            raise Refusal(f"{self.registered_name} keeps one state and not one a token, so no token can be taken back.")
        return rewound(state, num_columns)

    def token_log_probs(self, token_ids, labels, state=None, **inputs):
        """Natural log-probability of given tokens.

        Args:
            token_ids: int32 (B, T), the inputs.
            labels: int32 (B, T), the token that follows each input.
            state: as in `features`.
            **inputs: `padding_mask`, `segment_ids`, `positions` and the like, as in `features`.

        Returns:
            float32 (B, T) log p(labels | inputs so far), and the new state (None if none was given).
        """
        features, state = self.features(token_ids, state, **inputs)
        projection = self.projection()
        if resolve_logits("auto", projection, token_ids):
            if self.temperature != 1:
                features = features / self.temperature
                bias = None if projection.bias is None else projection.bias / self.temperature
                projection = projection._replace(bias=bias)
            if self.num_ids is not None:
                allowed = _no_probability(self.num_ids, projection.vocab_size, "float32")
                projection = projection._replace(bias=allowed if projection.bias is None else projection.bias + allowed)
            return chunked_log_probs(Unprojected(features, projection), labels), state
        logits = self.limited(self.project(features))
        return -ops.sparse_categorical_crossentropy(labels, logits, from_logits=True), state


def _no_probability(num_ids, vocab_size, dtype):
    """(V,): 0 for ids below `num_ids`, -inf for the others."""
    return ops.cast(ops.where(ops.arange(vocab_size) < num_ids, 0.0, -np.inf), dtype)


class TableOutput:
    """`project` and `projection` of a language model whose logits are one product: with the table that its tokens are looked up
    in (`config.tie_embeddings`, Press and Wolf 2017), or with another of its own.

    Attributes:
        embeddings: the `ReversibleEmbedding` of the tokens.
        output_bias: a variable (V,) that is added to the logits, or None.
    """

    output_bias = None

    def project(self, features):
        if self.config.tie_embeddings:
            logits = times_rows(features, ops.cast(self.embeddings.embeddings, features.dtype))
        else:
            logits = self.embeddings(features, reverse=True)
        logits = ops.cast(logits, "float32")
        return logits if self.output_bias is None else logits + self.output_bias

    def projection(self):
        if self.config.tie_embeddings:
            return Projection(self.embeddings.embeddings, self.output_bias, transposed=True)
        return Projection(self.embeddings.reverse_embeddings, self.output_bias)


class Memory(NamedTuple):
    """What an encoder has made of a source, for the decoder to look at.

    Attributes:
        values: hidden states, float (B, S, D).
        mask: bool (B, S), True for real tokens, or None: all are.
        states: the states with which a recurrent decoder begins, a dict of float (B, D); or None.
    """

    values: Any
    mask: Any = None
    states: Any = None


class EncoderDecoder(LanguageModel):
    """Base class: a language model over a target text that looks at a source text.

        model({"source_ids": ..., "source_mask": ..., "token_ids": ...}) -> logits (B, T, V)

        memory = model.encode(source_ids, source_mask)
        logits, state = model.next_logits(token_ids, model.init_state(batch_size, room, memory))

    A family implements `encode`, `features`, `project` and `init_state`. What attention needs of the memory is put into the
    state, batch-first, so decoding, beams, streaming and export serve these models as they serve every language model.

    To the `coverage` of a state that has one (`zoo/layers/coverage.py`) a family that `aligns` adds what new tokens look at.

    Call: a batch with `source_ids`, `source_mask` and `token_ids`, a dict -> float32 logits (B, T, V).
    """

    takes = ("token_ids", "padding_mask", "source_ids", "source_mask")
    passes = ("encode", "init_state", "next_logits", "token_log_probs")
    aligns = True

    def encode(self, source_ids, source_mask=None, training=False):
        """The `Memory` of a source.

        Args:
            source_ids: int32 (B, S).
            source_mask: bool (B, S), True for real tokens, or None: all are. Every row has at least one.
            training: whether dropout is on.
        """
        raise TypeError(f"{type(self).__name__} does not implement encode().")

    def features(
        self, token_ids, state=None, *, memory=None, source_ids=None, source_mask=None, padding_mask=None, training=False
    ):  # fmt: skip
        """As `LanguageModel.features`. Without a state the source is given: its ids, or the memory that `encode` made of it."""
        raise TypeError(f"{type(self).__name__} does not implement features().")

    def init_state(self, batch_size, max_length, memory=None):
        """The state before the first token of the target, with what the decoder needs of the memory."""
        raise TypeError(f"{type(self).__name__} does not implement init_state().")

    def alignment(self, batch):
        """How much each position of the target looked at each of the source: float32 (B, T, S), each row adds up to 1."""
        raise TypeError(f"{type(self).__name__} does not implement alignment().")

    def state_axes(self):
        # A memory of another length: what then differs goes by the source.
        def shapes(room, length):
            source = ops.zeros((1, length), "int32")
            return {name: tuple(value.shape) for name, value in self.init_state(1, room, self.encode(source)).items()}

        before, longer, other = shapes(2, 3), shapes(130, 3), shapes(2, 5)
        return {
            name: {
                axis: "room" if shape[axis] != longer[name][axis] else "source"
                for axis in range(1, len(shape))
                if shape[axis] != longer[name][axis] or shape[axis] != other[name][axis]
            }
            for name, shape in before.items()
        }

    def call(self, batch, state=None, training=False):
        inputs = self.taken(batch)
        if state is None and "source_ids" not in inputs:
            raise Refusal(f"{self.registered_name} reads a source: give source_ids too, or a state that was made of one.")
        features, new_state = self.features(inputs.pop("token_ids"), state, training=training, **inputs)
        logits = self.project(features)
        return logits if state is None else (logits, new_state)


class Encoder(Model):
    """Base class of models whose positions all see each other: `model(batch) -> hidden states (B, T, D)`.

    A family implements `hidden`, and a `build` that makes its weights. Calling the model is the same.

    Attributes:
        head_activation, head_epsilon, head_bias: what a masked language model's head on this encoder takes if nobody says.
        pooler: the layer that `pool` goes through, or None.
    """

    takes = ("token_ids", "padding_mask", "segment_ids")
    passes = ("hidden",)
    head_activation, head_epsilon, head_bias, pooler = "gelu", 1e-5, True, None

    def hidden(self, batch, training=False):
        """Token ids to hidden states.

        Args:
            batch: a dict of `token_ids` int32 (B, T); `padding_mask` bool (B, T), True for real tokens, or absent: all are, and
                every row has at least one; `segment_ids` int32 (B, T), which part of a row each token belongs to, or absent for
                one part. Token ids alone will do.
            training: whether dropout is on.

        Returns:
            float (B, T, D); what stands at padding is never to be read.
        """
        raise TypeError(f"{type(self).__name__} does not implement hidden().")

    def table(self):
        """As `Model.table`; a masked language model's head shares it."""
        return self.embeddings.embeddings

    def pool(self, hidden_BTD):
        """The vector of a whole row, (B, D): its first token's, unless a family has a layer for it."""
        return hidden_BTD[:, 0]

    def call(self, batch, padding_mask=None, segment_ids=None, training=False):
        given = {"padding_mask": padding_mask, "segment_ids": segment_ids}
        batch = batch if isinstance(batch, dict) else {"token_ids": batch}
        return self.hidden({**batch, **{k: v for k, v in given.items() if v is not None}}, training=training)


class Classifier(Model):
    """Base class of models that are classifiers as they stand: `model(batch) -> logits (B, C)`.

    A family's config has `num_classes`, which a task sets. A family implements `logits`, and `fit_statistics` if it must see
    the training texts before the first step.

    Call: a batch, a dict -> float32 (B, C).
    """

    def fit_statistics(self, rows):
        """Sets what follows from the training texts in closed form.

        Args:
            rows: list of int32 arrays, the ids of one text each.
        """

    def logits(self, token_ids, padding_mask=None, training=False):
        """float32 (B, C) of token ids int32 (B, T) and their padding mask, bool (B, T) or None."""
        raise TypeError(f"{type(self).__name__} does not implement logits().")

    def call(self, batch, padding_mask=None, training=False):
        given = {} if padding_mask is None else {"padding_mask": padding_mask}
        return self.logits(**{**self.taken(batch), **given}, training=training)


class WithHead(keras.Model):
    """A model and the head that a task has put on it, both kept whole: the head can be exchanged for that of another task.

        model(batch) = head(backbone.hidden(batch), batch)

    Args:
        backbone: a model with `hidden`: a `LanguageModel` or an `Encoder`.
        head: a layer that is called with hidden states (B, T, D) and the batch; what it gives is its task's affair.

    Call: a batch, a dict -> the head's outputs.
    """

    carries_state, context_tokens = False, 0

    def __init__(self, backbone, head):
        super().__init__(name="headed")
        self.backbone, self.head = backbone, head
        self.config, self.max_length = backbone.config, backbone.max_length
        self.registered_name = backbone.registered_name

    kind, fitted, save, export = Model.kind, Model.fitted, Model.save, Model.export
    num_ids, temperature, limited = Model.num_ids, Model.temperature, Model.limited

    @property
    def takes(self):
        """Names of the inputs that the backbone takes."""
        return self.backbone.takes

    def without_head(self):
        """The model below the head."""
        return self.backbone

    def call(self, batch, training=False):
        batch = batch if isinstance(batch, dict) else {"token_ids": batch}
        return self.head(self.backbone.hidden(batch, training=training), batch, training=training)

    def layers_by_depth(self):
        """Those of the backbone."""
        return self.backbone.layers_by_depth()

    def build_from_ids(self):
        """Creates every weight. Returns the model."""
        self.backbone.build_from_ids()
        hidden_BTD = self.backbone.hidden({"token_ids": ops.zeros((1, 2), dtype="int32")})
        self.head.build(tuple(hidden_BTD.shape))
        self.built = True
        return self
