"""Speculative decoding with a draft that costs nothing: one pass of the model judges several tokens that were guessed.

Text repeats itself: names, code, the source of a summary. `ngram:N` looks the last N tokens of a row up in the row itself
(N - 1 of them, if N came nowhere before, and so on down to 2), and takes what followed there, the latest place first, for a
draft (prompt lookup: Saxena 2023; Yang et al. 2023, arXiv:2304.04487). `ngram:DIR` asks an n-gram model besides, which was
fitted on other text with the same vocabulary: what it would write greedily is the draft where its longest known history is
longer than what was found in the row, and where it expects enough of that to be right (`zoo/layers/ngram_continuations.py`).
One pass reads the last token and the draft. Tokens that the model would have written itself stay, and the first that it would
not gives way to its own (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1).

The promise, for rows that are asked alone; a batch goes on without a draft.

- Greedy: the text is that of decoding token by token, bit for bit. A pass over several tokens rounds otherwise than a pass
  over one. So where the two likeliest tokens are nearer to each other than `NEAR` of the largest logit, several dozen times
  what rounding was seen to move, such a pass decides nothing. It is taken back, and so is every earlier one since the prompt:
  the row is read again token by token, as if there had been no draft, and goes on from there.
- Sampling: token number i is drawn with the row's random number i from the distribution that the model gives, as without a
  draft, and a draft stays where it is what was drawn. So the distribution is the same by construction; and so is the text,
  but where a random number falls within rounding of the border between two tokens.

Shape letters: P prompt length, N most new tokens, L = P + N, T tokens of a pass, V vocabulary.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.config import Refusal
from zoo.decoding import choose
from zoo.layers.ngram_continuations import Continuations

# Of the largest logit: two tokens that are nearer to each other are not told apart by a pass over several tokens.
NEAR = 1e-4
DRAFT_TOKENS = 5
# A row whose draft fails tries the next one so many tokens later; then twice as many, and so on up to the longest wait.
WAIT, LONGEST_WAIT = 2, 32
# So many tokens of an n-gram model's draft must be expected to stay: a pass over six tokens pays from 0.74 on.
LEAST_EXPECTED = 1.0


class Draft(NamedTuple):
    """How tokens are guessed.

    Attributes:
        longest: most tokens that are looked up.
        num_tokens: tokens of a draft.
        directory: of the bundle or run of an n-gram model that is asked, too; "" for none.
        continuations: the `Continuations` of that model, once it is loaded.
    """

    longest: int
    num_tokens: int = DRAFT_TOKENS
    directory: str = ""
    continuations: Any = None

    def with_model(self, model):
        """This draft with the tables of an n-gram model. As many tokens as its histories have are looked up in a row.

        Raises:
            Refusal: it is another model, or one without histories.
        """
        if model.registered_name != "ngram":
            raise Refusal(
                f"{self.directory} holds a {model.registered_name} model; a draft takes an n-gram model, whose tokens cost "
                "nothing: trainers.run --model=ngram."
            )
        if model.config.order < 2:
            raise Refusal(
                f"{self.directory} holds unigrams, which look at no token before; a draft takes an order of 2 or more."
            )
        continuations = Continuations(model.tables, self.num_tokens, LEAST_EXPECTED)
        return self._replace(longest=max(model.config.order - 1, 2), continuations=continuations)

    def described(self):
        """What is guessed from, in a sentence's words."""
        words = f"{self.num_tokens} tokens, the last {self.longest} or fewer looked up in the text"
        if self.continuations is None:
            return words
        size = self.continuations.num_bytes / 1e6
        return f"{words} and in the tables of an n-gram model of order {self.continuations.history + 1}, {size:,.1f} MB"


def parsed_draft(text):
    """The `Draft` that a string asks for, or None for "none" and None; without the model of a directory, which `with_model`
    adds.

        parsed_draft("ngram:4")                    the last 4 tokens, or fewer, are looked up; drafts have 5 tokens
        parsed_draft("ngram:3:8")                  ... 8 tokens
        parsed_draft("ngram:runs/ngram/latest")    ... and in the tables of that model, too; drafts have 5 tokens

    Raises:
        Refusal: it is not one of them.
    """
    if text in (None, "none"):
        return None
    match = isinstance(text, str) and re.fullmatch(r"ngram:(.+?)(?::([0-9]{1,2}))?", text)
    count = int(match[2] or DRAFT_TOKENS) if match else 0
    if match and re.fullmatch("[0-9]{1,2}", match[1]):
        draft = Draft(int(match[1]), count)
        found = draft.longest >= 2
    else:
        draft = match and Draft(0, count, match[1])
        found = draft and Path(draft.directory).is_dir()
    if not found or count < 1:
        raise Refusal(
            "draft is none, or ngram:N for the last N tokens, 2 at least, that are looked up, or ngram:DIR for an n-gram model "
            f"of the same vocabulary besides, a run or a bundle; with :K behind it for drafts of K tokens; got {text!r}."
        )
    return draft


def require_draft(model, draft):
    """Raises Refusal where a model cannot decode with a draft.

    Args:
        model: a `LanguageModel`.
        draft: a `Draft`, or None.
    """
    if draft is None:
        return
    if not model.rewinds:
        raise Refusal(f"{model.registered_name} cannot take a token back, as a draft needs it; leave draft out.")
    if model.compute_dtype != "float32":
        raise Refusal(
            f"In {model.compute_dtype} a pass over several tokens rounds too coarsely for the text to stay the same; a draft "
            "is for float32, and for int8, which computes in it."
        )
    if model.max_length is not None and draft.num_tokens >= model.max_length:
        raise Refusal(f"A draft of {draft.num_tokens} tokens does not fit into this model's max_length of {model.max_length}.")


def with_draft(model, draft, prompt_length, stop_ids):
    """What `zoo.decoding.generate` takes as `enter`: rows that stand alone are decoded with a draft, batches go on without.

    Args:
        model: a `LanguageModel` whose states can be taken back.
        draft: a `Draft`.
        prompt_length: P, a scalar.
        stop_ids: ids that end a row.
    """

    def enter(go_on, limit, seen, sampling, last_ids, progress, state):
        def alone():
            first = tf.nest.map_structure(_first_row, (limit, sampling, progress, state))
            limit_, sampling_, progress_, state_ = first
            return _Row(model, draft, prompt_length, stop_ids, limit_[0], sampling_).decode(progress_, state_)

        return tf.cond(tf.shape(last_ids)[0] == 1, alone, lambda: go_on(limit, seen, sampling, last_ids, progress, state))

    return enter


def _first_row(leaf):
    """A batch-first tensor as one of one row, in a way that the graph's optimiser does not carry to other graphs."""
    if not tf.is_tensor(leaf) or not leaf.shape.rank:
        return leaf
    return tf.slice(leaf, [0] * leaf.shape.rank, [1, *[-1] * (leaf.shape.rank - 1)])


class _Reading(NamedTuple):
    """How far a row is read and written; int32 scalars, columns counted from 0.

    Attributes:
        known: tokens of the prompt and written ones.
        read: those of them that the state holds: all but the last, or fewer while a row is read again.
        plain: those that it holds as decoding token by token would have left them.
        wait: tokens that will be written before the next draft is tried.
        patience: of the next wait, once a draft has failed.
    """

    known: tf.Tensor
    read: tf.Tensor
    plain: tf.Tensor
    wait: tf.Tensor
    patience: tf.Tensor


class _Row:
    """The loop over the tokens of one row."""

    def __init__(self, model, draft, prompt_length, stop_ids, limit, sampling):
        self.model, self.draft, self.prompt_length = model, draft, prompt_length
        self.stop_ids, self.limit, self.sampling = tf.constant(stop_ids, tf.int32), limit, sampling
        self.width = draft.num_tokens + 1

    def decode(self, progress, state):
        """What `generate` made of the prompt and the first token -> the whole row, a `zoo.decoding._Progress`."""
        prompt_length, zero = self.prompt_length, tf.constant(0)
        reading = _Reading(prompt_length + 1, prompt_length, prompt_length, zero, tf.constant(WAIT))

        def body(reading, progress, state):
            ready = (reading.read == reading.known - 1) & (reading.wait <= 0) & (self.limit >= self.width)
            draft_K, found = tf.cond(
                ready,
                lambda: self._guessed(progress.ids[0], reading.known),
                lambda: (tf.zeros([self.draft.num_tokens], tf.int32), tf.constant(False)),
            )
            after = tf.cond(
                found,
                lambda: self._several(draft_K, reading, progress, state),
                lambda: self._one(reading, progress, state),
            )
            for new, old in zip(tf.nest.flatten(after), tf.nest.flatten((reading, progress, state)), strict=True):
                new.set_shape(old.shape)
            return after

        return tf.while_loop(lambda reading, progress, state: tf.reduce_any(progress.alive), body, (reading, progress, state))[
            1
        ]

    def _guessed(self, ids_L, known):
        """The draft, and whether there is one: behind the longer of two histories, and of equal ones behind the row's own."""
        source, length = self._looked_up(ids_L, known)
        # What reaches the end of what is known goes on with itself.
        places = source + tf.range(self.draft.num_tokens) % tf.maximum(known - source, 1)
        draft_K = tf.gather(ids_L, tf.minimum(places, known - 1))
        if self.draft.continuations is None:
            return draft_K, length >= 2
        columns = known + tf.range(-self.draft.continuations.history, 0)
        latest = tf.where(columns >= 0, tf.gather(ids_L, tf.maximum(columns, 0)), -1)
        words, lengths = self.draft.continuations(latest[None])
        length = tf.where(length >= 2, length, 0)
        return tf.where(lengths[0] > length, words[0], draft_K), tf.maximum(lengths[0], length) > 0

    def _looked_up(self, ids_L, known):
        """Where in the row the draft begins, and how many of the last tokens stand before it there."""
        columns = tf.range(tf.shape(ids_L)[0])
        same, length = columns < known - 1, tf.zeros_like(columns)
        for back in range(self.draft.longest):
            latest = ids_L[tf.maximum(known - 1 - back, 0)]
            same &= (tf.roll(ids_L, back, 0) == latest) & (columns >= back)
            length += tf.cast(same, tf.int32)
        # The longest match, and the latest of the longest.
        best = tf.argmax(length * tf.size(columns) + columns, output_type=tf.int32)
        return best + 1, length[best]

    def _several(self, draft_K, reading, progress, state):
        """One pass over the last token and a draft."""
        width, known = self.width, reading.known
        columns = tf.range(tf.shape(progress.ids)[1])
        drafted = tf.gather(draft_K, tf.clip_by_value(columns - known, 0, width - 2))
        ids_L = tf.where(columns < known, progress.ids[0], drafted)
        # Near the end of the row the pass begins earlier, so that the state needs no more room than without a draft.
        start = tf.minimum(reading.read, tf.size(columns) - width)
        pass_T = tf.range(width)
        given_T = ids_L[start : start + width]
        logits, state = self.model.logits_after_each(tf.reshape(given_T, (1, width)), self.model.rewound(state, start))
        written_T = start + 1 + pass_T - self.prompt_length
        chosen_T, log_prob_T, sure_T = self._chosen(logits[0], written_T)
        follows_T = (chosen_T[:-1] == given_T[1:]) & sure_T[:-1] & ~self._ends(chosen_T[:-1])
        asked_T = start + pass_T >= reading.read
        reached_T = tf.math.cumprod(tf.cast(tf.concat([[True], follows_T | ~asked_T[:-1]], 0), tf.int32)) > 0
        reached_T &= asked_T & (written_T < self.limit)
        new_T = reached_T & sure_T
        count = tf.reduce_sum(tf.cast(new_T, tf.int32))
        kept = known + count - 1
        again = tf.reduce_any(reached_T & ~sure_T)
        plain = tf.minimum(reading.plain, start)
        read = tf.where(again, plain, kept)
        good = (count > 1) & ~again
        patience = tf.where(good, WAIT, tf.minimum(2 * reading.patience, LONGEST_WAIT))
        reading = _Reading(known + count, read, plain, tf.where(good, 0, reading.patience), patience)
        progress = self._written(progress, known, count, tf.boolean_mask(chosen_T, new_T), tf.boolean_mask(log_prob_T, new_T))
        return reading, progress, self.model.rewound(state, read)

    def _one(self, reading, progress, state):
        """A pass over one token: the last one, or one that is read again."""
        column = reading.read
        token = tf.reshape(progress.ids[0, column], (1, 1))
        logits, state = self.model.next_logits(token, state)
        chosen, log_prob, _ = self._chosen(logits, tf.reshape(column + 1 - self.prompt_length, (1,)), judged=False)
        count = tf.cast(column + 1 == reading.known, tf.int32)
        plain = tf.where(reading.plain == column, column + 1, reading.plain)
        progress = self._written(progress, reading.known, count, chosen[:count], log_prob[:count])
        wait = reading.wait - count
        return _Reading(reading.known + count, column + 1, plain, wait, reading.patience), progress, state

    def _chosen(self, logits_TV, index_T, judged=True):
        """The tokens that follow, their log-probabilities, and whether rounding could not have chosen others."""
        sampling = self.sampling._replace(
            **{
                name: tf.broadcast_to(value, tf.shape(index_T))
                for name, value in self.sampling._asdict().items()
                if tf.is_tensor(value)
            }
        )
        chosen_T, log_prob_T = choose(logits_TV, index_T, sampling)
        if not judged:
            return chosen_T, log_prob_T, None
        first, second = tf.unstack(tf.math.top_k(logits_TV, 2).values, axis=1)
        size_T = tf.reduce_max(tf.where(tf.math.is_finite(logits_TV), tf.abs(logits_TV), 0.0), 1)
        return chosen_T, log_prob_T, (first - second > NEAR * size_T) | (sampling.temperature > 0)

    def _written(self, progress, known, count, chosen, log_probs):
        """The row with `count` tokens more."""
        columns = tf.range(tf.shape(progress.ids)[1])
        new_L = (columns >= known) & (columns < known + count)
        ids_L = tf.where(
            new_L, tf.gather(tf.concat([chosen, [0]], 0), tf.clip_by_value(columns - known, 0, count)), progress.ids[0]
        )
        lengths = progress.lengths + count
        alive = progress.alive & (lengths < self.limit) & ~tf.reduce_any(self._ends(chosen))
        return progress._replace(
            ids=ids_L[None], lengths=lengths, log_probs=progress.log_probs + tf.reduce_sum(log_probs), alive=alive
        )

    def _ends(self, ids):
        return tf.reduce_any(ids[..., None] == self.stop_ids, -1)
