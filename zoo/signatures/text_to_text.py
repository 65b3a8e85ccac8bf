"""Text in, another text out, in one graph: translation and summarisation as a server answers them.

An encoder-decoder reads the source once and writes from its start token; a language model goes on behind the source and the
token that separates source and target. Both then decode through `zoo/decoding.py`.

Shape letters: B batch, K beams, T target tokens, S source tokens.
"""

import tensorflow as tf

from zoo.beams import beam_search
from zoo.data.examples import Frame
from zoo.decoding import Decoded, Sampling, generate
from zoo.layers.coverage import covered, with_coverage
from zoo.signatures.generation import (
    BEAM_SEARCH,
    GENERATION,
    OPTIONS,
    STRINGS,
    as_many_as_fit,
    checked_options,
    checked_sampling,
    default,
    long_texts,
    longest_text,
    texts_of,
)  # fmt: skip
from zoo.signatures.request import same_rows, signature, with_one_row_apart
from zoo.signatures.rows import left_padded_rows, rows_in_graph, within

# What a request may ask besides, of both ways to decode.
BESIDES = ("min_new_tokens", "no_repeat_ngram", "target_prefix")


def text_to_text_signatures(model, tokenizer, frame, limit):
    """The functions that a model answers requests with that turns one text into another.

    Args:
        model: an `EncoderDecoder`, or a `LanguageModel`.
        tokenizer: a `Tokenizer`; its `target` reads and writes targets.
        frame: what stands around a source, the task's `Frame`.
        limit: the most tokens of a source, special ones included; a longer one is refused.

    Returns:
        Name -> `tf.function`.

        - `serving_default`: `text` string (B,) -> `text` string (B,), what greedy decoding writes.
        - `generate`: `text` and the options of sampling -> `text`, and `log_prob` float32 (B,), natural, its end included.
        - `beam_search`: `text`, `max_new_tokens`, `num_beams`, `length_penalty`, `beam_rule` (one of `zoo.beams.RULES`),
          `coverage_penalty` (of a model that aligns) -> `text` string (B, K), `log_prob` and `score` float32 (B, K), best
          first.

          Both also take `min_new_tokens` int32 (B,), `no_repeat_ngram` int32 (B,), and `target_prefix` string (B,): words that
          the answer begins with. They are given, so neither `log_prob` nor the lengths count them.
        - `score`: `text`, `target` string (B,) -> `log_prob` float32 (B,), natural, of the target and its end; `num_tokens`
          int32 (B,).
        - `align`, of an encoder-decoder with attention: `text`, `target` -> `source_tokens` string (B, S), `target_tokens`
          string (B, T), filled up with empty strings, `weights` float32 (B, T, S): how much each token of the target looked at
          each of the source; and `pharaoh` string (B,): `i-j` for each token j of the target, i the one that it looked at most.
    """
    writer = tokenizer.target

    @signature(STRINGS, *(OPTIONS[name][0] for name in (*GENERATION, *BESIDES)))
    def generate_(
        text, max_new_tokens=default("max_new_tokens"), temperature=default("temperature"), top_k=default("top_k"),
        top_p=default("top_p"), seed=default("seed"), min_new_tokens=default("min_new_tokens"),
        no_repeat_ngram=default("no_repeat_ngram"), target_prefix=default("target_prefix"),
    ):  # fmt: skip
        max_new_tokens, sampling = checked_sampling(text, max_new_tokens, temperature, top_k, top_p, seed)
        besides = _besides(text, min_new_tokens, no_repeat_ngram, target_prefix)
        prefix = besides.pop("target_prefix")
        begun, prefix_ids = source_of(model, tokenizer, frame, limit, text), writer.tokenize(prefix)
        decoded = decode(model, writer, frame, begun, max_new_tokens, sampling._replace(**besides), prefix_ids)
        texts = written(writer, decoded.token_ids, decoded.lengths, prefix, prefix_ids)
        return {"text": texts, "log_prob": decoded.log_probs}

    @signature(STRINGS)
    def serving_default(text):
        return {"text": generate_(text, *(tf.constant(default(name)) for name in (*GENERATION, *BESIDES)))["text"]}

    @signature(STRINGS, STRINGS)
    def score(text, target):
        batch = _pairs(model, tokenizer, frame, limit, *same_rows(text=text, target=target))
        inputs = model.taken(batch)
        log_probs, _ = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)
        real = batch["loss_weights"] > 0
        return {
            "log_prob": tf.reduce_sum(tf.where(real, log_probs, 0.0), 1),
            "num_tokens": tf.reduce_sum(tf.cast(real, tf.int32), 1) - 1,
        }

    search = _beam_search(model, tokenizer, frame, limit)
    signatures = {"serving_default": serving_default, "generate": generate_, "beam_search": search, "score": score}
    if model.aligns:
        signatures["align"] = _alignment(model, tokenizer, frame, limit)
    return signatures


def _besides(text, min_new_tokens, no_repeat_ngram, target_prefix, **options):
    """The options `BESIDES`, and others, as (B,) tensors by name, once all are known to be in range."""
    return checked_options(
        text, min_new_tokens=min_new_tokens, no_repeat_ngram=no_repeat_ngram, target_prefix=target_prefix, **options
    )


def _beam_search(model, tokenizer, frame, limit):
    """The signature `beam_search`; see `text_to_text_signatures`."""
    writer = tokenizer.target

    def search(text, max_new_tokens, num_beams, length_penalty, beam_rule, coverage_penalty, *besides):
        penalties = dict(length_penalty=length_penalty, beam_rule=beam_rule)
        if model.aligns:
            penalties["coverage_penalty"] = coverage_penalty
        options = _besides(text, *besides, max_new_tokens=max_new_tokens, num_beams=num_beams, **penalties)
        prefix, rule = options.pop("target_prefix"), options.pop("beam_rule")
        begun, prefix_ids = source_of(model, tokenizer, frame, limit, text), writer.tokenize(prefix)
        options["max_new_tokens"] = as_many_as_fit_behind(model, options["max_new_tokens"], begun, prefix_ids)
        state, ids, mask = begin(model, writer, frame, begun, options["max_new_tokens"], prefix_ids)
        best = beam_search(
            model.next_logits, with_coverage(state) if model.aligns else state, ids, mask, rule=rule,
            num_best=None, covered=covered if model.aligns else None, stop_ids=(writer.eos_id,), pad_id=writer.pad_id, **options
        )  # fmt: skip
        shape = tf.shape(best.lengths)
        flat = tf.reshape(best.token_ids, [-1, tf.shape(best.token_ids)[-1]])
        rows = tf.repeat(tf.range(shape[0]), shape[1])
        heads = tf.gather(prefix, rows), tf.gather(prefix_ids, rows)
        texts = tf.reshape(written(writer, flat, tf.reshape(best.lengths, [-1]), *heads), shape)
        there = best.scores > float("-inf")
        log_prob = tf.where(there, best.log_probs, float("-inf"))
        return {"text": tf.where(there, texts, ""), "log_prob": log_prob, "score": best.scores}

    if not model.aligns:

        @signature(STRINGS, *(OPTIONS[name][0] for name in (*BEAM_SEARCH, *BESIDES)))
        def without_coverage(
            text, max_new_tokens=default("max_new_tokens"), num_beams=default("num_beams"),
            length_penalty=default("length_penalty"), beam_rule=default("beam_rule"),
            min_new_tokens=default("min_new_tokens"), no_repeat_ngram=default("no_repeat_ngram"),
            target_prefix=default("target_prefix"),
        ):  # fmt: skip
            besides = min_new_tokens, no_repeat_ngram, target_prefix
            return search(text, max_new_tokens, num_beams, length_penalty, beam_rule, None, *besides)

        return without_coverage

    @signature(STRINGS, *(OPTIONS[name][0] for name in (*BEAM_SEARCH, "coverage_penalty", *BESIDES)))
    def beam_search_(
        text, max_new_tokens=default("max_new_tokens"), num_beams=default("num_beams"),
        length_penalty=default("length_penalty"), beam_rule=default("beam_rule"), coverage_penalty=default("coverage_penalty"),
        min_new_tokens=default("min_new_tokens"), no_repeat_ngram=default("no_repeat_ngram"),
        target_prefix=default("target_prefix"),
    ):  # fmt: skip
        besides = min_new_tokens, no_repeat_ngram, target_prefix
        return search(text, max_new_tokens, num_beams, length_penalty, beam_rule, coverage_penalty, *besides)

    return beam_search_


def _alignment(model, tokenizer, frame, limit):
    """The signature `align`; see `text_to_text_signatures`."""

    @signature(STRINGS, STRINGS)
    def align(text, target):
        text, target = same_rows(text=text, target=target)
        batch = _pairs(model, tokenizer, frame, limit, text, target)
        source, targets = tokenizer.tokenize(text), tokenizer.target.tokenize(target)
        weights = model.alignment(batch)[:, :, len(frame.before) :]
        shape = tf.shape(weights)
        source_tokens, target_tokens = _spelt(tokenizer, source), _spelt(tokenizer.target, targets)
        longest = [tf.shape(target_tokens)[1], tf.shape(source_tokens)[1]]
        weights = weights[:, : longest[0], : longest[1]]
        there = tf.sequence_mask(source.row_lengths(), tf.minimum(longest[1], shape[2]))[:, None]
        there &= tf.sequence_mask(targets.row_lengths(), tf.minimum(longest[0], shape[1]))[:, :, None]
        weights = tf.where(there, weights, 0.0)
        pharaoh = _pharaoh(weights, source.row_lengths(), targets.row_lengths())
        return {"source_tokens": source_tokens, "target_tokens": target_tokens, "weights": weights, "pharaoh": pharaoh}

    return align


def _pharaoh(weights_BTS, source_lengths, target_lengths):
    """string (B,): `i-j` for each token j of a target, i the token of the source at which it looked most, the first of several;
    nothing where a source has no tokens."""
    most = tf.argmax(tf.pad(weights_BTS, [[0, 0], [0, 0], [0, 1]]), 2, output_type=tf.int32)
    length = tf.shape(most)[1]
    numbers = tf.broadcast_to(tf.range(length)[None], tf.shape(most))
    pairs = tf.strings.join([tf.strings.as_string(most), tf.strings.as_string(numbers)], "-")
    there = tf.sequence_mask(target_lengths, length) & (source_lengths > 0)[:, None]
    return tf.strings.reduce_join(tf.ragged.boolean_mask(pairs, there), axis=-1, separator=" ")


def text_to_text_requests(model, tokenizer, limit):
    """Requests that exercise every signature, at every length of a source up to `limit`: (signature, inputs as lists)."""
    texts = ["the cat sat .", "a", ""]
    targets = ["le chat .", "", "un"]
    requests = [
        ("serving_default", {"text": texts}),
        ("generate", {"text": texts, "max_new_tokens": [5, 3, 2], "temperature": [0.0, 0.8, 1.0], "seed": [0, 1, 2]}),
        ("beam_search", {"text": texts, "max_new_tokens": [5, 3, 2], "num_beams": [1, 3, 2]}),
        (
            "generate",
            {"text": texts, "max_new_tokens": [6], "target_prefix": ["le", "", "un chat"], "no_repeat_ngram": [0, 2, 1]},
        ),
        (
            "beam_search",
            {
                "text": texts,
                "max_new_tokens": [6],
                "target_prefix": ["le", "", "un"],
                "min_new_tokens": [2, 0, 3],
                "beam_rule": ["wu", "transformers", "ctranslate2"],
            },
        ),
        ("score", {"text": texts, "target": targets}),
    ]
    requests += [("align", {"text": texts, "target": targets})] if model.aligns else []
    long = long_texts(model, tokenizer, limit)
    return requests + [("generate", {"text": [text], "max_new_tokens": [4]}) for text in long]


def source_of(model, tokenizer, frame, limit, texts):
    """What a model reads of sources, string (B,), in their frame: a batch of `source_ids` and `source_mask`, or of `token_ids`,
    left-padded, and `padding_mask`."""
    ids = tokenizer.tokenize(texts)
    if model.kind == "encoder_decoder":
        rows = rows_in_graph([ids], frame, tokenizer.pad_id, limit, "refuse")
        return {"source_ids": rows["token_ids"], "source_mask": rows["padding_mask"]}
    token_ids, padding_mask, _ = left_padded_rows([ids], frame, tokenizer.pad_id, limit, what="text")
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def begin(model, tokenizer, frame, source, max_new_tokens, prefix=None):
    """`(state, token_ids, padding_mask)` with which decoding begins.

    Args:
        model: the model.
        tokenizer: whatever has `pad_id`.
        frame: the task's `Frame`.
        source: as `source_of` gives it.
        max_new_tokens: int32 (B,).
        prefix: RaggedTensor (B, None) of the ids that the target begins with, or None.
    """
    room = tf.reduce_max(tf.concat([max_new_tokens, [0]], 0))
    if model.kind != "encoder_decoder":
        ids, mask = source["token_ids"], source["padding_mask"]
        if prefix is not None:
            ids = tf.concat([tf.ragged.boolean_mask(ids, mask), tf.cast(prefix, tf.int32)], 1)
            ids, mask, _ = left_padded_rows([ids], Frame(), tokenizer.pad_id, longest_text(model))
        return model.init_state(tf.shape(ids)[0], tf.shape(ids)[1] + room), ids, mask
    count = tf.shape(source["source_ids"])[0]
    start, mask = tf.tile(tf.constant([frame.target_start], tf.int32), [count, 1]), None
    if prefix is not None:
        before = Frame(before=frame.target_start)
        start, mask, _ = left_padded_rows([prefix], before, tokenizer.pad_id, longest_text(model), what="target_prefix")
    memory = model.encode(source["source_ids"], source["source_mask"])
    return model.init_state(count, tf.shape(start)[1] + room, memory), start, mask


def decode(model, tokenizer, frame, source, max_new_tokens, sampling=Sampling(), prefix=None, num_beams=1):
    """The `Decoded` continuation of sources, as `source_of` gives them.

    Args:
        tokenizer: whatever has `eos_id` and `pad_id`.
        max_new_tokens: int32 (B,), cut to what the model has positions for.
        sampling: a `Sampling`; greedy by default.
        prefix: as for `begin`.
        num_beams: K, an int. Above 1 it is the best that a beam of K finds, by mean log-probability of a token, and no
            `sampling` counts.
    """
    max_new_tokens = as_many_as_fit_behind(model, max_new_tokens, source, prefix)
    state, ids, mask = begin(model, tokenizer, frame, source, max_new_tokens, prefix)
    if num_beams > 1:
        best = beam_search(
            model.next_logits, state, ids, mask, max_new_tokens=max_new_tokens, num_beams=num_beams, length_penalty=1.0,
            rule="ctranslate2", stop_ids=(tokenizer.eos_id,), pad_id=tokenizer.pad_id,
        )  # fmt: skip
        return Decoded(best.token_ids[:, 0], best.lengths[:, 0], best.log_probs[:, 0])
    return generate(
        model.next_logits, state, ids, mask, max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=(tokenizer.eos_id,),
        pad_id=tokenizer.pad_id, enter=with_one_row_apart if model.one_row_apart else None,
    )  # fmt: skip


def written(tokenizer, token_ids, lengths, prefix=None, prefix_ids=None):
    """string (B,): the first `lengths` (B,) of ids (B, N), without what ends them, and without ids that the vocabulary has not:
    a table may have rows for sentinels, or for a round number. A `prefix`, string (B,), of `prefix_ids` stands in front."""
    real = tf.sequence_mask(lengths, tf.shape(token_ids)[1]) & (token_ids != tokenizer.eos_id)
    real &= token_ids < tokenizer.vocab_size
    ids = tf.ragged.boolean_mask(token_ids, real)
    if prefix is None:
        return tokenizer.detokenize(ids)
    prefix_ids = tf.cast(prefix_ids, tf.int32)
    return texts_of(tokenizer, prefix, prefix_ids, tf.concat([prefix_ids, ids], 1))


def as_many_as_fit_behind(model, max_new_tokens, source, prefix=None):
    """`max_new_tokens` (B,), cut to what the model has positions for."""
    if model.max_length is None:
        return as_many_as_fit(model, max_new_tokens, None)
    taken = 0 if prefix is None else tf.cast(prefix.row_lengths(), tf.int32)
    if model.kind == "encoder_decoder":
        return tf.minimum(max_new_tokens, model.max_length - taken)
    lengths = tf.reduce_sum(tf.cast(source["padding_mask"], tf.int32), 1)
    return tf.minimum(max_new_tokens, model.max_length + 1 - lengths - taken)


def _pairs(model, tokenizer, frame, limit, texts, targets):
    """A batch of pairs with their labels, as `zoo/data/parallel.py` makes it."""
    target = tokenizer.target
    end = tf.fill([tf.shape(texts)[0], 1], target.eos_id)
    labels = tf.concat([tf.cast(target.tokenize(targets), tf.int32), end], 1)
    if model.kind == "encoder_decoder":
        source = source_of(model, tokenizer, frame, limit, texts)
        start = tf.tile(tf.constant([frame.target_start], tf.int32), [tf.shape(texts)[0], 1])
        inputs = tf.concat([start, labels[:, :-1]], 1)
        width = tf.cast(tf.reduce_max(tf.concat([labels.row_lengths(), [1]], 0)), tf.int32)
        width = within(width, longest_text(model), "target")
        shape = tf.stack([labels.nrows(tf.int32), width])
        return {
            **source,
            "token_ids": inputs.to_tensor(target.pad_id, shape=shape),
            "labels": labels.to_tensor(target.pad_id, shape=shape),
            "loss_weights": tf.cast(tf.sequence_mask(labels.row_lengths(), width), tf.float32),
        }
    rows = rows_in_graph([tokenizer.tokenize(texts)], frame, tokenizer.pad_id, limit, "refuse")
    source = tf.ragged.boolean_mask(rows["token_ids"], rows["padding_mask"])
    whole = tf.concat([source, labels], 1)
    width = tf.cast(tf.reduce_max(tf.concat([whole.row_lengths(), [2]], 0)), tf.int32) - 1
    width = within(width, longest_text(model), "text with its target")
    dense = whole.to_tensor(tokenizer.pad_id, shape=tf.stack([whole.nrows(tf.int32), width + 1]))
    columns, ends = tf.range(width)[None], tf.cast(whole.row_lengths(), tf.int32)[:, None] - 1
    return {
        "token_ids": dense[:, :-1],
        "padding_mask": columns < ends,
        "labels": dense[:, 1:],
        "loss_weights": tf.cast(
            (columns >= tf.cast(source.row_lengths(), tf.int32)[:, None] - 1) & (columns < ends), tf.float32
        ),
    }


def _spelt(tokenizer, ids):
    """string (B, N): how each id is written on its own, filled up with empty strings."""
    alone = tf.RaggedTensor.from_uniform_row_length(ids.flat_values, 1)
    return ids.with_flat_values(tf.strings.strip(tokenizer.detokenize(alone))).to_tensor("")
