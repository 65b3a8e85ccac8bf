"""Text in, text out, in one graph: the signatures of a served language model.

Every text is the beginning of a document, so the model reads `eos_id` before it, and an empty prompt is a prompt like any other.

Shape letters: B batch, P prompt length (`eos_id` included), T tokens of the longest text.
"""

import math

import tensorflow as tf

from zoo.decoding import Sampling, generate

# What `serving_default`, which has no options, writes at most.
DEFAULT_NEW_TOKENS = 64


def language_model_signatures(model, tokenizer):
    """The functions that an exported language model answers requests with.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `Tokenizer`.

    Returns:
        Name -> `tf.function` with a fixed input signature and a dict of named tensors as its result. B may differ from call to call
        and may be 0. Each row's answer is the same whatever rows stand beside it.

        - `serving_default`: `prompt` string (B,) -> `text` string (B,), the prompt and its greedy continuation.
        - `generate`: `prompt`; `max_new_tokens` int32 (B,), cut to what the model's `max_length` leaves; `temperature` float32 (B,),
          0 is greedy; `top_k` int32 (B,), 0 is off; `top_p` float32 (B,), 1 is off; `seed` int64 (B,) -> `text`, and `log_prob`
          float32 (B,), natural, of the continuation under the model's own distribution, its end included.
        - `score`: `text` string (B,) -> `log_prob` float32 (B,), natural, of the text as the beginning of a document (that it ends
          there is not scored); `num_tokens` int32 (B,); `bits_per_byte` float32 (B,), 0 for an empty text.

    A prompt or text that is longer than the model's `max_length` is an InvalidArgumentError that names both numbers.
    """
    strings, integers, floats, seeds = (tf.TensorSpec([None], t) for t in (tf.string, tf.int32, tf.float32, tf.int64))

    @tf.function(input_signature=[strings, integers, floats, integers, floats, seeds], autograph=False)
    def generate_(prompt, max_new_tokens, temperature, top_k, top_p, seed):
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        prompt_ids, padding_mask, lengths = _left_padded(model, tokenizer, prompt)
        if model.max_length is not None:
            # The last new token is never read, so it needs no room.
            max_new_tokens = tf.minimum(max_new_tokens, model.max_length + 1 - lengths)
        room = tf.shape(prompt_ids)[1] + tf.reduce_max(tf.concat([max_new_tokens, [0]], 0))
        decoded = generate(
            model.next_logits, model.init_state(tf.shape(prompt_ids)[0], room), prompt_ids, padding_mask,
            max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=(tokenizer.eos_id,), pad_id=tokenizer.pad_id,
        )  # fmt: skip
        text = _texts(tokenizer, prompt, prompt_ids, padding_mask, decoded)
        return {"text": text, "log_prob": decoded.log_probs}

    @tf.function(input_signature=[strings], autograph=False)
    def serving_default(prompt):
        rows = tf.shape(prompt)
        zeros = tf.zeros(rows, tf.int32)
        answer = generate_(
            prompt, tf.fill(rows, DEFAULT_NEW_TOKENS), tf.zeros(rows), zeros, tf.ones(rows), tf.cast(zeros, tf.int64)
        )
        return {"text": answer["text"]}

    @tf.function(input_signature=[strings], autograph=False)
    def score(text):
        log_prob, num_tokens = _score(model, tokenizer, text)
        num_bytes = tf.cast(tf.strings.length(text), tf.float32)
        bits_per_byte = tf.math.divide_no_nan(-log_prob / math.log(2), num_bytes)
        return {"log_prob": log_prob, "num_tokens": num_tokens, "bits_per_byte": bits_per_byte}

    return {"serving_default": serving_default, "generate": generate_, "score": score}


def language_model_requests(model, tokenizer):
    """Requests that exercise every signature: a list of (signature, inputs as lists). They fit the model's `max_length`."""
    texts = ["", "T", "The", "The end of 1984, naïvely: 東京"]
    texts = [text for text in texts if model.max_length is None or len(tokenizer.encode(text)) < model.max_length]
    rows = len(texts)
    options = {
        "max_new_tokens": [5 + row for row in range(rows)],
        "temperature": [0.0, 1.0, 0.7, 1.3][:rows],
        "top_k": [0, 0, 5, 0][:rows],
        "top_p": [1.0, 0.9, 1.0, 1.0][:rows],
        "seed": list(range(rows)),
    }
    return [
        ("serving_default", {"prompt": texts[:2]}),
        ("generate", {"prompt": texts, **options}),
        ("score", {"text": texts}),
    ]


def _ids_after_eos(model, tokenizer, texts, kind):
    """int32 RaggedTensor (B, None): each text's ids after `eos_id`, all no longer than the model can take."""
    ids = tokenizer.tokenize(texts)
    ids = tf.concat([tf.fill([tf.shape(texts)[0], 1], tf.constant(tokenizer.eos_id, ids.dtype)), ids], 1)
    if model.max_length is None:
        return ids
    longest = tf.reduce_max(tf.concat([ids.row_lengths(), [0]], 0))
    sentence = f"The longest {kind} has {{}} tokens, with the one that begins it; this model takes at most {model.max_length}."
    too_long = tf.debugging.Assert(longest <= model.max_length, [tf.strings.format(sentence, longest)])
    # Without this the model might fail first, on a position it does not have.
    with tf.control_dependencies([too_long]):
        return ids.with_flat_values(tf.identity(ids.flat_values))


def _left_padded(model, tokenizer, prompts):
    """Prompts as int32 (B, P), `eos_id` first and padded at the left; their mask, bool (B, P); their lengths, int32 (B,)."""
    ids = _ids_after_eos(model, tokenizer, prompts, "prompt")
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    longest = tf.reduce_max(tf.concat([lengths, [1]], 0))
    source = tf.range(longest)[None] - (longest - lengths)[:, None]
    dense = ids.to_tensor(shape=tf.stack([tf.shape(lengths)[0], longest]))
    dense = tf.gather(dense, tf.maximum(source, 0), batch_dims=1)
    return tf.where(source >= 0, dense, tokenizer.pad_id), source >= 0, lengths


def _texts(tokenizer, prompts, prompt_ids, padding_mask, decoded):
    """string (B,): each prompt, byte for byte, and its continuation.

    How a continuation is spelt may depend on what stands before it (a space between words), so both are spelt together. What
    the prompt became on the way through ids (an unknown word) is then replaced by the prompt itself.
    """
    written = tf.range(tf.shape(decoded.token_ids)[1])[None] < decoded.lengths[:, None]
    all_ids = tf.concat([prompt_ids, decoded.token_ids], 1)
    whole = tokenizer.detokenize(tf.ragged.boolean_mask(all_ids, tf.concat([padding_mask, written], 1)))
    head = tokenizer.detokenize(tf.ragged.boolean_mask(prompt_ids, padding_mask))
    head_length, length = tf.strings.length(head), tf.strings.length(whole)
    cut = tf.minimum(head_length, length)
    is_head = tf.strings.substr(whole, tf.zeros_like(cut), cut) == head
    return tf.where(is_head, prompts + tf.strings.substr(whole, cut, length - cut), whole)


def _score(model, tokenizer, texts):
    """float32 (B,) log-probabilities and int32 (B,) numbers of tokens."""
    ids = _ids_after_eos(model, tokenizer, texts, "text")
    num_tokens = tf.cast(ids.row_lengths(), tf.int32) - 1
    longest = tf.reduce_max(tf.concat([num_tokens, [1]], 0))
    dense = ids.to_tensor(shape=tf.stack([tf.shape(texts)[0], longest + 1]), default_value=tokenizer.pad_id)
    real = tf.range(longest)[None] < num_tokens[:, None]
    # An empty row's first input is real all the same: attention needs something to see.
    padding_mask = real | (tf.range(longest) == 0)[None]
    log_probs, _ = model.token_log_probs(dense[:, :-1], dense[:, 1:], padding_mask=padding_mask)
    return tf.reduce_sum(tf.where(real, log_probs, 0.0), 1), num_tokens
