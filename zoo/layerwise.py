"""What a Transformer has in each of its layers: what it would answer there, and which token looks at which.

    zoo.load("runs/gpt/latest").lens("The list is").words[-1][-1]       what the last layer goes on with, the likeliest first
    zoo.load("runs/bert/latest").attention("A dull film.").weights      float32 (L, N, T, S)

- The logit lens (nostalgebraist 2020): the hidden state behind each block goes through the final norm and the output, as if
  no block followed. Layer 0 is what goes into the first block.
- Attention maps: the weights of each head of each block on the text itself. Of a model that reads a source: what it looks at
  in the source when it writes each token, as `align` answers it.

Shape letters: B batch, T positions that look, S those looked at, D hidden, V vocabulary or classes, L layers, N heads, P
answers, K the likeliest of each.
"""

import contextlib
import dataclasses
import html

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.explanation import pieces
from zoo.layers.norms import Norm
from zoo.layers.transformer import TransformerBlock
from zoo.signatures import given
from zoo.signatures.fill_mask import holes

DIGITS = 5  # of a number in JSON
PALE = 0.02  # a weight below it is not drawn


@dataclasses.dataclass(frozen=True)
class Lens:
    """What each layer would answer.

    Attributes:
        tokens: P strings: where an answer is given. Of a language model each token of the text, which the answer follows; of a
            masked one each hole; of a classifier the text.
        words: strings (L, P, K), the likeliest answers of each layer; layer 0 stands before the first block.
        probs: float32 (L, P, K), their probabilities.
        ranks: int (L, P), what rank the last layer's answer has in each layer; 1 is the likeliest.
    """

    tokens: tuple
    words: tuple
    probs: np.ndarray
    ranks: np.ndarray

    @property
    def settled(self):
        """int (P,): from which layer on the answer is that of the last one."""
        return len(self.ranks) - np.cumprod(self.ranks[::-1] == 1, axis=0).sum(0)

    def to_dict(self):
        """The attributes as JSON values, and `settled`."""
        return {
            "method": "logit_lens", "tokens": list(self.tokens), "words": [list(map(list, layer)) for layer in self.words],
            "probs": _rounded(self.probs), "ranks": self.ranks.tolist(), "settled": self.settled.tolist(),
        }  # fmt: skip

    def html(self):
        """A piece of HTML: a table with a row a layer, the last above, and a column an answer."""
        head = "".join(f"<th>{html.escape(token)}</th>" for token in self.tokens)
        rows = []
        for layer in reversed(range(len(self.words))):
            cells = ""
            for words, probs, rank in zip(self.words[layer], self.probs[layer], self.ranks[layer], strict=True):
                shown_words = ", ".join(f"{word!r} {prob:.3f}" for word, prob in zip(words, probs, strict=True))
                shown_words = html.escape(f"{shown_words}; the last layer's answer has rank {rank}")
                style = f"background: rgba(30, 90, 200, {probs[0]:.2f}); white-space: pre"
                cells += f'<td title="{shown_words}" style="{style}">{html.escape(words[0])}</td>'
            rows.append(f"<tr><th>{layer}</th>{cells}</tr>")
        caption = "What each layer would answer; a stronger colour is a larger probability"
        table = f"<table><tr><th>layer</th>{head}</tr>{''.join(rows)}</table>"
        return f"<figure>{table}<figcaption>{caption}</figcaption></figure>\n"


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Which token looks at which.

    Attributes:
        queries: T strings, the tokens that look.
        keys: S strings, those looked at.
        weights: float32 (L, N, T, S); those of a query add up to 1. Of a source: L = N = 1, the mean over the heads of the last
            layer, and what is missing to 1 is on the marks around the source.
    """

    queries: tuple
    keys: tuple
    weights: np.ndarray

    @property
    def mean(self):
        """float32 (L, T, S), the mean over the heads."""
        return self.weights.mean(1)

    def to_dict(self):
        """The attributes as JSON values."""
        queries, keys = list(self.queries), list(self.keys)
        return {"method": "attention", "queries": queries, "keys": keys, "weights": _rounded(self.weights)}

    def html(self):
        """A piece of HTML: a picture a layer and head, rows look at columns, and above them the mean over the heads."""
        parts = []
        for number, (layer, mean) in enumerate(zip(self.weights, self.mean, strict=True), 1):
            drawn = "".join(self._map(head, 4) for head in layer) if len(layer) > 1 else ""
            parts.append(f"<h4>Layer {number}</h4>{self._map(mean, 14, named=True)}<div>{drawn}</div>")
        caption = "Each row looks at the columns that are dark in it; large: the mean over the heads, small: each head"
        return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>\n"

    def _map(self, weights_TS, size, named=False):
        """An SVG of one map, with the tokens beside it if `named`."""
        rows, columns = weights_TS.shape
        left, top = (120, 70) if named else (1, 1)
        cells = "".join(
            f'<rect x="{left + size * column}" y="{top + size * row}" width="{size}" height="{size}" '
            f'fill-opacity="{weights_TS[row, column]:.2f}"/>'
            for row, column in np.argwhere(weights_TS >= PALE).tolist()
        )
        text = ""
        if named:
            for row, token in enumerate(self.queries):
                y = top + size * row + size - 3
                text += f'<text x="{left - 4}" y="{y}" text-anchor="end">{html.escape(token)}</text>'
            for column, token in enumerate(self.keys):
                x = left + size * column + size - 3
                rotation = f'transform="rotate(-90 {x} {top - 4})"'
                text += f'<text x="{x}" y="{top - 4}" {rotation}>{html.escape(token)}</text>'
        width, height = left + size * columns + 1, top + size * rows + 1
        frame = f'<rect x="{left}" y="{top}" width="{size * columns}" height="{size * rows}" fill="none" stroke="#999"/>'
        return (
            f'<svg width="{width}" height="{height}" style="margin: 2px" font-size="11" font-family="sans-serif" '
            f'fill="#123a8c">{frame}{cells}{text}</svg>'
        )


def lens(model, tokenizer, task, text, num_words=5):
    """The `Lens` on a text.

    Args:
        model, tokenizer, task: those of a bundle: of a language model, a masked one (`text` has holes then, written as its
            tokenizer's mask token) or a classifier of one text.
        text: a string.
        num_words: K.

    Raises:
        Refusal: another task, a model without Transformer blocks, a text that is empty or too long.
    """
    num_words = given.number("num_words", num_words, tf.int32)
    if num_words < 1:
        raise Refusal(f"num_words is 1 or more; got {num_words}.")
    blocks = _blocks(model)
    batch, tokens, answer_at = _row(model, tokenizer, task, text)
    name = task.registered_name
    with _heard(blocks) as states:
        model(batch)
    norms = [layer for layer in model.layers_by_depth()[-1] if isinstance(layer, Norm)]
    labels = task.facts.labels if name == "classification" else None
    top, ranks = [], []
    for hidden_BTD in states:
        for norm in norms:
            hidden_BTD = norm(hidden_BTD)
        if name == "language_modeling":
            logits_BPV = model.limited(model.project(hidden_BTD))[:, answer_at]
        elif name == "masked_lm":
            logits = model.head(hidden_BTD, batch)
            logits_BPV = model.limited(logits[0] if isinstance(logits, tuple) else logits)
        else:
            logits_BPV = task.tempered(tf.cast(model.head(hidden_BTD, batch), tf.float32))[:, None]
        probs_PV = tf.nn.softmax(logits_BPV[0])
        top.append([np.asarray(part) for part in tf.math.top_k(probs_PV, min(num_words, probs_PV.shape[-1]))])
        ranks.append(np.asarray(probs_PV))
    best_P = ranks[-1].argmax(1)
    ranks = np.stack([1 + (probs_PV > probs_PV[np.arange(len(best_P)), best_P][:, None]).sum(1) for probs_PV in ranks])
    words = tuple(
        tuple(tuple(labels[i] if labels else tokenizer.decode([i]) for i in row) for row in chosen.tolist())
        for _, chosen in top
    )
    return Lens(tuple(tokens), words, np.stack([probs for probs, _ in top]), ranks)


def attention(model, tokenizer, task, text, target=None):
    """The `AttentionMaps` of a text.

    Args:
        model, tokenizer, task: those of a bundle, as for `lens`; or a model that reads a source and `aligns`.
        text: a string; with a source, the source.
        target: the text that is written of the source.

    Raises:
        Refusal: as `lens`; a source without a target, or a target without a source.
    """
    if model.without_head().aligns:
        if target is None:
            raise Refusal("Of a source the map says who looks at it; give the target that is written of it.")
        align = task.signatures(model, tokenizer)["align"]
        answer = align(text=tf.constant([text]), target=tf.constant([target]))
        keys, queries = ([token.decode("utf8", "replace") for token in answer[name].numpy()[0].tolist()] for name in
                         ("source_tokens", "target_tokens"))  # fmt: skip
        return AttentionMaps(tuple(queries), tuple(keys), np.asarray(answer["weights"], np.float32)[None])
    if target is not None:
        raise Refusal(f"{model.registered_name} reads no source; a map of it takes a text alone, without a target.")
    blocks = _blocks(model)
    batch, *_ = _row(model, tokenizer, task, text)
    with _looking(blocks) as weights:
        model(batch)
    tokens = tuple(_written(tokenizer, task.frame_for(model, tokenizer), np.asarray(batch["token_ids"])[0]))
    return AttentionMaps(tokens, tokens, np.stack([np.asarray(each, np.float32)[0] for each in weights]))


def _blocks(model):
    """The Transformer blocks of a model in their order. Raises Refusal for a model without them."""
    body = model.without_head()
    if body.kind != "encoder_decoder" and not body.fitted:
        try:
            found = [layer for part in body.layers_by_depth() for layer in part if isinstance(layer, TransformerBlock)]
        except Refusal:
            found = []
        if found:
            return found
    raise Refusal(f"{body.registered_name} has no Transformer blocks that read one text; take gpt, glm or bert.")


def _row(model, tokenizer, task, text):
    """(batch of one row, names of the answers, their columns) of a text."""
    name, frame = task.registered_name, task.frame_for(model, tokenizer)
    if name == "masked_lm":
        batch, _ = holes(model, tokenizer, frame, tf.constant([text]))
        return batch, [tokenizer.mask_token] * batch["label_positions"].shape[1], None
    if name != "language_modeling" and (name != "classification" or task.facts.pair or task.config.pattern):
        raise Refusal(
            f"This model was made for {name}; its layers are shown for language models and for classifiers of one text with a "
            "head."
        )
    ids = np.array(tokenizer.encode(text), np.int32)
    if not len(ids):
        raise Refusal("The text is empty; there is no token to look at.")
    row = np.array([[*frame.before, *ids, *frame.after]], np.int32)
    if model.max_length is not None and row.shape[1] > model.max_length:
        raise Refusal(f"The text has {row.shape[1]} tokens with what stands around; this model takes {model.max_length}.")
    batch = {"token_ids": row}
    if name == "classification":
        batch["padding_mask"] = np.ones(row.shape, bool)
        if frame.segments:
            batch["segment_ids"] = np.zeros_like(row)
        return batch, [text], None
    return batch, pieces(tokenizer, ids), slice(len(frame.before), len(frame.before) + len(ids))


def _written(tokenizer, frame, ids):
    """The tokens of a row as strings, with those that stand for no word as the vocabulary writes them."""
    first, last = len(frame.before), len(ids) - len(frame.after)
    shown = [""] * first + pieces(tokenizer, ids[first:last]) + [""] * (len(ids) - last)
    special = set(tokenizer.special_ids)

    def name(i):
        try:
            return tokenizer.vocabulary[i]
        except Refusal:
            return f"<{i}>"

    return [name(i) if i in special else text for i, text in zip(ids.tolist(), shown, strict=True)]


@contextlib.contextmanager
def _heard(blocks):
    """While this is on, a list gets what goes into the first block, and what comes out of each."""
    states = []

    def hearing(call):
        def heard(x, *args, **kwargs):
            if not states:
                states.append(x)
            answer = call(x, *args, **kwargs)
            states.append(answer[0])
            return answer

        return heard

    with _instead(blocks, hearing):
        yield states


@contextlib.contextmanager
def _looking(blocks):
    """While this is on, a list gets the weights (B, N, T, S) of each block."""
    weights = []

    def looking(call):
        def looked(*args, **kwargs):
            *answer, found = call(*args, **{**kwargs, "with_weights": True})
            weights.append(found)
            return tuple(answer)

        return looked

    with _instead([block.attention for block in blocks], looking):
        yield weights


@contextlib.contextmanager
def _instead(layers, make):
    """Layers whose `call` is what `make` makes of it."""
    for layer in layers:
        layer.call = make(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _rounded(values):
    return np.round(np.asarray(values, np.float64), DIGITS).tolist()
