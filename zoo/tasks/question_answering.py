"""Extractive question answering: which span of a context answers a question, or that none does.

Words are what stands between white space, with every punctuation mark a word of its own, and every character of writing that
puts no blanks between words (Chinese, Japanese, Thai, ...). A span goes from a word to a word, so its ends are byte offsets of
the context as it was given, whatever the tokenizer made of it. An answer that begins or ends inside a word is widened to the
word; the run counts these answers and tells.

A long context is read in windows of its tokens that overlap by `stride`; the best span over all windows is the answer. Training
data is cut by the very function that cuts requests.

Shape letters: B batch, K windows of a context, T positions, C tokens of a context in a window, W words, D hidden.
"""

import collections
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.examples import ExampleBatches, framed_texts, in_order
from zoo.layers.heads import IMPOSSIBLE, SpanHead
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import same_rows, signature
from zoo.tasks.base import Task
from zoo.tokenizers.base import byte_values, row_ids, valid_utf8

BLANKS = (9, 10, 11, 12, 13, 32)
# Blanks of two and of three bytes: no-break, narrow, wide ones and those of no width. As many plain ones take their place.
LONG_BLANKS = (
    (r"[\x{85}\x{a0}]", "  "),
    (r"[\x{1680}\x{2000}-\x{200b}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}]", "   "),
)
MARKS = 3
READ_TOGETHER = 32
MATCHED = 2  # the segment of matching tokens, after those of question and context


@dataclass(frozen=True)
class QuestionAnsweringConfig(TaskConfig):
    """How questions are read and answered.

    Attributes:
        max_question: most tokens of a question; what is more is cut.
        stride: tokens by which a window overlaps the one before.
        max_answer: most words of an answer.
        match: whether a token of the context that the question holds too is marked, by a segment of its own: the exact match of
            Chen et al. 2017, section 3.2. A trained encoder finds such tokens itself; one from scratch learns little without.
        head_dropout: rate in the head.
    """

    max_question: int = 24
    stride: int = 16
    max_answer: int = 40
    match: bool = False
    head_dropout: float = 0.1

    kinds: ClassVar = ("encoder",)
    needs_context: ClassVar = True
    recipe: ClassVar = dict(
        dataset="python_docs/question_answering", vocab_size=2_048, steps=2_000, learning_rate=4e-3, optimizer="muon",
        warmup_steps=50, set=("match=true",),
    )  # fmt: skip

    def validate(self):
        self.require_positive("max_question", "stride", "max_answer")
        self.require_rate("head_dropout")

    def output(self, model_config, seq_length, facts=None):
        width = model_config.cost(seq_length).hidden_dim
        return Output(seq_length, 2, (width + 1) * 2, (width + 1) * 2)

    def room(self, max_tokens):
        """Tokens of the context in a window of `max_tokens`. Raises Refusal when that is not more than the stride."""
        room = max_tokens - self.max_question - MARKS
        self.require(
            room > self.stride,
            f"windows of {max_tokens} tokens leave {room} for the context beside a question of {self.max_question}, "
            f"which must be more than the stride of {self.stride}; raise --seq_length, or lower max_question or stride.",
        )
        return room


@dataclass(frozen=True)
class QuestionAnsweringFacts(Config):
    """What the training examples told.

    Attributes:
        no_answer: whether a question may have no answer in its context.
        max_tokens: most tokens of a window, question and special ones included: the run's --seq_length.
    """

    no_answer: bool = False
    max_tokens: int = 0


class Questions:
    """Questions of a split, cut into windows.

    Attributes:
        batch: dict of arrays (windows, T), and `labels` int32 (windows, 2), the positions of the first and last word's tokens.
        words: int32 (windows, T), which word of its context a candidate position begins.
        questions: int (windows,), which question each window is of.
        contexts: list of (bytes of the context, byte starts, byte ends of its words).
        answers: list of lists of strings; empty where there is none.
        remarks: sentences about what was changed to what can be expressed, with how often.
    """

    def __init__(self, batch, words, questions, contexts, answers, remarks):
        self.batch, self.words, self.questions, self.contexts, self.answers = batch, words, questions, contexts, answers
        self.remarks = remarks

    def __len__(self):
        return len(self.questions)

    @property
    def units(self):
        """What each window belongs to: its question."""
        return self.questions

    def take(self, chosen):
        """Those windows alone, int (windows,)."""
        batch = {name: values[chosen] for name, values in self.batch.items()}
        return Questions(batch, self.words[chosen], self.questions[chosen], self.contexts, self.answers, self.remarks)


@TASKS.register("question_answering", QuestionAnsweringConfig)
class QuestionAnswering(Task):
    """loss = -sum over windows of (log p(start) + log p(end)) / 2, count = windows; the first token stands for no answer.

    Example:
        >>> QuestionAnswering().inspect([{"question": "Who sat?", "context": "It rained.", "answers": []}]).no_answer
        True
    """

    facts_class = QuestionAnsweringFacts
    reads = "examples"
    fields = ("question", "context", "answers")
    shown = ("loss", "exact_match", "f1")

    def texts(self, example):
        return [example.get("question"), example.get("context")]

    def inspect(self, examples):
        return self.learn(no_answer=any(not example.get("answers") for example in examples))

    def encode(self, examples, tokenizer, layout):
        self.learn(max_tokens=layout.seq_length)
        self.config.room(layout.seq_length)
        checked = [_checked(example, number) for number, example in enumerate(examples, 1)]
        cut = tf.function(
            lambda q, c: windows(q, c, tokenizer, self.config, layout.seq_length), autograph=False, reduce_retracing=True
        )
        parts, words, questions, contexts, answers = [], [], [], [], []
        counts = collections.Counter(moved=sum(e[4] for e in checked))
        lengths = map(len, tokenizer.encode_batch([e[0] for e in checked]))
        counts["cut"] = sum(length > self.config.max_question for length in lengths)
        for first in range(0, len(checked), READ_TOGETHER):
            some = checked[first : first + READ_TOGETHER]
            batch, word, starts, ends = cut(tf.constant([e[0] for e in some]), tf.constant([e[1] for e in some]))
            batch, word = {name: value.numpy() for name, value in batch.items()}, word.numpy()
            starts, ends = (np.split(of.flat_values.numpy(), of.row_splits.numpy()[1:-1]) for of in (starts, ends))
            for i, (_, context, texts, begins, _) in enumerate(some):
                spans = starts[i], ends[i]
                wanted, whole = _word_span(context, texts, begins, spans, first + i + 1)
                counts["widened"] += not whole
                counts["long"] += wanted is not None and wanted[1] - wanted[0] >= self.config.max_answer
                real = np.flatnonzero(batch["candidates"][i][:, 1:].any(1))
                real = real if len(real) else np.zeros(1, int)
                for k in real:
                    row = {name: value[i, k] for name, value in batch.items()}
                    parts.append({**row, "labels": _labels(word[i, k], row["candidates"], wanted)})
                    words.append(word[i, k])
                    questions.append(first + i)
                missed = not any(part["labels"].any() for part in parts[-len(real) :])
                counts["nowhere"] += wanted is not None and missed
                contexts.append((context, *spans))
                answers.append(texts)
        batch = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        return Questions(batch, np.stack(words), np.array(questions), contexts, answers, self._remarks(counts))

    def size(self, data):
        remarks = f" ({'; '.join(data.remarks)})" if data.remarks else ""
        return f"{len(data.contexts):,} questions in {len(data):,} windows{remarks}"

    def _remarks(self, counts):
        sentences = {
            "moved": "answers do not stand at their start: the nearest place is taken",
            "cut": f"questions are cut to max_question={self.config.max_question} tokens",
            "widened": "answers are widened to whole words",
            "long": f"answers are longer than max_answer={self.config.max_answer} words",
            "nowhere": "answers stand whole in no window; raise stride or --seq_length",
        }
        return [f"{counts[name]:,} {sentence}" for name, sentence in sentences.items() if counts[name]]

    def training_batches(self, data, model, tokenizer, layout):
        return ExampleBatches(len(data), layout.batch_size, layout.seed, lambda chosen, step: _batch(data, chosen))

    def evaluation_batches(self, data, model, tokenizer, layout):
        return in_order(len(data), layout.batch_size, lambda chosen: _batch(data, chosen))

    def model_fields(self, tokenizer):
        return {**super().model_fields(tokenizer), **({"num_segments": MATCHED + 1} if self.config.match else {})}

    def head(self, model):
        return SpanHead(self.config.head_dropout, name="span")

    def loss(self, batch, outputs):
        log_z, losses = _cross_entropy(batch, outputs)
        if self.label_smoothing or self.z_loss:  # over the positions that could be labels
            possible = ops.cast(ops.expand_dims(batch["candidates"], -1), "float32")
            even = log_z - ops.sum(outputs * possible, axis=1) / ops.sum(possible, axis=1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * even + self.z_loss * log_z**2
        weights = ops.cast(batch["loss_weights"], "float32")
        return ops.sum(ops.mean(losses, axis=1) * weights), ops.sum(weights)

    def score(self, model, batch, state=None):
        logits, _ = self.forward(model, batch)
        weights = ops.cast(batch["loss_weights"], "float32")
        nats = ops.sum(ops.mean(_cross_entropy(batch, logits)[1], axis=1) * weights)
        return {"nats": nats, "windows": ops.sum(weights)}, {"logits": logits, "weights": batch["loss_weights"]}, None

    def metrics(self, totals, rows, data):
        """`loss` in nats a window, `exact_match` and `f1` of questions as SQuAD (and for Chinese CMRC) defines them."""
        exact, overlap = self._of_questions(rows, data)
        loss = float(totals["nats"]) / float(totals["windows"])
        return {
            "loss": loss, "exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap)), "num_questions": len(exact)
        }  # fmt: skip

    def samples(self, rows, data):
        """`exact_match` and `f1` of questions."""
        exact, overlap = self._of_questions(rows, data)
        return {"exact_match": metrics.Sample.mean(exact), "f1": metrics.Sample.mean(overlap)}

    def _of_questions(self, rows, data):
        """Two lists with the exact match and the F1 of each question."""
        real = np.concatenate(rows["weights"]) > 0
        logits = np.concatenate(rows["logits"])[real]
        found = {}
        for window, question in enumerate(data.questions.tolist()):
            found.setdefault(question, []).append(window)
        exact, overlap = [], []
        for question, numbers in found.items():
            answer = self._answer(logits[numbers], data.words[numbers], data.contexts[question])
            wanted = data.answers[question] or [""]
            exact.append(max(metrics.exact_match(answer, text) for text in wanted))
            overlap.append(max(metrics.overlap_f1(answer, text) for text in wanted))
        return exact, overlap

    def _answer(self, logits, words, context):
        """The best span of a question's windows, as text; empty where no answer is likelier."""
        text, starts, ends = context
        best, start, end = best_spans(tf.constant(logits)[None], tf.constant(words)[None], self.config.max_answer)
        none = float(np.min(logits[:, 0].sum(1)))
        if not len(starts) or best[0] < IMPOSSIBLE / 2 or (self.facts.no_answer and none > best[0]):
            return ""
        return text[starts[int(start[0])] : ends[int(end[0])]].decode("utf8", "replace")

    def signatures(self, model, tokenizer):
        """`serving_default` = `answer`: `question`, `context` string (B,) -> `answer` string (B,), `start` and `end` int32
        (B,), byte offsets in the context; `score` float32 (B,), the log-odds against no answer. -1 and an empty string for
        none.
        `embed` besides."""
        config, facts = self.config, self.facts
        string = tf.TensorSpec([None], tf.string)

        @signature(string, string)
        def answer(question, context):
            question, context = same_rows(question=question, context=context)
            batch, words, starts, ends = windows(question, context, tokenizer, config, facts.max_tokens)
            flat = {name: tf.reshape(value, [-1, tf.shape(value)[2]]) for name, value in batch.items()}
            logits = self.forward(model, flat)[0]
            logits = tf.reshape(logits, tf.concat([tf.shape(words), [2]], 0))
            best, first, last = best_spans(logits, words, config.max_answer)
            # A shorter context has windows that are only there because another row's context is longer.
            real = tf.reduce_any(words >= 0, 2) | (tf.range(tf.shape(words)[1]) == 0)
            none = tf.reduce_min(tf.where(real, tf.reduce_sum(logits[:, :, 0], -1), float("inf")), 1)
            there = best > IMPOSSIBLE / 2
            if facts.no_answer:
                there &= best >= none
            start = _at(starts, first, there)
            end = _at(ends, last, there)
            text = tf.strings.substr(valid_utf8(context), tf.maximum(start, 0), tf.maximum(end, 0) - tf.maximum(start, 0))
            return {"answer": text, "start": start, "end": end, "score": tf.where(there, best - none, 0.0)}

        return {"serving_default": answer, "answer": answer, **embedding.beside_a_head(model, tokenizer)}

    def requests(self, model, tokenizer):
        context = "abs: Return the absolute value.\nlen: Return the number of items, 東京 and all. " * 3
        inputs = {"question": ["What does abs do?", "?", ""], "context": [context, "naïve", ""]}
        requests = [("serving_default", inputs), ("answer", {name: value[:1] for name, value in inputs.items()})]
        return requests + embedding.requests_beside_a_head(model)


def _cross_entropy(batch, logits):
    """log Z and -log p(label) of where an answer starts and where it ends, float32 (B, 2) both."""
    log_z = ops.logsumexp(logits, axis=1)
    return log_z, log_z - ops.take_along_axis(logits, ops.expand_dims(batch["labels"], 1), axis=1)[:, 0]


def words_with_offsets(texts):
    """string (B,) -> words string, and their byte starts and ends int32, ragged (B, W) all three."""
    unspaced = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in metrics.UNSPACED)
    for pattern, plain in LONG_BLANKS:  # as many bytes as before: offsets stay
        texts = tf.strings.regex_replace(texts, pattern, plain)
    words = tf.strings.split(tf.strings.regex_replace(texts, rf"([\p{{P}}\p{{S}}\p{{Han}}{unspaced}])", r" \1 "))
    data = byte_values(texts)
    blank = tf.reduce_any(data.flat_values[:, None] == tf.constant(BLANKS)[None], 1)
    # The words' bytes are the text's bytes without its white space, in the same order.
    place = tf.range(tf.size(data.flat_values)) - tf.gather(tf.cast(data.row_splits, tf.int32), row_ids(data))
    place = tf.boolean_mask(place, ~blank)
    ends = tf.cumsum(tf.strings.length(words.flat_values))
    starts = ends - tf.strings.length(words.flat_values)
    return words, words.with_flat_values(tf.gather(place, starts)), words.with_flat_values(tf.gather(place, ends - 1) + 1)


def windows(questions, contexts, tokenizer, config, max_tokens):
    """Questions and contexts, string (B,), as windows.

    A question of one token, five words of one token each in the context, windows of 3 that overlap by 1 (`stride`):

        [CLS] who [SEP] anna met ben [SEP]       words  -1 -1 -1 0 1 2 -1
        [CLS] who [SEP] ben at noon [SEP]        words  -1 -1 -1 2 3 4 -1

    Returns:
        A batch of `token_ids`, `segment_ids`, `padding_mask` and `candidates` (where an answer may start or end: the first
        token of a word, or of the row, which stands for no answer), all (B, K, T); int32 (B, K, T), which word a candidate
        begins; the byte starts and ends of words, ragged (B, W).
    """
    contexts = valid_utf8(contexts)
    words, starts, ends = words_with_offsets(contexts)
    row = row_ids(words)
    is_first = tf.range(tf.size(row), dtype=tf.int64) == tf.gather(words.row_splits, row)
    pieces = tokenizer.tokenize(tf.where(is_first, words.flat_values, tf.strings.join([" ", words.flat_values])))
    splits = tf.gather(pieces.row_splits, words.row_splits)
    tokens = tf.RaggedTensor.from_row_splits(pieces.flat_values, splits, validate=False)
    word = tf.cast(row_ids(pieces), tf.int64)
    opens = tf.concat([[-1], tf.cast(word, tf.int32)], 0)[:-1] != tf.cast(word, tf.int32)
    number = tf.where(opens, tf.cast(word - tf.gather(words.row_splits, tf.cast(row_ids(tokens), tf.int64)), tf.int32), -1)

    room = config.room(max_tokens)
    step = room - config.stride
    longest = tf.cast(tf.reduce_max(tf.concat([tokens.row_lengths(), [1]], 0)), tf.int32)
    count = tf.maximum((longest - config.stride + step - 1) // step, 1)
    index = tf.range(count)[:, None] * step + tf.range(room)[None]
    width = count * step + room
    shape = tf.stack([tokens.nrows(), tf.cast(width, tf.int64)])
    ids_BKC = tf.gather(tokens.to_tensor(tokenizer.pad_id, shape=shape), index, axis=1)
    word_BKC = tf.gather(tokens.with_flat_values(number).to_tensor(-1, shape=shape), index, axis=1)
    real_BKC = tf.gather(tf.sequence_mask(tokens.row_lengths(), width), index, axis=1)
    return *_rows(questions, tokenizer, config, max_tokens, ids_BKC, word_BKC, real_BKC), starts, ends


def _rows(questions, tokenizer, config, max_tokens, ids_BKC, word_BKC, real_BKC):
    """[CLS] question [SEP] window [SEP], padded: the batch (B, K, T) and the words (B, K, T)."""
    frame = framed_texts("encoder", tokenizer)
    (begin,), (end,) = frame.before, frame.after
    asked = tokenizer.tokenize(questions)[:, : config.max_question]
    column = tf.zeros([tf.shape(questions)[0], 1], tf.int32)
    asked = tf.concat([column + begin, asked, column + end], 1)
    length = tf.cast(asked.row_lengths(), tf.int32)[:, None, None]
    asked = asked.to_tensor(tokenizer.pad_id, shape=[None, config.max_question + 2])
    used = tf.reduce_sum(tf.cast(real_BKC, tf.int32), 2, keepdims=True)
    place = tf.range(max_tokens)[None, None]
    within = place - length  # position in the window
    shown = (within >= 0) & (within < used)
    source = tf.clip_by_value(within, 0, tf.shape(ids_BKC)[2] - 1) + tf.zeros_like(used)
    ids = tf.where(shown, tf.gather(ids_BKC, source, batch_dims=2), tokenizer.pad_id)
    ids = tf.where(within == used, end, ids)
    front = tf.gather(asked, tf.minimum(tf.range(max_tokens), config.max_question + 1), axis=1)[:, None]
    ids = tf.where(within < 0, front, ids)
    word = tf.where(shown, tf.gather(word_BKC, source, batch_dims=2), -1)
    segments = tf.cast((within >= 0) & (within <= used), tf.int32)
    if config.match:
        held = tf.reduce_any(ids[..., None] == asked[:, None, None], -1)
        segments = tf.where(shown & held, MATCHED, segments)
    batch = {
        "token_ids": ids,
        "segment_ids": segments,
        "padding_mask": within <= used,
        "candidates": (word >= 0) | (place == 0),
    }
    return batch, word


def best_spans(logits, words, max_answer):
    """The likeliest span of each question over its windows.

    Args:
        logits: float32 (B, K, T, 2).
        words: int32 (B, K, T), which word each position begins, -1 for none.
        max_answer: most words of a span.

    Returns:
        float32 (B,), the sum of its two logits; int32 (B,) and (B,), its first and last word.
    """
    order = words[:, :, None, :] - words[:, :, :, None]  # of a later position's word over an earlier one's
    possible = (words[:, :, :, None] >= 0) & (words[:, :, None, :] >= 0) & (order >= 0) & (order < max_answer)
    sums = tf.where(possible, logits[..., 0][:, :, :, None] + logits[..., 1][:, :, None, :], 2 * IMPOSSIBLE)
    shape = tf.shape(sums)
    flat = tf.reshape(sums, [shape[0], -1])
    best = tf.argmax(flat, 1, tf.int32)
    window, place = best // (shape[2] * shape[3]), best % (shape[2] * shape[3])
    row = tf.gather(words, window, batch_dims=1)
    first, last = (tf.gather(row, at, batch_dims=1) for at in (place // shape[3], place % shape[3]))
    return tf.gather(flat, best, batch_dims=1), first, last


def _at(ragged, index, there):
    """The value of each row at `index`, int32 (B,), or -1 where `there` is False."""
    flat = tf.concat([ragged.flat_values, [-1]], 0)
    place = tf.cast(ragged.row_splits[:-1], tf.int32) + tf.maximum(index, 0)
    return tf.where(there, tf.gather(flat, tf.where(there, place, 0)), -1)


def _batch(data, chosen):
    batch = {name: values[chosen] for name, values in data.batch.items()}
    return {**batch, "loss_weights": np.ones(len(chosen), np.float32)}


def _checked(example, number):
    """(question, context as bytes, answers, their starts in characters, how many of these are not what the data says). Raises
    Refusal for what cannot be."""
    question, context = example.get("question"), example.get("context")
    for name, text in (("question", question), ("context", context)):
        if not text:
            raise Refusal(f"Example {number} has an empty {name}.")
        if not isinstance(text, str):
            raise Refusal(f"Example {number} has {text!r:.60} as its {name}, which must be a string.")
    answers, starts = example.get("answers") or [], example.get("answer_starts") or []
    if not (isinstance(answers, list | tuple) and isinstance(starts, list | tuple)):
        raise Refusal(f"Example {number} must have lists as `answers` and `answer_starts`, got {answers!r:.60}.")
    answers, starts = list(answers), list(starts)
    if len(answers) != len(starts):
        raise Refusal(f"Example {number} has {len(answers)} answers and {len(starts)} starts of them.")
    moved = 0
    for i, answer in enumerate(answers):
        if not isinstance(answer, str) or not isinstance(starts[i], int):
            raise Refusal(f"Example {number} has the answer {answer!r:.60} at {starts[i]!r:.20}; they are a text and a number.")
        if answer.strip() and answer in context:
            start = _start(context, answer, starts[i])
            moved += start != starts[i] and context.count(answer) > 1
            starts[i] = start
        elif starts[i] >= 0 or not any(other in context for other in answers):  # -1: in other words than the context's
            raise Refusal(f"Example {number} has the answer {answer!r:.60}, which is not in its context.")
    return question, context.encode("utf8"), answers, starts, moved


def _start(context, answer, start):
    """Where an answer stands in its context, in characters: at `start`, at the character that so many bytes or UTF-16 units
    are in front of, or at the place nearest to it."""
    if start >= 0 and context.startswith(answer, start):
        return start
    places, place = [], context.find(answer)
    while place >= 0:
        places.append(place)
        place = context.find(answer, place + 1)
    for encoding, size in (("utf-8", 1), ("utf-16-le", 2)):
        for place in places:
            if len(context[:place].encode(encoding)) == start * size:
                return place
    return min(places, key=lambda place: abs(place - start))


def _word_span(context, answers, starts, spans, number):
    """(first word, last word) of the first answer that is in the context, or None without one; and whether these words are the
    answer and no more."""
    if not answers:
        return None, True
    answer, start = next((text, start) for text, start in zip(answers, starts, strict=True) if start >= 0)
    before = len(context.decode("utf8")[:start].encode("utf8"))
    after = before + len(answer.encode("utf8"))
    inside = np.flatnonzero((spans[0] < after) & (spans[1] > before))
    if not len(inside):
        raise Refusal(f"Example {number} has the answer {answer!r:.60}, in which there is no word.")
    first, last = int(inside[0]), int(inside[-1])
    # Blanks at the answer's ends are not part of it.
    answer_in_context = context[before:after]
    whole = context[spans[0][first] : spans[1][last]].strip() == answer_in_context.strip()
    return (first, last), whole


def _labels(words, candidates, wanted):
    """int32 (2,): positions of the first tokens of the answer's first and last word, (0, 0) if the window has not both."""
    if wanted is not None:
        first, last = (np.flatnonzero(candidates & (words == word)) for word in wanted)
        if len(first) and len(last):
            return np.array([first[0], last[0]], np.int32)
    return np.zeros(2, np.int32)
