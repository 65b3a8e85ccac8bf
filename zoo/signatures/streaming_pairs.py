"""Another text token by token, such as a translation: `prefill` reads the source once, `decode_step` writes one token more.

    prefill(text "Monday", max_new_tokens 2)    -> text "lun",    remaining 1, finished false, state_...
    decode_step(all of that but the text)       -> text "lundi",  remaining 0, finished true

As `zoo/signatures/streaming.py` has it for a text that goes on: a client feeds each output whose name is an input back in. What
the model has read of the source is in the state, so a step does not read it again.

Shape letters: B batch, N tokens read and written so far, padding included.
"""

import functools

import tensorflow as tf

from zoo.decoding import choose
from zoo.signatures.generation import INTEGERS, OPTIONS, STRINGS, checked_sampling, default
from zoo.signatures.request import signature, with_one_row_apart
from zoo.signatures.streaming import SAMPLING, fits, likeliest, some_are_left, state_on_the_wire, with_arguments
from zoo.signatures.text_to_text import as_many_as_fit_behind, begin, source_of


def streaming_pair_signatures(model, tokenizer, frame, limit):
    """`prefill` and `decode_step` of a model that turns one text into another; arguments as of `text_to_text_signatures`.

    Returns:
        Name -> `tf.function`. `prefill` takes what `generate` takes, but `target_prefix`, `min_new_tokens` and
        `no_repeat_ngram`. Both answer what those of `streaming_signatures` answer, where

        - `text` string (B,) is the other text so far;
        - `prompt_length` int32 (B,) counts the tokens that stand before it: what a decoder starts with, or a source and its
          frame;
        - `prompt` is left out.
    """
    writer = tokenizer.target
    specs, to_wire, from_wire = state_on_the_wire(model)

    def write(logits, state, token_ids, prompt_length, remaining, sampling):
        """The answer: one token more, in rows where one may still come."""
        alive = remaining > 0
        written = tf.reduce_sum(tf.cast(token_ids >= 0, tf.int32), 1) - prompt_length
        chosen, log_prob = choose(logits, written, sampling)
        best, best_log_probs = likeliest(logits, alive, writer)
        remaining = tf.where(alive & (chosen != writer.eos_id), remaining - 1, 0)
        all_ids = tf.concat([token_ids, tf.where(alive, chosen, -1)[:, None]], 1)
        behind = tf.cumsum(tf.cast(all_ids >= 0, tf.int32), 1) > prompt_length[:, None]
        shown = behind & (all_ids >= 0) & (all_ids != writer.eos_id) & (all_ids < writer.vocab_size)
        return {
            "text": writer.detokenize(tf.ragged.boolean_mask(all_ids, shown)), "log_prob": tf.where(alive, log_prob, 0.0),
            "finished": remaining <= 0, "likeliest": best, "likeliest_log_probs": best_log_probs, "token_ids": all_ids,
            "prompt_length": tf.identity(prompt_length), "remaining": remaining, **to_wire(state, tf.size(remaining)),
        }  # fmt: skip

    @signature(STRINGS, INTEGERS, *(OPTIONS[name][0] for name in SAMPLING))
    def prefill(
        text, max_new_tokens=default("max_new_tokens"), temperature=default("temperature"), top_k=default("top_k"),
        top_p=default("top_p"), seed=default("seed"),
    ):  # fmt: skip
        max_new_tokens, sampling = checked_sampling(text, max_new_tokens, temperature, top_k, top_p, seed)
        source = source_of(model, tokenizer, frame, limit, text)
        remaining = as_many_as_fit_behind(model, max_new_tokens, source)
        state, ids, mask = begin(model, writer, frame, source, remaining)
        logits, state = model.next_logits(ids, state, mask)
        ids = ids if mask is None else tf.where(mask, ids, -1)
        lengths = tf.reduce_sum(tf.cast(ids >= 0, tf.int32), 1)
        return write(logits, state, ids, lengths, remaining, sampling)

    def decode_step(token_ids, prompt_length, remaining, temperature, top_k, top_p, seed, **state):
        _, sampling = checked_sampling(remaining, tf.zeros_like(remaining), temperature, top_k, top_p, seed)
        state = from_wire(state)
        with tf.control_dependencies([some_are_left(token_ids), *fits(remaining, model.room_left(state))]):
            last = tf.maximum(token_ids[:, -1], 0)[:, None]  # one column, which the graph knows of no `[:, -1:]`
        step = functools.partial(with_one_row_apart, model.next_logits) if model.one_row_apart else model.next_logits
        logits, new_state = step(last, state)
        return write(logits, new_state, token_ids, prompt_length, remaining, sampling)

    ids = tf.TensorSpec([None, None], tf.int32)
    arguments = {"token_ids": ids, "prompt_length": INTEGERS, "remaining": INTEGERS, **specs}
    return {"prefill": prefill, "decode_step": with_arguments(decode_step, arguments)}


def streaming_pair_requests(first):
    """As `streaming_requests`."""
    options = {"temperature": [0.0, 0.9], "top_k": [0, 7], "seed": [0, 5]}
    asked = {"text": ["the cat sat .", "a"], "max_new_tokens": [3, 2], **options}
    return [("prefill", asked), ("decode_step", options, first), ("decode_step", options, first + 1)]
