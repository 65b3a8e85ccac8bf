"""Text in, text out, in one graph: the signatures of a served language model.

Every text is the beginning of a document, so the model reads `eos_id` before it, and an empty prompt is a prompt like any
other.

Shape letters: B batch, P prompt length (its frame included), T tokens of the longest text.
"""

import numpy as np
import tensorflow as tf

from zoo.beams import RULES, beam_search
from zoo.config import Refusal
from zoo.data.examples import Frame
from zoo.decoding import Sampling, generate
from zoo.signatures import given
from zoo.signatures.drafting import require_draft, with_draft
from zoo.signatures.request import refusal_unless, score_of, signature, with_one_row_apart
from zoo.signatures.rows import framed_ids, left_padded_rows

# What a request writes that does not say how much.
DEFAULT_NEW_TOKENS = 64
# Tokens of a text, and new ones, where the model itself sets no limit: one request must not take a server's memory, or its day.
LONGEST = 16_384
# A beam is a row of the model: each costs a state and a pass.
MOST_BEAMS = 64
# Lengths in tokens of the texts that an export is proved and warmed up with, as far as the model takes them.
LENGTH_BUCKETS = (16, 128, 1_024)

STRINGS, INTEGERS, FLOATS, SEEDS = (tf.TensorSpec([None], t) for t in (tf.string, tf.int32, tf.float32, tf.int64))
# Each option of a request: its type, its default, the values that it takes, and what a wrong one is told.
OPTIONS = {
    "max_new_tokens": (INTEGERS, DEFAULT_NEW_TOKENS, lambda n: n >= 0, "is a number of tokens, 0 or more"),
    "temperature": (FLOATS, 0.0, lambda t: (t >= 0) & tf.math.is_finite(t), "is 0 (greedy) or a positive number"),
    "top_k": (INTEGERS, 0, lambda k: k >= 0, "is 0 (off) or how many of the likeliest tokens to sample among"),
    "top_p": (FLOATS, 1.0, lambda p: (p >= 0) & (p <= 1), "is a probability, 1 (off) at most"),
    "seed": (SEEDS, 0, None, ""),
    "min_p": (FLOATS, 0.0, lambda p: (p >= 0) & (p <= 1), "is 0 (off) or a share of the largest probability, 1 at most"),
    "repetition_penalty": (FLOATS, 1.0, lambda p: (p > 0) & tf.math.is_finite(p), "is 1 (off) or a positive number"),
    "no_repeat_ngram": (INTEGERS, 0, lambda n: n >= 0, "is 0 (off) or the length of the n-grams that may not come twice"),
    "num_beams": (INTEGERS, 4, lambda k: (k >= 1) & (k <= MOST_BEAMS), f"is 1 to {MOST_BEAMS}"),
    "length_penalty": (FLOATS, 0.6, lambda a: (a >= 0) & (a <= 100), "is 0 (off) to 100"),
    "beam_rule": (
        STRINGS,
        "wu",
        lambda rule: tf.reduce_any(rule[:, None] == tf.constant(RULES), 1),
        f"is {', '.join(RULES[:-1])} or {RULES[-1]}",
    ),
    "coverage_penalty": (FLOATS, 0.0, lambda b: (b >= 0) & (b <= 100), "is 0 (off) to 100"),
    "min_new_tokens": (INTEGERS, 0, lambda n: n >= 0, "is 0 (off) or how many tokens a text has at least"),
    "target_prefix": (STRINGS, "", None, ""),
}
GENERATION = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
BEAM_SEARCH = ("max_new_tokens", "num_beams", "length_penalty", "beam_rule")


def default(option):
    """What a request gets that does not give an option: an array of one row, which stands for all rows."""
    spec, value, _, _ = OPTIONS[option]
    return np.array([value], spec.dtype.as_numpy_dtype)


def language_model_signatures(model, tokenizer, frame, draft=None):
    """The functions that an exported language model answers requests with.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `Tokenizer`.
        frame: what stands around a text, the task's `Frame`.
        draft: as for `generation`.

    Returns:
        Name -> `tf.function` with a fixed input signature and a dict of named tensors as its result. B may differ from call to
        call and may be 0. Each row's answer is the same whatever rows stand beside it. An argument with a default, an array of
        one row, may be left out of a request; each option has one value a row, or one for all.

        - `serving_default`: `prompt` string (B,) -> `text` string (B,), the prompt and its greedy continuation.
        - `generate`: `prompt`; `max_new_tokens` int32 (B,), cut to what the model's `max_length` leaves; `temperature` float32
          (B,), 0 is greedy; `top_k` int32 (B,), 0 is off; `top_p` float32 (B,), 1 is off; `seed` int64 (B,) -> `text`, and
          `log_prob` float32 (B,), natural, of the continuation under the model's own distribution, its end included.
        - `beam_search`: `prompt`; `max_new_tokens`; `num_beams` int32 (B,); `length_penalty` float32 (B,); `beam_rule` string
          (B,), one of `zoo.beams.RULES` -> the best continuations that a beam finds, best first: `text` string (B, K),
          `log_prob` float32 (B, K), and `score` float32 (B, K), what they are ordered by (`zoo.beams.beam_search`). K is the
          largest `num_beams`; a row with fewer continuations ends in empty texts of log-probability -inf.
        - `score`: `text` string (B,) -> `log_prob` float32 (B,), natural, of the text as the beginning of a document (that it
          ends there is not scored); `num_tokens` int32 (B,); `bits_per_byte` float32 (B,), 0 for an empty text.

    A text that is longer than `longest_text(model)`, or an option out of its range, is an InvalidArgumentError that says what
    would be right.
    """
    generate_ = generation(model, tokenizer, frame, draft=draft)

    @signature(STRINGS, *(OPTIONS[name][0] for name in BEAM_SEARCH))
    def beam_search_(
        prompt,
        max_new_tokens=default("max_new_tokens"),
        num_beams=default("num_beams"),
        length_penalty=default("length_penalty"),
        beam_rule=default("beam_rule"),
    ):
        options = checked_options(
            prompt, max_new_tokens=max_new_tokens, num_beams=num_beams, length_penalty=length_penalty, beam_rule=beam_rule
        )
        rule = options.pop("beam_rule")
        prompt_ids, padding_mask, lengths = left_padded(model, tokenizer, prompt, frame)
        options["max_new_tokens"] = as_many_as_fit(model, options["max_new_tokens"], lengths)
        state = _state_for(model, prompt_ids, options["max_new_tokens"])
        best = beam_search(
            model.next_logits, state, prompt_ids, padding_mask, rule=rule, num_best=None,
            stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id, **options,
        )  # fmt: skip
        batch, count, width = tf.unstack(tf.shape(best.token_ids))
        rows = [tf.repeat(given, count, axis=0) for given in (prompt, prompt_ids, padding_mask)]
        text = _continued(tokenizer, *rows, tf.reshape(best.token_ids, (batch * count, width)), tf.reshape(best.lengths, [-1]))
        found = best.scores > -float("inf")
        log_prob = tf.where(found, best.log_probs, -float("inf"))
        return {"text": tf.where(found, tf.reshape(text, (batch, count)), ""), "log_prob": log_prob, "score": best.scores}

    @signature(STRINGS)
    def serving_default(prompt):
        return {"text": generate_(prompt, *(tf.constant(default(name)) for name in GENERATION))["text"]}

    @signature(STRINGS)
    def score(text):
        return score_of(text, *_score(model, tokenizer, frame, text))

    return {"serving_default": serving_default, "generate": generate_, "beam_search": beam_search_, "score": score}


def generation(model, tokenizer, frame, stop_ids=(), draft=None, **fixed):
    """The signature `generate` of a language model, with a fixed end or fixed options if asked for.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `Tokenizer`.
        frame: what stands around a text, the task's `Frame`.
        stop_ids: ids that end a row, besides those of the tokenizer.
        draft: a `Draft` (`zoo/signatures/drafting.py`), or None: rows that are asked alone are then decoded with one.
        **fixed: `min_p`, `repetition_penalty`, `no_repeat_ngram` of `zoo.decoding.Sampling`, as Python numbers. A request
            cannot choose them: as inputs they would cost every request further operations at each token.

    Returns:
        A `tf.function`: see `language_model_signatures`.

    Raises:
        Refusal: the model cannot decode with a draft; or a draft is to go with a penalty, which looks at each token in turn.
    """
    require_draft(model, draft)
    if draft is not None and (unfit := sorted(fixed.keys() - {"min_p"})):
        raise Refusal(
            f"{unfit[0]} changes what may follow after each token, which a draft cannot wait for; leave one of them out."
        )
    stop_ids = (*tokenizer.stop_ids, *stop_ids)

    @signature(STRINGS, *(OPTIONS[name][0] for name in GENERATION))
    def generate_(
        prompt, max_new_tokens=default("max_new_tokens"), temperature=default("temperature"), top_k=default("top_k"),
        top_p=default("top_p"), seed=default("seed"),
    ):  # fmt: skip
        max_new_tokens, sampling = checked_sampling(prompt, max_new_tokens, temperature, top_k, top_p, seed)
        prompt_ids, padding_mask, lengths = left_padded(model, tokenizer, prompt, frame)
        max_new_tokens = as_many_as_fit(model, max_new_tokens, lengths)
        enter = with_one_row_apart if model.one_row_apart else None
        if draft is not None:
            enter = with_draft(model, draft, tf.shape(prompt_ids)[1], stop_ids)
        decoded = generate(
            model.next_logits, _state_for(model, prompt_ids, max_new_tokens), prompt_ids, padding_mask,
            max_new_tokens=max_new_tokens, sampling=sampling._replace(**fixed), stop_ids=stop_ids, pad_id=tokenizer.pad_id,
            enter=enter,
        )  # fmt: skip
        text = _continued(tokenizer, prompt, prompt_ids, padding_mask, decoded.token_ids, decoded.lengths)
        return {"text": text, "log_prob": decoded.log_probs}

    return generate_


def language_model_requests(model, tokenizer):
    """Requests that exercise the four signatures at every length: a list of (signature, inputs as lists)."""
    longest = longest_text(model)
    texts = ["", "T", "The", "The end of 1984, naïvely: 東京"]
    texts = [text for text in texts if longest is None or len(tokenizer.encode(text)) < longest]
    rows = len(texts)
    options = {
        "max_new_tokens": [5 + row for row in range(rows)],
        "temperature": [0.0, 1.0, 0.7, 1.3][:rows],
        "top_k": [0, 0, 5, 0][:rows],
        "top_p": [1.0, 0.9, 1.0, 1.0][:rows],
        "seed": list(range(rows)),
    }
    requests = [
        ("serving_default", {"prompt": texts[:3:2]}),
        ("generate", {"prompt": texts, **options}),
        ("beam_search", {"prompt": texts, "max_new_tokens": options["max_new_tokens"], "num_beams": [1, 3, 2, 3][:rows]}),
        ("score", {"text": texts}),
    ]
    for text in long_texts(model, tokenizer):
        requests += [("generate", {"prompt": [text], "max_new_tokens": [4]}), ("score", {"text": [text]})]
    return requests


def long_texts(model, tokenizer, longest=None):
    """A text for each of `LENGTH_BUCKETS` that the model takes, `longest` tokens at most: of so many tokens or a few less, with
    room for a few new ones."""
    longest = longest_text(model) if longest is None else longest
    texts = []
    for length in LENGTH_BUCKETS:
        length = length if longest is None else min(length, longest)
        words = []
        while len(tokenizer.encode(" ".join([*words, "list"]))) < length - 4:
            words.append(("The", "list", "of", "words")[len(words) % 4])
        texts.append(" ".join(words))
    return [text for text in dict.fromkeys(texts) if text]


def longest_text(model):
    """Tokens that one text may have, with the one that begins it; None where a model needs little memory for a long one."""
    if model.max_length is not None:
        return model.max_length
    return None if model.forgets_at_eos else LONGEST


def in_range(**values):
    """The options as Python's numbers, by name. Raises Refusal, in the words of the signatures, for the first one that is out
    of its range."""
    numbers = {}
    for name, value in values.items():
        spec, _, is_right, wanted = OPTIONS[name]
        value = numbers[name] = given.number(name, value, spec.dtype)
        if is_right is not None and not is_right(value):
            raise Refusal(f"{name} {wanted}; got {value}.")
    return numbers


def checked_options(prompt, **values):
    """The options of a request as (B,) tensors by name, once all are known to be in range."""
    batch, checks = tf.size(prompt), []
    for name, value in values.items():
        _, _, is_right, wanted = OPTIONS[name]
        size = tf.size(value)
        several = f"{name} takes one value for all prompts or one each: {{}} values for {{}} prompts."
        checks.append(refusal_unless((size == 1) | (size == batch), several, size, batch))
        if is_right is not None:
            checks.append(refusal_unless(tf.reduce_all(is_right(value)), f"{name} {wanted}; got {{}}.", value))
    with tf.control_dependencies(checks):
        return {name: tf.broadcast_to(value, [batch]) for name, value in values.items()}


def checked_sampling(prompt, max_new_tokens, temperature, top_k, top_p, seed):
    """`max_new_tokens` int32 (B,), and a `Sampling` of (B,) tensors, once all values are known to be in range."""
    options = checked_options(
        prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    return options.pop("max_new_tokens"), Sampling(**options)


def as_many_as_fit(model, max_new_tokens, lengths):
    """`max_new_tokens` (B,), cut to what the model has positions for after prompts of these lengths (B,)."""
    if model.max_length is not None:
        # The last new token is never read, so it needs no room.
        return tf.minimum(max_new_tokens, model.max_length + 1 - lengths)
    largest = tf.reduce_max(tf.concat([max_new_tokens, [0]], 0))
    sentence = f"max_new_tokens is {{}}; one request writes at most {LONGEST}."
    with tf.control_dependencies([refusal_unless(largest <= LONGEST, sentence, largest)]):
        return tf.identity(max_new_tokens)


def left_padded(model, tokenizer, prompts, frame, padded_length=1):
    """Prompts in their frame as int32 (B, P), padded at the left; their mask, bool (B, P); their lengths, int32 (B,).

    P is the length of the longest, or `padded_length` where that is more.
    """
    ids = tokenizer.tokenize(prompts)
    return left_padded_rows([ids], frame, tokenizer.pad_id, longest_text(model), padded_length)


def texts_of(tokenizer, prompts, prompt_ids, all_ids):
    """string (B,): each prompt, byte for byte, and its continuation; ids are RaggedTensors (B, None), prompts included in
    `all_ids`.

    How a continuation is spelt may depend on what stands before it (a space between words), so both are spelt together. What
    the prompt became on the way through ids (an unknown word) is then replaced by the prompt itself.
    """
    whole, head = tokenizer.detokenize(all_ids), tokenizer.detokenize(prompt_ids)
    head_length, length = tf.strings.length(head), tf.strings.length(whole)
    cut = tf.minimum(head_length, length)
    is_head = tf.strings.substr(whole, tf.zeros_like(cut), cut) == head
    return tf.where(is_head, prompts + tf.strings.substr(whole, cut, length - cut), whole)


def _state_for(model, prompt_ids, max_new_tokens):
    """The state before prompts (B, P), with room for them and the most of `max_new_tokens` (B,)."""
    room = tf.shape(prompt_ids)[1] + tf.reduce_max(tf.concat([max_new_tokens, [0]], 0))
    return model.init_state(tf.shape(prompt_ids)[0], room)


def _continued(tokenizer, prompts, prompt_ids, padding_mask, token_ids, lengths):
    """string (B,): prompts, left-padded ids (B, P) of which `padding_mask` are real, with the first `lengths` (B,) of (B, N)
    more."""
    written = tf.range(tf.shape(token_ids)[1])[None] < lengths[:, None]
    whole = tf.ragged.boolean_mask(tf.concat([prompt_ids, token_ids], 1), tf.concat([padding_mask, written], 1))
    return texts_of(tokenizer, prompts, tf.ragged.boolean_mask(prompt_ids, padding_mask), whole)


def _score(model, tokenizer, frame, texts):
    """float32 (B,) log-probabilities and int32 (B,) numbers of tokens, behind all that stands around an empty prompt."""
    leading = Frame(before=(*frame.before, *frame.after))
    ids = framed_ids(tokenizer.tokenize(texts), leading, longest_text(model))
    first, end = len(leading.before) - 1, tf.cast(ids.row_lengths(), tf.int32) - 1
    num_tokens = end - first
    if model.forgets_at_eos:
        return _score_joined(model, tokenizer, ids), num_tokens
    longest = tf.reduce_max(tf.concat([end, [1]], 0))
    dense = ids.to_tensor(shape=tf.stack([tf.shape(texts)[0], longest + 1]), default_value=tokenizer.pad_id)
    real = tf.range(longest)[None] < end[:, None]
    # An empty row's first input is real all the same: attention needs something to see.
    padding_mask = real | (tf.range(longest) == 0)[None]
    log_probs, _ = model.token_log_probs(dense[:, :-1], dense[:, 1:], padding_mask=padding_mask)
    if first:
        real &= (tf.range(longest) >= first)[None]
    return tf.reduce_sum(tf.where(real, log_probs, 0.0), 1), num_tokens


def _score_joined(model, tokenizer, ids):
    """float32 (B,) log-probabilities of rows that each begin with `eos_id`, past which a model of counts sees nothing.

    So they are scored end to end as one text, without padding. What follows a row's last token is the `eos_id` of the next one,
    and is left out.
    """
    stream = tf.concat([tf.cast(ids.flat_values, tf.int32), [tokenizer.eos_id]], 0)[None]
    log_probs, _ = model.token_log_probs(stream[:, :-1], stream[:, 1:])
    rows = tf.RaggedTensor.from_row_splits(log_probs[0], ids.row_splits, validate=False)[:, :-1]
    return tf.reduce_sum(rows, 1)
