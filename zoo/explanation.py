"""Which tokens of a text an answer comes from.

    explanation = zoo.load("runs/bert/latest").explain("A dull film.", method="integrated_gradients")
    list(zip(explanation.tokens, explanation.scores))

What is explained is a number: the log-probability of a class, of what a language model goes on with, of what is written of a
source, of the word in a hole, or of the tag or the role of a word; with a contrast, how much larger it is than that of another
one (Yin and Neubig 2022). Each method gives each token of the text a score. Above 0 the token speaks for the target.

    gradient_x_input      x_t . df/dx_t, of the vectors x_t of the tokens (Shrikumar et al. 2016)
    integrated_gradients  x_t . integral over a from 0 to 1 of df/dx_t at a x (Sundararajan et al. 2017). The scores add up to
                          f(x) - f(0), where the vectors of the text are 0 and what stands around it is as it was
    occlusion             f(text) - f(text without the token) (Li et al. 2016); where words have tags, the unknown token takes
                          its place, so that every word still has its tag

Shape letters: B batch, T positions, P positions of a continuation, V vocabulary, C classes, W words.
"""

import contextlib
import dataclasses
import html
import json

import numpy as np
import tensorflow as tf

from zoo.config import Refusal, nearest
from zoo.data.words import blank_id
from zoo.layers import crf
from zoo.signatures.fill_mask import holes, token_logits
from zoo.signatures.words import characters_in_graph, words_in_graph, words_marked

METHODS = ("integrated_gradients", "gradient_x_input", "occlusion")
NUMBERS = 2**26  # that a pass makes at most: rows times tokens times width
ROWS = (16, 512)  # of a pass, the fewest and the most
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
PARTS = (0.0, 1 / 512, 1 / 64, 1 / 8, 1.0)  # of the path: shorter where vectors are small and norms turn
HALVINGS = 20  # of a part, at most: a trained recurrent model may change its mind within a millionth of the path
COMPLETE = 1e-3  # of the difference to be explained, or of 1 where that is less
GONE = -1  # instead of the id of a token that is left out and keeps its place
OF_WORDS = ("tagging", "semantic_roles")  # tasks whose answers are of words


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The scores of the tokens of a text.

    Attributes:
        method: one of `METHODS`.
        tokens: the text in pieces, strings.
        scores: a float for each token: above 0 it speaks for the target.
        target: the class or the continuation that is explained.
        contrast: the other one, or None.
        value: log p(target), natural, less log p(contrast) if there is one.
        baseline: the same with the vectors of the text set to 0; None for the other methods than integrated gradients.
        of: what the target is a tag or a role of, in words; None where it is an answer to the whole text.
    """

    method: str
    tokens: tuple
    scores: tuple
    target: str
    contrast: str | None
    value: float
    baseline: float | None = None
    of: str | None = None

    def to_dict(self):
        """The attributes as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def question(self):
        """What is explained, as a formula."""
        formula = f"log p({self.target!r})" + ("" if self.contrast is None else f" - log p({self.contrast!r})")
        return formula if self.of is None else f"{formula} of {self.of}"

    def shades(self):
        """Of each token a number from -1 to 1: its score by the largest."""
        largest = max(map(abs, self.scores), default=0.0) or 1.0
        return [score / largest for score in self.scores]

    def html(self):
        """A piece of HTML: the text, green where a token speaks for the target and red where it speaks against it."""
        spans = [
            f'<span title="{score:+.4f}" style="background: rgba({"0, 140, 60" if shade > 0 else "200, 30, 30"}, '
            f'{abs(shade):.2f})">{html.escape(token)}</span>'
            for token, score, shade in zip(self.tokens, self.scores, self.shades(), strict=True)
        ]
        caption = html.escape(f"{self.method.replace('_', ' ')} of {self.question} = {self.value:.4f}")
        return f'<figure><p style="white-space: pre-wrap">{"".join(spans)}</p><figcaption>{caption}</figcaption></figure>\n'


def explain(model, tokenizer, task, text, method="integrated_gradients", target=None, contrast=None, word=None, predicate=None):
    """The `Explanation` of an answer: of a classifier, of how a language model goes on, of what is written of a source, of the
    word in a hole, or of the tag or the role of a word.

    Args:
        model, tokenizer, task: those of a bundle.
        text: a string; with one hole, written as its tokenizer's mask token, for a masked language model.
        method: one of `METHODS`.
        target: the class; or the string that a language model may go on with, of one or more tokens, with the space before it
            if it has one; or what is written of a source, or its beginning; or the token in the hole; or the tag of a word.
            None for the likeliest class or token, or the tag that the model answers; of a source it is to be given.
        contrast: another one, to ask why the target and not that.
        word: of a tagger, the number of the word whose tag is explained, from 0.
        predicate: of semantic roles, the number of the predicate that the word has a role in.

    Raises:
        Refusal: a model of another task, an unknown method or class, an empty text, or one too long; a number that is missing,
            or of no word; integrated gradients that are not complete to 1e-3.
    """
    if method not in METHODS:
        raise Refusal(f"There is no method {method!r}; {nearest(method, METHODS)}")
    for name, given, tasks in (("word", word, OF_WORDS), ("predicate", predicate, OF_WORDS[1:])):
        if given is not None and task.registered_name not in tasks:
            made = task.registered_name
            raise Refusal(f"{name} is for {' and '.join(tasks)}, and this model was made for {made}; leave it out.")
    question = _question(model, tokenizer, task, text, target, contrast, word, predicate)
    value = float(question.values(question.ids[None])[0])
    baseline = None
    if method == "occlusion":
        scores = value - _without_each(question)
        scores[question.hole] = 0.0  # nothing can be said without the hole
    elif method == "gradient_x_input":
        (scores,) = _gradients(question, [1.0])[1]
    else:
        scores, baseline = _integrated(question)
        if abs(sum(scores) - (value - baseline)) > COMPLETE * max(1.0, abs(value - baseline)):
            raise Refusal("Integrated gradients are not complete to 1e-3; take the method occlusion.")
    tokens, scores = pieces(tokenizer, question.ids), tuple(float(score) for score in scores)
    tokens[question.hole] = [f"{' ' * bool(i)}{tokenizer.mask_token}" for i in range(len(tokens))[question.hole]]
    baseline = None if baseline is None else float(baseline)
    return Explanation(method, tuple(tokens), scores, question.target, question.contrast, value, baseline, question.of)


def pieces(tokenizer, ids):
    """What each id adds to the text of those before it, a list of strings. Where the bytes of a character are several tokens,
    the last of them has it."""
    shown, found = "", []
    for i in range(len(ids)):
        text = tokenizer.decode(ids[: i + 1])
        if text.endswith("\ufffd") and i + 1 < len(ids):
            found.append("")
            continue
        found.append(text[len(shown) :] if text.startswith(shown) else tokenizer.decode(ids[i : i + 1]))
        shown = text
    return found


def _question(model, tokenizer, task, text, target, contrast, word=None, predicate=None):
    """What is asked of a model of this task. Raises Refusal for a task that answers otherwise."""
    ids = np.array(tokenizer.encode(text), np.int32)
    if not len(ids):
        raise Refusal("The text is empty; there is no token to explain an answer by.")
    name, frame = task.registered_name, task.frame(model.kind, tokenizer)
    if name == "classification" and not task.facts.pair:
        return _ClassQuestion(model, tokenizer, task, text, target, contrast)
    if name == "language_modeling":
        return _NextQuestion(model, tokenizer, ids, target, contrast, frame.before)
    if name in OF_WORDS:
        return _TagQuestion(model, tokenizer, task, frame, text, target, contrast, word, predicate)
    if name == "masked_lm":
        return _HoleQuestion(model, tokenizer, frame, text, target, contrast)
    if name in ("translation", "summarization"):
        if target is None:
            raise Refusal("What is written of a source is explained; give the target that is written of it.")
        if model.kind == "encoder_decoder":
            return _SourceQuestion(model, tokenizer, frame, ids, target, contrast)
        return _NextQuestion(model, tokenizer, ids, target, contrast, frame.before, frame.after)
    what = "classifies pairs of texts" if name == "classification" else f"was made for {name}"
    raise Refusal(
        f"This model {what}; explanations are for classifiers of one text, taggers, semantic roles, language models, masked "
        "ones, translation and summarisation."
    )


class _Question:
    """A number that depends on the ids of a text.

    Attributes:
        ids: int32 (T,), the text, cut if the model cuts it.
        target, contrast: strings.
        hole: the slice of the text that is a hole; empty where there is none.
        width: numbers a token that a pass makes: about the logits.
        of: what the target is a tag or a role of, or None.
        stays: whether a token that is left out keeps its place, with `GONE` for its id.
    """

    hole, width, of, stays = slice(0), 4_096, None, False

    @property
    def rows(self):
        """How many rows a pass takes."""
        return int(np.clip(NUMBERS // (max(len(self.ids), 1) * self.width), *ROWS))

    def values(self, ids_BT, factors_BT=None):
        """float32 (B,): the number for each row of ids, the vectors of its tokens multiplied by factors."""
        total = self._log_probs(self.target, ids_BT, factors_BT)
        return total if self.contrast is None else total - self._log_probs(self.contrast, ids_BT, factors_BT)

    def _framed(self, ids_BT, factors_BT, before, behind):
        """Rows of ids with what stands around them, which keeps its vectors whole."""
        count = len(ids_BT)
        rows = np.concatenate([np.tile(np.array(part, np.int32), (count, 1)) for part in (before, behind)], 1)
        token_ids = np.concatenate([rows[:, : len(before)], ids_BT, rows[:, len(before) :]], 1)
        if factors_BT is None:
            return token_ids, None
        return token_ids, tf.concat([tf.ones((count, len(before))), factors_BT, tf.ones((count, len(behind)))], 1)


class _ClassQuestion(_Question):
    """log p(class | text)."""

    def __init__(self, model, tokenizer, task, text, target, contrast):
        self.model, self.task, self.labels = model, task, task.facts.labels
        self.frame, limit, leads = task.reading(model, tokenizer, task.facts.max_tokens or model.max_length)
        ids = np.array(tokenizer.encode(leads[0] + text), np.int32)
        room = len(ids) if limit is None else limit - self.frame.num_special()
        if len(ids) > room and task.config.overlong == "refuse":
            raise Refusal(f"The text has {len(ids)} tokens; this model takes at most {room}.")
        self.ids = ids[:room]
        for label in (target, contrast):
            if label is not None and label not in self.labels:
                raise Refusal(f"The model has no class {label!r}; {nearest(label, self.labels)}")
        if target is None:
            target = self.labels[int(np.argmax(self._all(self.ids[None], None)[0]))]
        self.target, self.contrast = target, contrast

    def _all(self, ids_BT, factors_BT):
        token_ids, factors_BT = self._framed(ids_BT, factors_BT, self.frame.before, self.frame.after)
        batch = {"token_ids": token_ids, "padding_mask": np.ones(token_ids.shape, bool)}
        if self.frame.segments:
            batch["segment_ids"] = np.zeros_like(token_ids)
        with _scaled(self.model, factors_BT):
            return tf.nn.log_softmax(self.task.tempered(tf.cast(self.task.forward(self.model, batch)[0], tf.float32)))

    def _log_probs(self, label, ids_BT, factors_BT):
        return self._all(ids_BT, factors_BT)[:, self.labels.index(label)]


class _NextQuestion(_Question):
    """log p(continuation | beginning of a document), the sum over the tokens of the continuation."""

    def __init__(self, model, tokenizer, ids, target, contrast, before, between=()):
        self.model, self.before, self.between, self.ids, self.width = model, before, between, ids, tokenizer.vocab_size
        self.continuations = _continuations(tokenizer, target, contrast)
        longest = max([len(some) for some in self.continuations.values()] or [1])
        _require_room(len(before) + len(ids) + len(between) + longest - 1, model, "text")
        if target is None:
            best = int(np.argmax(self._all(ids[None], None, ())[0, -1]))
            target = tokenizer.decode(np.array([best]))
            self.continuations[target] = np.array([best], np.int32)
        self.target, self.contrast = target, contrast

    def _all(self, ids_BT, factors_BT, behind):
        """float32 (B, T, V): log-probabilities of what follows each token."""
        token_ids, factors_BT = self._framed(ids_BT, factors_BT, self.before, (*self.between, *behind))
        with _scaled(self.model, factors_BT):
            return tf.nn.log_softmax(self.model.limited(self.model(token_ids)))

    def _log_probs(self, text, ids_BT, factors_BT):
        continuation = self.continuations[text]
        return _summed(self._all(ids_BT, factors_BT, continuation[:-1])[:, -len(continuation) :], continuation)


class _SourceQuestion(_Question):
    """log p(what is written | source), the sum over its tokens. The source alone is explained."""

    def __init__(self, model, tokenizer, frame, ids, target, contrast):
        self.model, self.frame, self.ids, self.target, self.contrast = model, frame, ids, target, contrast
        self.width = tokenizer.target.vocab_size
        self.continuations = _continuations(tokenizer.target, target, contrast)
        _require_room(len(ids) + frame.num_special(), model, "source")
        _require_room(max(map(len, self.continuations.values())), model, "target")

    def _log_probs(self, text, ids_BT, factors_BT):
        continuation = self.continuations[text]
        source_ids, factors_BT = self._framed(ids_BT, factors_BT, self.frame.before, self.frame.after)
        with _scaled(self.model, factors_BT):
            memory = self.model.encode(source_ids)
        start = np.array([*self.frame.target_start, *continuation[:-1]], np.int32)
        features_BPD, _ = self.model.features(np.tile(start, (len(ids_BT), 1)), memory=memory)
        log_probs = tf.nn.log_softmax(self.model.limited(self.model.project(features_BPD)))
        return _summed(log_probs[:, -len(continuation) :], continuation)


class _HoleQuestion(_Question):
    """log p(token in the hole | the text around it)."""

    def __init__(self, model, tokenizer, frame, text, target, contrast):
        self.model, self.frame, self.mask_id, self.width = model, frame, tokenizer.mask_id, tokenizer.vocab_size
        batch, _ = _checked(holes, model, tokenizer, frame, tf.constant([text]))
        row = np.asarray(batch["token_ids"])[0]
        self.ids = row[len(frame.before) : len(row) - len(frame.after)]
        places = np.flatnonzero(self.ids == self.mask_id)
        if len(places) != 1:
            raise Refusal(f"The text has {len(places)} holes written {tokenizer.mask_token}; one at a time is explained.")
        self.hole = slice(places[0], places[0] + 1)
        self.answers = {}
        for word, ids in _continuations(tokenizer, target, contrast).items():
            if len(ids) != 1:
                raise Refusal(f"A hole takes one token, and {word!r} has {len(ids)}; give one of the vocabulary.")
            self.answers[word] = int(ids[0])
        if target is None:
            best = int(np.argmax(self._all(self.ids[None], None)[0]))
            target = tokenizer.decode(np.array([best]))
            self.answers[target] = best
        self.target, self.contrast = target, contrast

    def _all(self, ids_BT, factors_BT):
        token_ids, factors_BT = self._framed(ids_BT, factors_BT, self.frame.before, self.frame.after)
        place_B1 = np.argmax(token_ids == self.mask_id, axis=1)[:, None].astype(np.int32)
        batch = {"token_ids": token_ids, "padding_mask": np.ones(token_ids.shape, bool), "label_positions": place_B1}
        with _scaled(self.model, factors_BT):
            return tf.nn.log_softmax(token_logits(self.model, batch)[:, 0])

    def _log_probs(self, word, ids_BT, factors_BT):
        return self._all(ids_BT, factors_BT)[:, self.answers[word]]


class _TagQuestion(_Question):
    """log p(tag of a word | sentence), with a CRF its marginal; or log p(role of a word | sentence, predicate)."""

    stays = True

    def __init__(self, model, tokenizer, task, frame, text, target, contrast, word, predicate):
        self.model, self.task, self.frame, self.blank = model, task, frame, blank_id(tokenizer)
        limit, labels = task.facts.max_tokens or model.max_length, task.facts.labels
        cut = characters_in_graph if task.texts_are == "characters" else tf.strings.split
        arguments = (tf.constant([text]), tokenizer, frame, limit, model.takes, cut)
        words, self.batch, self.real_1W = _checked(words_in_graph, *arguments)
        words = [one.decode() for one in words.numpy()[0]]
        self.word, self.of = _placed(word, words, "word"), f"the word {words[word]!r}"
        if task.registered_name == "semantic_roles":
            _placed(predicate, words, "predicate")
            self.of += f" beside {words[predicate]!r}"
            marks = words_marked(self.batch, self.real_1W, [0], [predicate], len(frame.after))
            self.batch["segment_ids"] = marks
        row = self.batch.pop("token_ids").numpy()[0]
        self.ids = row[len(frame.before) : len(row) - len(frame.after)]
        for label in (target, contrast):
            if label is not None and label not in labels:
                raise Refusal(f"The model has no tag {label!r}; {nearest(label, labels)}")
        if target is None:
            outputs = self._outputs(self.ids[None], None)
            tags_1W = task.best(outputs[0], self.real_1W) if predicate is not None else task.best(outputs, self.real_1W)[0]
            target = labels[int(tags_1W[0, word])]
        self.target, self.contrast = target, contrast

    def _outputs(self, ids_BT, factors_BT):
        """What the task's model gives for rows of the sentence, in which some tokens may be gone."""
        gone_BT = ids_BT == GONE
        token_ids, factors_BT = self._framed(
            np.where(gone_BT, self.blank, ids_BT), factors_BT, self.frame.before, self.frame.after
        )
        batch = {name: tf.repeat(value, len(ids_BT), axis=0) for name, value in self.batch.items()}
        if "characters" in batch:
            there_BT, _ = self._framed(~gone_BT, None, [True] * len(self.frame.before), [True] * len(self.frame.after))
            batch["characters"] *= tf.cast(there_BT, tf.int32)[..., None]
        with _scaled(self.model, factors_BT):
            return self.task.tempered(self.task.forward(self.model, {**batch, "token_ids": token_ids})[0])

    def _log_probs(self, label, ids_BT, factors_BT):
        outputs, number = self._outputs(ids_BT, factors_BT), self.task.facts.labels.index(label)
        if self.task.registered_name == "tagging" and self.task.config.crf:
            real_BW = tf.repeat(self.real_1W, len(ids_BT), axis=0)
            allowed_BWC = np.ones(outputs[0].shape, bool)
            allowed_BWC[:, self.word] = np.arange(allowed_BWC.shape[-1]) == number
            return crf.multitag_log_likelihood(outputs[0], allowed_BWC, outputs[1], real_BW)
        logits_BWC = outputs[0] if self.task.registered_name == "semantic_roles" else outputs
        return tf.nn.log_softmax(tf.cast(logits_BWC, tf.float32))[:, self.word, number]


def _placed(number, words, name):
    """The number of a word. Raises Refusal where it is missing, or of no word."""
    if not words:
        raise Refusal("The text has no words; there is no tag to explain.")
    if number is None or isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(words):
        got = "nothing" if number is None else repr(number)
        raise Refusal(f"{name} must be the number of one of the text's {len(words)} words, from 0; got {got}.")
    return number


def _continuations(tokenizer, *texts):
    """Text -> ids int32, of those that are given. Raises Refusal for an empty one."""
    found = {text: np.array(tokenizer.encode(text), np.int32) for text in texts if text is not None}
    if any(not len(ids) for ids in found.values()):
        raise Refusal("The text to go on with is empty; give at least one token.")
    return found


def _require_room(length, model, what):
    if model.max_length is not None and length > model.max_length:
        with_what = " with what goes on" if what == "text" else ""
        raise Refusal(f"The {what} has {length} tokens{with_what}; this model takes at most {model.max_length}.")


def _checked(function, *args):
    """What a function of a signature answers. Raises Refusal with its sentence, where it refuses."""
    try:
        return function(*args)
    except tf.errors.InvalidArgumentError as error:
        raise Refusal(error.message) from None


def _summed(log_probs_BPV, continuation):
    """float32 (B,): the sum over the tokens of a continuation."""
    labels = tf.tile(continuation[None], (log_probs_BPV.shape[0], 1))
    return tf.reduce_sum(tf.gather(log_probs_BPV, labels, axis=2, batch_dims=2), 1)


@contextlib.contextmanager
def _scaled(model, factors_BT):
    """While this is on, the vectors of the tokens that a model reads are multiplied by factors (B, T), or not if None."""
    if factors_BT is None:
        yield
        return
    model = model.without_head()
    owner, name = model.token_vectors()
    original = getattr(owner, name)

    def scaled(*args, **kwargs):
        values = original(*args, **kwargs)
        if kwargs.get("reverse") or len(values) != len(factors_BT):  # or of the words of classes, which are not text
            return values
        return model.scaled_tokens(values, factors_BT)

    setattr(owner, name, scaled)
    try:
        yield
    finally:
        delattr(owner, name)


def _gradients(question, points):
    """The numbers f(a x) at points a, float64 (N,), and what each token adds to df/da there, float64 (N, T).

    A token's factor multiplies all of its vector, so the derivative by the factor is x_t . df/d(a x_t).
    """
    values, gradients = [], []
    for start in range(0, len(points), question.rows):
        some = np.asarray(points[start : start + question.rows])
        factors = tf.constant(np.tile(some[:, None], (1, len(question.ids))), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(factors)
            value = question.values(np.tile(question.ids, (len(some), 1)), factors)
        gradients.append(np.asarray(tape.gradient(value, factors), np.float64))
        values.append(np.asarray(value, np.float64))
    return np.concatenate(values), np.concatenate(gradients)


def _integrated(question):
    """Integrated gradients, (T,), and the number at vectors of 0. Raises Refusal when they do not add up.

    They add up over any part of the path. So a part over which they do not is halved, until they do.
    """
    scores, baseline, steps = 0.0, None, 0
    starts, ends = np.array(PARTS[:-1]), np.array(PARTS[1:])
    for _ in range(HALVINGS):
        count = len(starts)
        middle, half = (starts + ends) / 2, (ends - starts) / 2
        nodes = (middle[:, None] + half[:, None] * NODES).ravel()
        values, gradients = _gradients(question, np.concatenate([starts, ends, nodes]))
        if baseline is None:
            baseline, steepest = values[0], max(1.0, abs(values[2 * count - 1] - values[0]))
        parts = np.einsum("pnt,n,p->pt", gradients[2 * count :].reshape(count, len(NODES), -1), WEIGHTS, half)
        gaps = np.abs(parts.sum(1) - (values[count : 2 * count] - values[:count]))
        open_ = gaps > COMPLETE * steepest / 32
        scores, steps = scores + parts[~open_].sum(0), steps + len(nodes)
        if not open_.any():
            return scores, baseline
        starts, ends = np.concatenate([starts[open_], middle[open_]]), np.concatenate([middle[open_], ends[open_]])
    raise Refusal(
        f"Integrated gradients are not complete after {steps:,} steps: over {open_.sum()} parts of the path they differ by "
        f"{gaps[open_].sum():.4f} from what is explained; take the method occlusion."
    )


def _without_each(question):
    """float (T,): the number for the text without each of its tokens."""
    count = len(question.ids)
    rows = np.where(np.eye(count, dtype=bool), GONE, question.ids) if question.stays else _shortened(question.ids)
    starts = range(0, count, question.rows)
    return np.concatenate([np.asarray(question.values(rows[start : start + question.rows])) for start in starts])


def _shortened(ids):
    """Ids (T, T - 1): of each row all but one."""
    count = len(ids)
    kept = np.arange(count)[None] + (np.arange(count)[None] >= np.arange(count)[:, None])
    return np.append(ids, 0)[kept[:, : count - 1]]
