"""Token by token over a network: signatures that hand the state of decoding to the client and take it back.

    prefill(prompt, options) -> everything that `decode_step` takes, and text, log_prob, finished
    decode_step(what the last answer held) -> the same again, one token later

A client feeds each output whose name is an input back in, until every row is `finished`. The text after the last step is what
`generate` writes at once:

    prefill(prompt "The list", max_new_tokens 2)    -> text "The list is",       remaining 1, finished false, state_...
    decode_step(all of that)                        -> text "The list is empty", remaining 0, finished true

Rows of different requests may be joined along axis 0 and parted again between two steps (continuous batching): at the left of
`token_ids` -1 is padding, and what the rows of a batch share, such as the column that a Transformer's cache is written at, is
given once a row and must agree; `padded_length` lets a new row begin there.

Shape letters: B batch, N tokens read and written so far, padding included.
"""

import functools
import inspect

import numpy as np
import tensorflow as tf

from zoo.decoding import choose
from zoo.signatures.generation import (
    GENERATION,
    INTEGERS,
    LENGTH_BUCKETS,
    OPTIONS,
    STRINGS,
    as_many_as_fit,
    checked_sampling,
    default,
    left_padded,
    long_texts,
    longest_text,
    texts_of,
)  # fmt: skip
from zoo.signatures.request import refusal_unless, signature, with_one_row_apart

PREFIX = "state_"
NUM_LIKELIEST = 5
AS_NEEDED = np.zeros(1, np.int32)  # the default of `padded_length`
SAMPLING = [name for name in GENERATION if name != "max_new_tokens"]


def streaming_signatures(model, tokenizer, frame):
    """`prefill` and `decode_step` of a language model.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `Tokenizer`.
        frame: what stands around a prompt, the task's `Frame`.

    Returns:
        Name -> `tf.function`. `prefill` takes what `generate` takes, and `padded_length` int32 (B,), 0 for no more than needed:
        the least number of columns that the prompts are padded to. Both answer

        - `text` string (B,), prompt and continuation so far; a character whose bytes have not all come yet ends it as U+FFFD;
        - `log_prob` float32 (B,), natural, of the token just written; 0 in a row that had finished;
        - `likeliest` string (B, K) and `likeliest_log_probs` float32 (B, K), natural: the K = 5 tokens (or fewer, where the
          vocabulary has no more) that the model held likeliest there, best first; "" and 0 in a row that had finished;
        - `finished` bool (B,);
        - and what the next `decode_step` takes: `prompt`; `token_ids` int32 (B, N); `prompt_length` and `remaining` int32 (B,),
          tokens of the prompt and tokens that may still come; and the model's state as `state_<name>`, floats as float32, each
          scalar as (B,). `decode_step` takes the options of sampling besides, which are to be the same in every step.
    """
    specs, to_wire, from_wire = state_on_the_wire(model)

    def write(logits, state, prompt, token_ids, prompt_length, remaining, sampling):
        """The answer: one token more, in rows where one may still come."""
        real, alive = token_ids >= 0, remaining > 0
        num_tokens = tf.reduce_sum(tf.cast(real, tf.int32), 1)
        chosen, log_prob = choose(logits, num_tokens - prompt_length, sampling)
        best, best_log_probs = likeliest(logits, alive, tokenizer)
        goes_on = tf.reduce_all([chosen != stop_id for stop_id in tokenizer.stop_ids], 0)
        remaining = tf.where(alive & goes_on, remaining - 1, 0)
        all_ids = tf.concat([token_ids, tf.where(alive, chosen, -1)[:, None]], 1)
        is_prompt = (token_ids >= 0) & (tf.cumsum(tf.cast(real, tf.int32), 1) <= prompt_length[:, None])
        text = texts_of(
            tokenizer, prompt, tf.ragged.boolean_mask(token_ids, is_prompt), tf.ragged.boolean_mask(all_ids, all_ids >= 0)
        )
        return {
            "text": text, "log_prob": tf.where(alive, log_prob, 0.0), "finished": remaining <= 0, "prompt": tf.identity(prompt),
            "likeliest": best, "likeliest_log_probs": best_log_probs,
            "token_ids": all_ids, "prompt_length": tf.identity(prompt_length), "remaining": remaining,
            **to_wire(state, tf.size(prompt)),
        }  # fmt: skip

    @signature(STRINGS, INTEGERS, INTEGERS, *(OPTIONS[name][0] for name in SAMPLING))
    def prefill(
        prompt, max_new_tokens=default("max_new_tokens"), padded_length=AS_NEEDED, temperature=default("temperature"),
        top_k=default("top_k"), top_p=default("top_p"), seed=default("seed"),
    ):  # fmt: skip
        max_new_tokens, sampling = checked_sampling(prompt, max_new_tokens, temperature, top_k, top_p, seed)
        least = tf.reduce_max(tf.concat([padded_length, [1]], 0))
        limit = longest_text(model) or LENGTH_BUCKETS[-1]
        sentence = f"padded_length is {{}}; this model takes at most {limit}."
        with tf.control_dependencies([refusal_unless(least <= limit, sentence, least)]):
            ids, padding_mask, lengths = left_padded(model, tokenizer, prompt, frame, tf.identity(least))
        remaining = as_many_as_fit(model, max_new_tokens, lengths)
        room = tf.shape(ids)[1] + tf.reduce_max(tf.concat([remaining, [0]], 0))
        logits, state = model.next_logits(ids, model.init_state(tf.shape(ids)[0], room), padding_mask)
        return write(logits, state, prompt, tf.where(padding_mask, ids, -1), lengths, remaining, sampling)

    def decode_step(prompt, token_ids, prompt_length, remaining, temperature, top_k, top_p, seed, **state):
        _, sampling = checked_sampling(prompt, tf.zeros_like(remaining), temperature, top_k, top_p, seed)
        state = from_wire(state)
        with tf.control_dependencies([some_are_left(token_ids), *fits(remaining, model.room_left(state))]):
            # A row that has finished is stepped along, on any token: nobody reads what comes of it. Written so that the graph
            # knows that this is one column: of `[:, -1:]` it does not.
            last = tf.maximum(token_ids[:, -1], 0)[:, None]
        step = functools.partial(with_one_row_apart, model.next_logits) if model.one_row_apart else model.next_logits
        logits, new_state = step(last, state)
        return write(logits, new_state, prompt, token_ids, prompt_length, remaining, sampling)

    ids = tf.TensorSpec([None, None], tf.int32)
    decode_step = with_arguments(
        decode_step, {"prompt": STRINGS, "token_ids": ids, "prompt_length": INTEGERS, "remaining": INTEGERS, **specs}
    )
    return {"prefill": prefill, "decode_step": decode_step}


def likeliest(logits, alive, tokenizer):
    """How the likeliest tokens are written, each alone, string (B, K), and their log-probabilities, float32 (B, K)."""
    top, ids = tf.math.top_k(logits, min(NUM_LIKELIEST, logits.shape[-1] or NUM_LIKELIEST))
    log_probs = top - tf.reduce_logsumexp(logits, -1, keepdims=True)
    spelt = tokenizer.detokenize(tf.RaggedTensor.from_uniform_row_length(tf.reshape(ids, [-1]), 1))
    return (
        tf.where(alive[:, None], tf.reshape(spelt, tf.shape(ids)), ""),
        tf.where(alive[:, None], log_probs, 0.0),
    )  # fmt: skip


def streaming_requests(model, tokenizer, first):
    """Requests as of a task, of which request number `first` is the first: (signature, inputs, number of the request whose
    answer is fed in besides)."""
    options = {"temperature": [0.0, 0.9], "top_k": [0, 7], "seed": [0, 5]}
    prompts = {"prompt": ["The", "T"], "max_new_tokens": [3, 2], "padded_length": [5], **options}
    requests = [("prefill", prompts), ("decode_step", options, first), ("decode_step", options, first + 1)]
    for text in long_texts(model, tokenizer):
        requests += [("prefill", {"prompt": [text], "max_new_tokens": [4]}), ("decode_step", {}, first + len(requests))]
    return requests


def some_are_left(token_ids):
    """A check that `token_ids` (B, N) have a column, which a step reads."""
    sentence = "token_ids has no column: it holds the tokens that prefill and the steps since have answered."
    return refusal_unless(tf.shape(token_ids)[1] > 0, sentence)


def fits(remaining, room):
    """Checks that a state with room for so many tokens has enough for all that may still come, and for this one anyway."""
    if room is None:
        return []
    most = tf.reduce_max(tf.concat([remaining, [1]], 0))
    sentence = "The state has room for {} more tokens, and up to {} may still come: prefill makes room for max_new_tokens."
    return [refusal_unless(most <= room, sentence, room, most)]


def with_arguments(step, specs):
    """`step` as a tf.function of the named tensors and the options of sampling, which have their defaults."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in specs]
    parameters += [inspect.Parameter(name, kind, default=default(name)) for name in SAMPLING]

    def decode_step(*values):
        return step(**{parameter.name: value for parameter, value in zip(parameters, values, strict=True)})

    # The arguments depend on the model's state; their names are read off here.
    decode_step.__signature__ = inspect.Signature(parameters)
    return signature(*specs.values(), *(OPTIONS[name][0] for name in SAMPLING))(decode_step)


def state_on_the_wire(model):
    """Specs of the model's state as a client sees it, and the ways to and from there.

    Every tensor is batch-first, so that a server can batch and a client can join rows: a scalar that rows share becomes one
    number a row. Floats are float32, as JSON has no bfloat16. Axes that depend on the room for tokens, or on
    the length of a source, are unknown.
    """
    axes = model.state_axes()
    specs, dtypes, scalars = {}, {}, set()
    memory = (model.encode(tf.zeros((1, 3), tf.int32)),) if model.kind == "encoder_decoder" else ()
    for name, value in model.init_state(1, 2, *memory).items():
        wire = PREFIX + name.replace("/", "_")
        sizes = [None if axis in axes[name] else value.shape[axis] for axis in range(1, len(value.shape))]
        dtypes[name] = value.dtype
        specs[wire] = tf.TensorSpec([None, *sizes], tf.float32 if value.dtype.is_floating else value.dtype)
        if not value.shape.rank:
            scalars.add(name)

    def to_wire(state, batch):
        wire = {}
        for name, value in state.items():
            value = tf.broadcast_to(value, [batch]) if name in scalars else value
            key = PREFIX + name.replace("/", "_")
            wire[key] = tf.cast(value, specs[key].dtype)
        return wire

    def from_wire(wire):
        state = {}
        for name, dtype in dtypes.items():
            key = PREFIX + name.replace("/", "_")
            value = wire[key]
            if name in scalars:
                value = _shared(key, value)
            state[name] = tf.cast(value, dtype)
        return state

    return specs, to_wire, from_wire


def _shared(name, values):
    """The number that all rows have in common."""
    largest = tf.reduce_max(tf.concat([values, [0]], 0))
    sentence = f"Rows stepped together must agree in {name}, got {{}}."
    with tf.control_dependencies([refusal_unless(tf.reduce_all(values == largest), sentence, values)]):
        return tf.identity(largest)
