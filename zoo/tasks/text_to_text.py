"""Text to text: translation and summarisation, by encoder-decoders and by language models.

Shape letters: B batch, T target positions, V vocabulary.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics, text_metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.examples import Frame, in_order, kept_lengths
from zoo.data.parallel import Pair, PairBatches, PairRows, TokenBudgetBatches
from zoo.registry import TASKS
from zoo.signatures.streaming_pairs import streaming_pair_requests, streaming_pair_signatures
from zoo.signatures.text_to_text import decode, text_to_text_requests, text_to_text_signatures
from zoo.tasks.base import Task, texts_to_type

BLEU_TOKENIZERS = ("13a", "none", "intl", "zh", "char")


@dataclass(frozen=True)
class TranslationConfig(TaskConfig):
    """How pairs are read and judged.

    Attributes:
        overlong: what becomes of texts that do not fit: `cut` (and counted), or `refuse`.
        judged: how many pairs of a split are decoded and judged; 0 for none.
        judged_beams: how many beams the search for them has; 1 decodes greedily.
        bleu_tokenize: how sacrebleu cuts words: 13a, none, intl, zh or char.
        batch_tokens: rows times width of a batch, padding included, of the source and of the target alike; 0 for batches of
            --batch_size rows.
        separate_vocabularies: whether sources and targets have a tokenizer of their own, each of --vocab_size.
    """

    overlong: str = "cut"
    judged: int = 1_000
    judged_beams: int = 1
    bleu_tokenize: str = "13a"
    batch_tokens: int = 0
    separate_vocabularies: bool = False

    kinds: ClassVar = ("encoder_decoder", "language_model")
    least_seq_length: ClassVar = 4
    recipe: ClassVar = dict(dataset="cldr/en-fr")

    def validate(self):
        self.require(self.overlong in ("cut", "refuse"), f"overlong is cut or refuse, got {self.overlong!r}.")
        self.require(self.judged >= 0, f"judged must not be negative, got {self.judged}.")
        self.require_positive("judged_beams")
        self.require(self.batch_tokens >= 0, f"batch_tokens must not be negative, got {self.batch_tokens}.")
        known = self.bleu_tokenize in BLEU_TOKENIZERS
        self.require(known, f"bleu_tokenize is one of {', '.join(BLEU_TOKENIZERS)}, got {self.bleu_tokenize!r}.")

    def output(self, model_config, seq_length, facts=None):
        return Output.of_tokens(model_config, seq_length, seq_length)


@dataclass(frozen=True)
class SummarizationConfig(TaskConfig):
    """How texts and their summaries are read and judged.

    Attributes:
        overlong, judged, judged_beams, batch_tokens, separate_vocabularies: as for translation.
        lang: `en`, or `zh`: ROUGE then counts characters.
    """

    overlong: str = "cut"
    judged: int = 1_000
    judged_beams: int = 1
    lang: str = "en"
    batch_tokens: int = 0
    separate_vocabularies: bool = False

    kinds: ClassVar = ("encoder_decoder", "language_model")
    least_seq_length: ClassVar = 4
    recipe: ClassVar = dict(dataset="python_docs/summaries", seq_length=128)

    def validate(self):
        self.require(self.overlong in ("cut", "refuse"), f"overlong is cut or refuse, got {self.overlong!r}.")
        self.require(self.judged >= 0, f"judged must not be negative, got {self.judged}.")
        self.require_positive("judged_beams")
        self.require(self.batch_tokens >= 0, f"batch_tokens must not be negative, got {self.batch_tokens}.")
        self.require(self.lang in ("en", "zh"), f"lang is en or zh, got {self.lang!r}.")

    def output(self, model_config, seq_length, facts=None):
        return Output.of_tokens(model_config, seq_length, seq_length)


@dataclass(frozen=True)
class TextToTextFacts(Config):
    """What the data told.

    Attributes:
        max_tokens: most tokens of a source and of a target, special ones included: the run's --seq_length.
        eos_id, pad_id: of the tokenizer of targets.
        target_start: what a decoder reads first.
        most_written: tokens of the longest target of the split that was read last.
    """

    max_tokens: int = 0
    eos_id: int = 0
    pad_id: int = 0
    target_start: tuple[int, ...] = ()
    most_written: int = 0


class Pairs:
    """Pairs of a split.

    Attributes:
        pairs: list of `Pair`.
        sources, references: strings, and lists of strings.
        num_cut: how many did not fit.
        target_bytes: UTF-8 bytes of each target; of one that was cut, of what is left.
        tokens_per_byte: of the targets, their ends included.
        tokenizer: that made the ids; its `target` those of targets.
    """

    def __init__(self, pairs, sources, references, num_cut, tokenizer, targets=None):
        self.pairs, self.sources, self.references, self.num_cut = pairs, sources, references, num_cut
        self.target_bytes = [len(text.encode()) for text in targets or [some[0] for some in references]]
        self.tokens_per_byte = sum(len(pair.target) + 1 for pair in pairs) / max(sum(self.target_bytes), 1)
        self.tokenizer = tokenizer

    def __len__(self):
        return len(self.pairs)

    @property
    def units(self):
        """What each pair belongs to, int (pairs,): itself."""
        return np.arange(len(self))

    def take(self, chosen):
        """Those pairs alone, int (pairs,)."""
        part = copy.copy(self)
        for name in ("pairs", "sources", "references", "target_bytes"):
            setattr(part, name, [getattr(self, name)[i] for i in chosen])
        return part


class TextToText(Task):
    """loss = -sum over the target's tokens and its end of log p(token | source, target so far), count = their number."""

    # Name -> what writes a text of a source without a model: what its scores are is told beside those of test.
    without_model: ClassVar = {}
    facts_class = TextToTextFacts
    reads = "examples"
    fields = ("source", "target")

    @property
    def separate_vocabularies(self):
        return self.config.separate_vocabularies

    def texts(self, example):
        return [text for name in self.fields for text in _strings(example.get(name) or [])]

    def frame(self, kind, tokenizer):
        frame = super().frame(kind, tokenizer)
        if kind == "encoder_decoder":
            return frame
        return Frame(before=frame.before, after=frame.after)  # a language model goes on behind the source

    def num_ids(self, tokenizer):
        """Without the padding where it is the last id, as in Marian: nothing ends or says a text with it."""
        target = tokenizer.target
        last = target.vocab_size - 1
        return last if target.pad_id == last != target.eos_id else last + 1

    def encode(self, examples, tokenizer, layout):
        sources, references = [], []
        for number, example in enumerate(examples, 1):
            source, target = _pair(example, number)
            sources.append(source)
            references.append(target)
        writer = tokenizer.target
        self.learn(max_tokens=layout.seq_length, eos_id=writer.eos_id, pad_id=writer.pad_id)
        ids = tokenizer.encode_batch(sources), writer.encode_batch([target[0] for target in references])
        if layout.pairs_share_rows:
            frame = self.frame("language_model", tokenizer)
            kept = [_of_one_row(len(s), len(t), frame, layout) for s, t in zip(*ids, strict=True)]
        else:
            room = layout.seq_length - 2
            kept = [(min(len(s), room), min(len(t), room)) for s, t in zip(*ids, strict=True)]
        over = [i for i, (s, t, most) in enumerate(zip(*ids, kept, strict=True), 1) if (len(s), len(t)) != most]
        if over and self.config.overlong == "refuse":
            raise Refusal(
                f"Pair {over[0]} does not fit into --seq_length={layout.seq_length} (nor do {len(over) - 1:,} others); "
                "raise it, or have long texts cut with --set=overlong=cut."
            )
        pairs = [
            Pair(np.array(s[:source], np.int32), np.array(t[:target], np.int32))
            for s, t, (source, target) in zip(*ids, kept, strict=True)
        ]
        self.learn(most_written=max((len(pair.target) for pair in pairs), default=0) + 1)
        read = [
            some[0] if len(pair.target) == len(whole) else writer.decode(pair.target.tolist())
            for some, whole, pair in zip(references, ids[1], pairs, strict=True)
        ]
        return Pairs(pairs, sources, references, len(over), tokenizer, read)

    def size(self, data):
        cut = f", {data.num_cut:,} of them cut" if data.num_cut else ""
        return f"{len(data):,} pairs{cut}"

    def _rows(self, data, model, tokenizer, layout):
        frame = self.frame(model.kind, tokenizer)
        self.learn(target_start=frame.target_start)
        pairs = data.pairs
        if model.kind == "language_model":  # which a Layout that says so has told `encode` before
            kept = [_of_one_row(len(pair.source), len(pair.target), frame, layout) for pair in pairs]
            pairs = [Pair(pair.source[:s], pair.target[:t]) for pair, (s, t) in zip(pairs, kept, strict=True)]
        writer = tokenizer.target
        return PairRows(pairs, frame, model.kind, writer.eos_id, writer.pad_id, layout.seq_length, tokenizer.pad_id)

    def training_batches(self, data, model, tokenizer, layout):
        rows = self._rows(data, model, tokenizer, layout)
        if self.config.batch_tokens:
            return TokenBudgetBatches(rows, self.config.batch_tokens, layout.seed)
        return PairBatches(rows, layout.batch_size, layout.seed)

    def evaluation_batches(self, data, model, tokenizer, layout):
        rows = self._rows(data, model, tokenizer, layout)
        return in_order(len(data), layout.batch_size, rows.batch)

    def score(self, model, batch, state=None):
        inputs, weights = model.taken(batch), ops.cast(batch["loss_weights"], "float32")
        log_probs, _ = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)
        nats, tokens = ops.sum(ops.where(weights > 0, -log_probs * weights, 0.0), axis=1), ops.sum(weights, axis=1)
        totals = {"nats": ops.sum(nats), "tokens": ops.sum(tokens)}
        rows = {"real": ops.any(weights > 0, axis=1), "nats": nats, "tokens": tokens}
        if self.config.judged:
            source, longest = self._source(model, batch), self._longest(batch)
            decoded = decode(model, self.facts, self._known_frame(), source, longest, num_beams=self.config.judged_beams)
            rows |= {"written": decoded.token_ids, "lengths": decoded.lengths}
        return totals, rows, None

    def _known_frame(self):
        return Frame(target_start=self.facts.target_start)

    def _longest(self, batch):
        """int32 (B,): how much may be written: half more than the longest target."""
        return tf.fill([tf.shape(batch["token_ids"])[0]], self.facts.most_written * 3 // 2)

    def _source(self, model, batch):
        """The sources of a batch, as `source_of` gives them."""
        if model.kind == "encoder_decoder":
            return {name: batch[name] for name in ("source_ids", "source_mask")}
        # The row up to its first label, moved to the right edge.
        ids, weights = batch["token_ids"], batch["loss_weights"] > 0
        columns = tf.range(tf.shape(ids)[1])[None]
        first = tf.argmax(tf.cast(weights, tf.int32), 1, tf.int32)[:, None]
        longest = tf.reduce_max(first) + 1
        source = tf.range(longest)[None] - (longest - first - 1)
        real = (source >= 0) & (columns[:, :longest] >= 0)
        return {"token_ids": tf.gather(ids, tf.maximum(source, 0), batch_dims=1), "padding_mask": real}

    def metrics(self, totals, rows, data):
        """`loss` in nats a token, `perplexity`, `bits_per_byte` of the targets, and what the judges of the task say."""
        nats, count = float(totals["nats"]), float(totals["tokens"])
        scores = {"loss": nats / count, "perplexity": metrics.perplexity(nats / count), "num_tokens": int(count)}
        if num_bytes := sum(data.target_bytes):
            scores["bits_per_byte"] = metrics.bits_per_byte(nats, num_bytes)
        if "written" in rows:
            texts = self._texts(rows, data)
            scores |= self.judged(texts, data.references[: len(texts)])
            equal = _equal(texts, data.references)
            scores |= {"exact_match": sum(equal) / max(len(equal), 1), "num_judged": len(texts)}
        return scores

    def _texts(self, rows, data):
        """What was written for the pairs of a split that are judged."""
        ids = [
            one[:length]
            for some, lengths in zip(rows["written"], rows["lengths"], strict=True)
            for one, length in zip(some, lengths, strict=True)
        ]
        real = np.concatenate(rows["real"])
        ids = [one for one, there in zip(ids, real, strict=True) if there][: self.config.judged]
        return [data.tokenizer.target.decode([i for i in one.tolist() if i != self.facts.eos_id]) for one in ids]

    def samples(self, rows, data):
        """`loss` in nats a token, which compares models with the same tokens, and the `judged_samples` of what was written."""
        real = np.concatenate(rows["real"])
        nats, tokens = (np.concatenate(rows[name])[real] for name in ("nats", "tokens"))
        found = {"loss": metrics.Sample.mean(nats, tokens)}
        if "written" in rows:
            texts = self._texts(rows, data)
            found |= self.judged_samples(texts, data.references[: len(texts)])
            found["exact_match"] = metrics.Sample.mean(_equal(texts, data.references))
        return found

    def baselines(self, data, scores):
        count = scores.get("num_judged", 0)
        if not count:
            return {}
        told = {}
        for baseline, write in self.without_model.items():
            judged = self.judged([write(source) for source in data.sources[:count]], data.references[:count])
            told |= {f"{baseline}_{name}": value for name, value in judged.items() if not isinstance(value, str)}
        return told

    def judged_samples(self, texts, references):
        """Name -> `Sample` of texts, given lists of references."""
        raise TypeError(f"{type(self).__name__} does not implement judged_samples().")

    def judged(self, texts, references):
        """Scores of texts, given lists of references: a dict of numbers."""
        raise TypeError(f"{type(self).__name__} does not implement judged().")

    def judged_at_length(self, texts, references):
        """Scores besides that take long where texts are bad: a dict of numbers."""
        return {}

    def further_metrics(self, rows, data):
        if "written" not in rows:
            return {}
        texts = self._texts(rows, data)
        return self.judged_at_length(texts, data.references[: len(texts)])

    def training_metrics(self, loss, data):
        return {"perplexity": metrics.perplexity(loss), "bits_per_byte": loss / math.log(2) * data.tokens_per_byte}

    def limit(self, model):
        limit = min(self.facts.max_tokens or math.inf, model.max_length or math.inf)
        return None if limit == math.inf else limit

    def signatures(self, model, tokenizer):
        """Name -> tf.function: see `text_to_text_signatures` and `streaming_pair_signatures`."""
        asked = model, tokenizer, self.frame(model.kind, tokenizer), self.limit(model)
        return {**text_to_text_signatures(*asked), **streaming_pair_signatures(*asked)}

    def requests(self, model, tokenizer):
        requests = text_to_text_requests(model, tokenizer, self.limit(model))
        return requests + streaming_pair_requests(first=len(requests))

    def asked_with(self, data):
        """A source of the split on one line, a whole one if a short one is near; None where none can be typed and fits."""
        # A row was proved to have room for so many tokens of a source.
        for number, text in texts_to_type(data.sources):
            if 0 < len(data.tokenizer.encode(text)) <= len(data.pairs[number].source):
                return text
        return None


@TASKS.register("translation", TranslationConfig)
class Translation(TextToText):
    """A text in another language, judged by BLEU and chrF (Papineni et al. 2002; Popovic 2015), by sacrebleu (Post 2018).

    Example:
        >>> Translation().judged(["le chat dort"], [["le chat dort"]])["chrf"]
        100.0
    """

    shown = ("loss", "bleu", "chrf")
    without_model: ClassVar = {"copy": str}  # the source itself, word for word

    def judged(self, texts, references):
        return text_metrics.translation_scores(texts, references, self.config.bleu_tokenize)

    def judged_at_length(self, texts, references):
        return text_metrics.edit_scores(texts, references)

    def judged_samples(self, texts, references):
        bleu = text_metrics.bleu_sample(texts, references, self.config.bleu_tokenize)
        return {"bleu": bleu, "chrf": text_metrics.chrf_sample(texts, references)}

    def further_samples(self, rows, data):
        if "written" not in rows:
            return {}
        texts = self._texts(rows, data)
        return {"ter": text_metrics.ter_sample(texts, data.references[: len(texts)])}


@TASKS.register("summarization", SummarizationConfig)
class Summarization(TextToText):
    """A short text that says what a long one says, judged by ROUGE (Lin 2004), by rouge-score.

    Example:
        >>> Summarization().judged(["a cat sat"], [["a cat sat"]])["rouge1"]
        1.0
    """

    shown = ("loss", "rouge1", "rouge2", "rougeLsum")
    without_model: ClassVar = {"lead1": text_metrics.first_sentence, "copy": str}

    def judged(self, texts, references):
        return text_metrics.summary_scores(texts, references, self.config.lang)

    def judged_samples(self, texts, references):
        values = text_metrics.rouge_values(texts, references, self.config.lang)
        return {name: metrics.Sample.mean(some) for name, some in values.items()}


def _of_one_row(source, target, frame, layout):
    """How many tokens of a pair of texts of so many remain in a row that they share: (of the source, of the target).

    The longer one gives way first. The end of the target is a token, too.
    """
    return tuple(kept_lengths([source, target], layout.seq_length - frame.num_special() - 1))


def _equal(texts, references):
    """list of bool: whether each text is one of its references; there may be references of further texts."""
    return [text in some for text, some in zip(texts, references, strict=False)]


def _strings(value):
    return [value] if isinstance(value, str) else list(value)


def _pair(example, number):
    """(source, list of targets). Raises Refusal for what cannot be."""
    source, target = example.get("source"), example.get("target")
    for name, value in (("source", source), ("target", target)):
        if not value:
            raise Refusal(f"Example {number} has an empty {name}; give each a text, or leave the example out.")
    targets = _strings(target)
    if not isinstance(source, str) or not all(isinstance(text, str) and text for text in targets):
        raise Refusal(f"Example {number} must have a string as its source and strings as its target.")
    return source, targets
