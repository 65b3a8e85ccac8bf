"""How likely words are in a context, for every model that gives tokens probabilities: what few-shot classification compares.

    log_probs(model, tokenizer, task, [("Topic: ", "sport", ".")])   ->   float64 (1,)

By kind of model:

- a language model: log p(word | beginning of a document, what stands before it); what stands behind the word is not read
- an encoder-decoder: log p(word | source), the source being what stands before it
- a model of blank infilling: log p(word, end of the blank | what stands around the blank), as Du et al. 2022 classify
- a masked language model: sum over the word's tokens of log p(token | all around the word, the word's tokens before it), the
  word's later tokens hidden too, so that a word of several tokens cannot give itself away (Kauf and Ivanova 2023)

Shape letters: B batch, T positions, V vocabulary.
"""

import functools

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.data.examples import padded
from zoo.data.patterns import encoded, parted
from zoo.signatures.fill_mask import token_logits


def log_probs(model, tokenizer, task, requests, batch_size=16):
    """The natural log-probability of each word where it stands.

    Args:
        model, tokenizer, task: those of a bundle.
        requests: list of (before, word, behind), strings. A context that is too long for the model loses its beginning.
        batch_size: rows at a time.

    Returns:
        float64 (N,).

    Raises:
        Refusal: a model that gives no probabilities to words, an empty word, or one too long for the model.
    """
    name, kind = task.registered_name, model.kind
    if kind == "encoder" and name == "masked_lm":
        make, score = _masked_rows, _masked_scores
    elif kind == "encoder_decoder":
        make, score = _target_rows, _next_scores
    elif name == "blank_infilling":
        make, score = functools.partial(_blank_rows, task.spelling(tokenizer).ids), _blank_scores
    elif name == "language_modeling":
        return _continued(model, tokenizer, task.frame(kind, tokenizer), requests, batch_size)
    else:
        raise Refusal(f"A {model.registered_name} for {name} gives words no probabilities in a context; take a language model.")
    frame, rows, owners = task.frame(kind, tokenizer), [], []
    for number, (before, word, behind) in enumerate(requests):
        made = make(model, tokenizer, frame, *parted(before, word), behind)
        rows += made
        owners += [number] * len(made)
    scorer = tf.function(lambda batch: score(model, batch), reduce_retracing=True, autograph=False)
    totals = np.zeros(len(requests))
    order = sorted(range(len(rows)), key=lambda i: [len(values) for values in rows[i].values()])
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores = np.asarray(scorer(_batch([rows[i] for i in chosen], tokenizer)), np.float64)
        np.add.at(totals, [owners[i] for i in chosen], scores)
    return totals


def _batch(rows, tokenizer):
    """Rows as a batch, each filled up at its right."""
    batch, pad_ids = {}, {"token_ids": tokenizer.target.pad_id, "source_ids": tokenizer.pad_id}
    for name in rows[0]:
        values = [np.array(row[name], np.float32 if name == "loss_weights" else np.int32) for row in rows]
        width = max(map(len, values))
        batch[name] = padded(values, width, pad_ids.get(name, 0))
        if name in pad_ids:
            mask = np.arange(width) < np.array([len(one) for one in values])[:, None]
            batch["padding_mask" if name == "token_ids" else "source_mask"] = mask
    return {name: tf.constant(values) for name, values in batch.items()}


def _fitting(model, begun, others, what):
    """The end of a context that there is room for beside some other tokens."""
    if model.max_length is None:
        return begun
    room = model.max_length - others
    if room < 0:
        raise Refusal(f"{what!r} has more tokens than this model takes, which is {model.max_length}.")
    return begun[max(len(begun) - room, 0) :]


def _continued(model, tokenizer, frame, requests, batch_size):
    """The log-probabilities of a language model. Nothing is read twice: what all requests begin with goes into a state once,
    which is then repeated; and a row answers every request whose tokens it begins with."""
    rows = []
    for before, word, _ in requests:
        context, word = parted(before, word)
        begun, ids = encoded(tokenizer, context, word)
        around = [*frame.before, *frame.after]
        begun = [*frame.before, *_fitting(model, begun, len(around) + len(ids) - 1, word), *frame.after]
        if not begun:
            raise Refusal("There is nothing before the word, and this model reads no mark at the beginning of a text.")
        rows.append((begun, ids))
    if not rows:
        return np.zeros(0)
    shared = _shared(rows)
    carriers = sorted(_carriers(rows), key=lambda carrier: len(carrier[0]))
    room = len(carriers[-1][0])
    read = tf.function(lambda ids, state: model.features(ids, state)[1], reduce_retracing=True, autograph=False)
    state = model.init_state(1, room)
    if shared:
        state = read(tf.constant([rows[0][0][:shared]], tf.int32), state)

    def scored(state, ids_BT, mask_BT, width, places_N3):
        count = tf.shape(ids_BT)[0]
        repeated = {name: tf.repeat(value, count, 0) if len(value.shape) else value for name, value in state.items()}
        features, _ = model.features(ids_BT, repeated, padding_mask=mask_BT)
        log_probs = tf.nn.log_softmax(model.limited(model.project(features[:, -width:])))
        return tf.gather_nd(log_probs, places_N3)

    score, totals = tf.function(scored, reduce_retracing=True, autograph=False), np.zeros(len(rows))
    for start in range(0, len(carriers), batch_size):
        some = carriers[start : start + batch_size]
        longest = len(some[-1][0]) - shared
        width = max(len(ids) - place for ids, asked in some for _, place, _ in asked)
        token_ids = np.full((len(some), longest), tokenizer.pad_id, np.int32)
        owners, places = [], []
        for row, (ids, asked) in enumerate(some):
            token_ids[row, longest - len(ids) + shared :] = ids[shared:]
            owners += [owner for owner, _, _ in asked]
            places += [(row, place - len(ids) + width, label) for _, place, label in asked]
        lengths = np.array([len(ids) for ids, _ in some]) - shared
        mask = np.arange(longest) >= longest - lengths[:, None]
        arguments = token_ids, mask, np.int32(width), np.array(places, np.int32)
        np.add.at(totals, owners, np.asarray(score(state, *map(tf.constant, arguments)), np.float64))
    return totals


def _shared(rows):
    """How many tokens all rows, pairs of (context, word), begin with; the last of a context, behind which is scored, is not one
    of them."""
    first, count = rows[0][0], min(len(begun) for begun, _ in rows) - 1
    for begun, _ in rows:
        while begun[:count] != first[:count]:
            count = next(i for i in range(count) if begun[i] != first[i])
    return count


def _carriers(rows):
    """What must be read for some pairs of (context, word): a list of (ids, what is asked of them), and of that each (number of
    the pair, place, the label that follows there). Ids that others begin with have no row of their own."""
    whole = [[*begun, *ids[:-1]] for begun, ids in rows]
    carriers = []
    for number in sorted(range(len(rows)), key=whole.__getitem__, reverse=True):
        ids, (begun, labels) = whole[number], rows[number]
        if not carriers or carriers[-1][0][: len(ids)] != ids:
            carriers.append((ids, []))
        carriers[-1][1].extend((number, len(begun) - 1 + i, label) for i, label in enumerate(labels))
    return carriers


def _target_rows(model, tokenizer, frame, context, word, behind):
    source = _fitting(model, list(tokenizer.encode(context)), frame.num_special(), word)
    ids = list(tokenizer.target.encode(word.lstrip(" ")))
    if not ids:
        raise Refusal(f"{word!r} has no token; give each label a word.")
    return [{**_scored(list(frame.target_start), ids), "source_ids": [*frame.before, *source, *frame.after]}]


def _scored(begun, ids):
    """A row that is read up to the last but one of `ids`, which are its labels."""
    return {
        "token_ids": [*begun, *ids[:-1]],
        "labels": [*begun[1:], *ids],
        "loss_weights": [0.0] * (len(begun) - 1) + [1.0] * len(ids),
    }


def _next_scores(model, batch):
    inputs = model.taken(batch)
    found, _ = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)
    return tf.reduce_sum(tf.where(batch["loss_weights"] > 0, found, 0.0), 1)


def _blank_rows(blank_ids, model, tokenizer, frame, context, word, behind):
    begun, ids = encoded(tokenizer, context, word)
    after = [*tokenizer.encode(behind)]
    others = len(frame.before) + len(after) + len(ids) + 2  # the mask and `sop`
    begun = [*frame.before, *_fitting(model, begun, others, word + behind), blank_ids.mask, *after]
    blank = len(begun) - 1 - len(after)
    row = _scored([*begun, blank_ids.sop], [*ids, blank_ids.eop])
    return [{
        **row, "places": [*range(len(begun)), *[blank] * (len(ids) + 1)],
        "within": [*[0] * len(begun), *range(1, len(ids) + 2)],
    }]  # fmt: skip


def _blank_scores(model, batch):
    batch = dict(batch)
    batch["positions"] = tf.stack([batch.pop("places"), batch.pop("within")], -1)
    return _next_scores(model, batch)


def _masked_rows(model, tokenizer, frame, context, word, behind):
    begun, ids = encoded(tokenizer, context, word)
    after = [*tokenizer.encode(behind), *frame.after]
    begun = [*frame.before, *_fitting(model, begun, len(frame.before) + len(ids) + len(after), word + behind)]
    rows = []
    for i, label in enumerate(ids):
        hidden = [tokenizer.mask_id] * (len(ids) - i)
        rows.append({"token_ids": [*begun, *ids[:i], *hidden, *after], "label_positions": [len(begun) + i], "labels": [label]})
    return rows


def _masked_scores(model, batch):
    found = tf.nn.log_softmax(token_logits(model, {name: batch[name] for name in batch if name != "labels"})[:, 0])
    return tf.gather(found, batch["labels"][:, 0], axis=1, batch_dims=1)
