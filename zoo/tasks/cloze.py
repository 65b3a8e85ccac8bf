"""Classification by filling a pattern: a class is as likely as its word where the pattern has a blank.

    p(y | x) = p(v(y) | c(x)) / sum over classes y' of p(v(y') | c(x))

c(x) is the text in its pattern, v(y) the word of a class, its verbalizer (Du et al. 2022, section 2.3; Schick and Schütze
2021). log p(v | c) is the sum over the word's tokens, as `zoo.likelihood` has it, by the way in which a model reads:

    blank          part A is the pattern with a mask, part B the word and the end of the blank: all of them count
    continuation   a language model goes on with the word where the pattern ends; what stands behind is not read
    mask           the word is one token, which a masked language model gives for its mask

So training begins with the probabilities of `trainers.evaluate --shots=0`, and no weight is new.

Shape letters: B batch, T positions, C classes, L tokens of the longest word, V vocabulary.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from zoo.config import Refusal
from zoo.data import patterns
from zoo.data.examples import Frame, framed_texts
from zoo.signatures.fill_blanks import begin_ids
from zoo.signatures.fill_mask import token_logits
from zoo.tasks.blank_infilling import blank_ids
from zoo.tasks.language_modeling import LanguageModeling

TEXTS = ("text", "text_pair")
BEFORE = "a"  # stands for any text in front of a literal: ids then are those within a text


def way_of(model):
    """How a model fills a pattern: `blank`, `continuation` or `mask`.

    Raises:
        Refusal: it gives words no probabilities in a context.
    """
    if model.kind == "language_model":
        return "blank" if "prefix_lengths" in model.takes else "continuation"
    if model.kind == "encoder" and model.config.contextual and "characters" not in model.takes:
        return "mask"
    raise Refusal(
        f"{model.registered_name} gives words no probabilities in a context; a pattern is for glm, gpt, lstm and bert."
    )


def verbalizers(labels, text):
    """Label -> its word, in the order of the labels; each label itself where nothing is said.

    Args:
        labels: the classes.
        text: `label=word`, separated by commas; an item with a comma in it stands in quotes.

    Raises:
        Refusal: a label without a word where others have one, one that is not known, two with one word.
    """
    given = patterns.label_words(labels, patterns.items(text, "verbalizers"), "verbalizers")
    missing = [label for label in labels if label not in given]
    if given and missing:
        raise Refusal(f"verbalizers have no word for the label {missing[0]!r}; give each label one, as label=word.")
    words = {label: given.get(label, label) for label in labels}
    patterns.require_distinct(words, "verbalizers")
    return words


class Cloze:
    """A pattern and the words of its classes, as a tokenizer writes them.

    Args:
        pattern: `{text}`, perhaps `{text_pair}` behind it, and `{label}`.
        words: label -> word, in the order of the logits.
        tokenizer: a `Tokenizer`.
        way: one of those of `way_of`.

    Attributes:
        frame: the `Frame`: the pattern is what stands around the texts, so a long text is cut and the pattern is not.
        leads: what is put before each text, strings: the spaces that the pattern has there.
        label_ids: for each class what is scored, a tuple of ids.
        mask_id: what stands in the blank, or None where nothing does.

    Raises:
        Refusal: a word has no token, or an unknown one, or the same as another word; or a way of its own reason.
    """

    def __init__(self, pattern, words, tokenizer, way):
        self.tokenizer, self.way, self.words = tokenizer, way, words
        slots = patterns.Pattern(pattern, "pattern").slots
        begin, blank, end, self.ends = self._around()
        self.mask_id = blank[0] if blank else None
        sections, leads, context = [[*begin]], [], ""
        for literal, spaces, field in slots:
            after_text = context == BEFORE
            sections[-1] += patterns.following(tokenizer, context, literal) if literal else []
            context = context + literal if after_text else literal
            if field == "label":
                self.label_ids = self._label_ids(context, spaces)
                sections[-1] += blank
                if way == "continuation":
                    break
                context = ""
            elif field is not None:
                leads.append(self._lead(literal, spaces))
                sections.append([])
                context = BEFORE
        if way == "continuation" and [f for _, _, f in slots if f in TEXTS][len(leads) :]:
            raise Refusal(
                "A language model reads nothing behind the label's word; put {label} behind the texts, or take glm or bert."
            )
        sections[-1] += end
        between = tuple(sections[1]) if len(sections) == 3 else ()
        self.frame = Frame(before=tuple(sections[0]), between=between, after=tuple(sections[-1]))
        self.leads = tuple(leads)

    def _around(self):
        """Ids before a row, in its blank and behind it, and those that end a word, which is scored with them."""
        if self.way == "blank":
            ids = blank_ids(self.tokenizer)
            return begin_ids(self.tokenizer), (ids.mask,), (ids.sop,), (ids.eop,)
        if self.way == "mask":
            if self.tokenizer.mask_id is None:
                raise Refusal(
                    f"A {self.tokenizer.registered_name} tokenizer has no mask token; take a model with one of wordpiece."
                )
            frame = framed_texts("encoder", self.tokenizer)
            return frame.before, (self.tokenizer.mask_id,), frame.after, ()
        return LanguageModeling().frame("language_model", self.tokenizer).before, (), (), ()

    def _label_ids(self, context, spaces):
        found = []
        for label, word in self.words.items():
            ids = tuple(patterns.encoded(self.tokenizer, context, spaces + word)[1])
            if self.tokenizer.unk_id is not None and self.tokenizer.unk_id in ids:
                raise Refusal(
                    f"The vocabulary has no token for {word!r}, the word of the label {label!r}; give another with verbalizers."
                )
            if self.way == "mask" and len(ids) != 1:
                raise Refusal(
                    f"{word!r}, the word of the label {label!r}, is {len(ids)} tokens, and a masked language model fills a "
                    "blank with one; give another with verbalizers."
                )
            if (*ids, *self.ends) in found:
                raise Refusal(
                    f"{word!r} is written with the same tokens as another label's word; give another with verbalizers."
                )
            found.append((*ids, *self.ends))
        return tuple(found)

    def _lead(self, literal, spaces):
        """The spaces before a text, unless the tokenizer puts one there itself."""
        encode = self.tokenizer.encode
        whole = list(encode(literal + spaces + BEFORE))
        begun = list(encode(literal)) if literal else []
        return next((lead for lead in (spaces, "") if [*begun, *encode(lead + BEFORE)] == whole), spaces)

    def reading(self, limit):
        """`(frame, most tokens of a row, leads)`, where a row and what is read of a word behind it have at most `limit` tokens,
        or any number if None.

        Raises:
            Refusal: there is no room for a text.
        """
        read = max(map(len, self.label_ids)) - 1  # the last token of a word is scored, and not read
        around = self.frame.num_special(len(self.leads)) + read
        if limit is not None and around + len(self.leads) > limit:
            raise Refusal(
                f"The pattern has {around} tokens with its longest word, and a row at most {limit}: there is no room for a "
                "text; give a shorter pattern, or a larger --seq_length."
            )
        return self.frame, None if limit is None else limit - read, self.leads


def log_probs(model, batch, label_ids, mask_id, training=False):
    """float32 (B, C): the natural log-probability of each class's word in the blank of each row.

    Args:
        model: a model that fills patterns, with the head of a masked language model if it is an encoder.
        batch: `token_ids` int32 (B, T), rows in the frame of a `Cloze`, and `padding_mask` bool (B, T): padding stands at the
            right.
        label_ids, mask_id: those of the `Cloze`.
        training: whether dropout is on.
    """
    if way_of(model) != "mask":
        return _continued(model, batch, label_ids, mask_id, training)
    inputs = {name: batch[name] for name in ("token_ids", "padding_mask")}
    places_B1 = _place_of(mask_id, batch["token_ids"])[:, None]
    logits_BV = token_logits(model, {**inputs, "label_positions": places_B1}, training)[:, 0]
    return ops.take(ops.log_softmax(logits_BV), np.array(label_ids, np.int32)[:, 0], axis=1)


def _continued(model, batch, label_ids, mask_id, training):
    """As `log_probs`, of a language model: a row is read once into a state, which is then repeated for the classes."""
    words_CL, counts_CL = _padded(label_ids)
    (num_classes, longest), length = words_CL.shape, ops.shape(batch["token_ids"])[1]
    lengths_B = ops.sum(ops.cast(batch["padding_mask"], "int32"), axis=1)
    source_BT = ops.arange(length)[None] - (length - lengths_B)[:, None]
    places_BT = ops.maximum(source_BT, 0)  # padding moves to the left, the one side that a state has it at
    first, rest = {}, {}
    if mask_id is not None:
        blank_B = _place_of(mask_id, batch["token_ids"])
        begins_BT = places_BT == lengths_B[:, None] - 1  # the token that begins part B
        positions = ops.where(begins_BT, blank_B[:, None], places_BT), ops.cast(begins_BT, "int32")
        first = {"positions": ops.stack(positions, axis=-1), "prefix_lengths": lengths_B - 1}
        within_BCL = ops.zeros_like(blank_B)[:, None, None] + np.arange(2, longest + 1, dtype=np.int32)
        within_BCL = ops.tile(within_BCL, (1, num_classes, 1))
        positions = ops.stack([ops.zeros_like(within_BCL) + blank_B[:, None, None], within_BCL], axis=-1)
        rest = {
            "positions": ops.reshape(positions, (-1, longest - 1, 2)),
            "prefix_lengths": tf.repeat(lengths_B - 1, num_classes, 0),
        }
    state = model.init_state(ops.shape(lengths_B)[0], length + longest - 1)
    token_ids = tf.gather(batch["token_ids"], places_BT, batch_dims=1)
    features, state = model.features(token_ids, state, padding_mask=source_BT >= 0, training=training, **first)
    log_probs_BV = ops.log_softmax(model.limited(model.project(features[:, -1:])))[:, 0]
    total_BC = ops.take(log_probs_BV, words_CL[:, 0], axis=1)
    if longest == 1:
        return total_BC
    state = {name: tf.repeat(value, num_classes, 0) if len(value.shape) else value for name, value in state.items()}
    read = ops.tile(words_CL[:, :-1], (ops.shape(lengths_B)[0], 1))
    features, _ = model.features(read, state, training=training, **rest)
    every = ops.log_softmax(model.limited(model.project(features)))
    found = tf.gather(every, ops.tile(words_CL[:, 1:], (ops.shape(lengths_B)[0], 1)), axis=2, batch_dims=2)
    found_BCL = ops.reshape(found, (-1, num_classes, longest - 1))
    return total_BC + ops.sum(ops.where(counts_CL[None, :, 1:], found_BCL, 0.0), axis=-1)


def _place_of(mask_id, token_ids):
    """int32 (B,): the column of the blank in each row. No text yields its id."""
    return ops.cast(ops.argmax(ops.cast(token_ids == mask_id, "int32"), axis=1), "int32")


def _padded(label_ids):
    """int32 (C, L), filled up at the right with 0, and bool (C, L): which of them count."""
    longest = max(map(len, label_ids))
    words_CL = np.array([[*ids, *[0] * (longest - len(ids))] for ids in label_ids], np.int32)
    return words_CL, np.arange(longest) < np.array([len(ids) for ids in label_ids])[:, None]
