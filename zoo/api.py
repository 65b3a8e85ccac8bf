"""The Python API: `zoo.create`, `zoo.list_models`, `zoo.load`."""

import inspect

import numpy as np
import tensorflow as tf

from zoo import bundle as bundles
from zoo import decoding, explanation, layerwise
from zoo.config import Refusal, nearest
from zoo.export import export_saved_model, loaded_draft
from zoo.registry import MODELS
from zoo.serving.c_api import plainly
from zoo.serving.stream_client import until
from zoo.signatures import given
from zoo.signatures.generation import OPTIONS, generation, in_range


def list_models():
    """Names of the registered model families, sorted."""
    return MODELS.names()


def create(model, preset="default", **fields):
    """A model with fresh weights.

    Args:
        model: name of a family, such as "gpt".
        preset: name of one of its presets.
        **fields: fields of its config that differ from the preset.

    Raises:
        Refusal: unknown model, preset or field; the message names the nearest.
    """
    model_class = MODELS.get(model)
    config = model_class.config_class.preset(preset).replace(**fields)
    return model_class(config).build_from_ids()


def load(path):
    """A trained model with its tokenizer, from a bundle or from the directory of a run.

    Raises:
        Refusal: `path` holds neither, or it is damaged.
    """
    return Loaded(bundles.load(bundles.find(path)))


class Loaded:
    """A bundle ready for use. Its methods run the very functions that `export` writes as signatures.

    Args:
        bundle: a `zoo.bundle.Bundle`.
    """

    def __init__(self, bundle):
        self.bundle, self.model, self.tokenizer = bundle, bundle.model, bundle.tokenizer
        self.task, self._spelling = bundle.task, bundle.task.spelling(bundle.tokenizer)
        self._signatures = self._next_logits = None
        self._generations, self._drafts = {}, {}

    @property
    def signatures(self):
        """Name -> tf.function, traced on first use."""
        if self._signatures is None:
            self._signatures = self.task.signatures(self.model, self.tokenizer)
        return self._signatures

    def generate(
        self, prompt, max_new_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=0, *,
        min_p=0.0, repetition_penalty=1.0, no_repeat_ngram=0, stop=None, draft="none", min_new_tokens=0, target_prefix="",
    ):  # fmt: skip
        """Continues a prompt; or, where the task turns one text into another, writes the other text.

            zoo.load("runs/gpt/latest").generate("The list")          # "The list is empty ..."
            zoo.load("runs/transformer/latest").generate("Monday")    # "lundi"

        The options after `seed` are not inputs of the served `generate` that continues a prompt: other values than their
        defaults trace a graph of their own, once.

        Args:
            prompt: string, or a list of strings.
            max_new_tokens: most tokens to add.
            temperature: 0 takes the likeliest token each time; higher is more varied.
            top_k: sample among this many likeliest tokens; 0 for all.
            top_p: sample among the likeliest tokens that hold this much probability.
            seed: the same seed gives the same text, whatever else is in the list.
            min_p: sample among the tokens with at least this share of the largest probability; 0 for all.
            repetition_penalty: above 1 makes tokens that the text has already less likely; 1 is off.
            no_repeat_ngram: no n-gram of so many tokens comes twice; 0 is off.
            stop: a string; the continuation ends before it.
            draft: "ngram:4" guesses what follows the last 4 tokens, or fewer, where they stood before, and lets one pass judge
                5 such tokens: the same text sooner, where a text repeats itself (`zoo/signatures/drafting.py`).
                "ngram:runs/ngram/latest" asks that n-gram model besides, of the same vocabulary. Prompts are then answered
                one by one.
            min_new_tokens: another text has at least so many tokens.
            target_prefix: what another text begins with.

        Returns:
            The prompt with its continuation, or the other text alone: a string, or a list of strings for a list.

        Raises:
            Refusal: the model writes no text, a prompt is too long, or an option is out of its range.
        """
        (prompts, one), stop = given.texts("prompt", prompt), _until(stop)
        count = len(prompts)
        options = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        fixed = dict(min_p=min_p, repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram)
        self._check("generate", "prompt", prompts)
        options, fixed = in_range(**options), in_range(**fixed)
        besides = {**in_range(min_new_tokens=min_new_tokens), "target_prefix": given.text("target_prefix", target_prefix)}
        if not self.goes_on:
            options |= {**besides, "no_repeat_ngram": fixed.pop("no_repeat_ngram")}
        elif unfit := [name for name, value in besides.items() if value]:
            raise Refusal(f"{unfit[0]} is for models that write another text; leave it out for {self.task.registered_name}.")
        asked, draft = draft, self._draft(draft)
        if draft is not None and count > 1:
            return [self.generate(text, **options, **fixed, stop=stop, draft=asked) for text in prompts]
        kept = prompts if self.goes_on else [""] * count  # what a text that is written begins with
        answer = _called(
            self._generation(stop, fixed, draft), **{"prompt" if self.goes_on else "text": tf.constant(prompts, tf.string)},
            **{name: tf.fill([count], tf.constant(value, OPTIONS[name][0].dtype)) for name, value in options.items()},
        )  # fmt: skip
        texts = [_spelt(text) for text in answer["text"].numpy()]
        if stop is not None:
            kept = [_spelt(begun) for begun in kept]
            texts = [begun + "".join(until([text[len(begun) :]], stop)) for begun, text in zip(kept, texts, strict=True)]
        return texts[0] if one else texts

    def _draft(self, asked):
        """The `Draft` that a string asks for, or None. What was loaded once is kept."""
        if not isinstance(asked, str):
            return loaded_draft(asked, self.tokenizer)
        if asked not in self._drafts:
            self._drafts[asked] = loaded_draft(asked, self.tokenizer)
        return self._drafts[asked]

    @property
    def goes_on(self):
        """Whether `generate` goes on from a prompt; else it writes another text."""
        return "prompt" in inspect.signature(self.signatures["generate"].python_function).parameters

    @property
    def _frame(self):
        """What stands around a text as this model's task reads it."""
        return self.task.frame(self.model.kind, self.tokenizer)

    def _generation(self, stop, fixed, draft):
        """The function that `generate` calls: the signature, unless something is asked for that it has not."""
        stop_ids = ()
        if stop is not None:
            # Where one token spells the string a row can end in graph; in all other cases it is cut afterwards.
            ids = self.tokenizer.encode(stop)
            stop_ids = tuple(ids) if len(ids) == 1 and self.tokenizer.decode(ids) == stop else ()
        fixed = {name: value for name, value in fixed.items() if value != OPTIONS[name][1]}
        if not self.goes_on:
            if fixed or draft is not None:
                name = self.task.registered_name
                raise Refusal(f"{min(fixed, default='draft')} is for models that go on from a prompt; leave it out for {name}.")
            return self.signatures["generate"]
        if not stop_ids and not fixed and draft is None:
            return self.signatures["generate"]
        key = (stop_ids, draft, *sorted(fixed.items()))
        if key not in self._generations:
            self._generations[key] = generation(self.model, self._spelling, self._frame, stop_ids, draft, **fixed)
        return self._generations[key]

    def stream(
        self, prompt, max_new_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=0, *,
        min_p=0.0, repetition_penalty=1.0, no_repeat_ngram=0, stop=None, min_new_tokens=0, target_prefix="",
    ):  # fmt: skip
        """As `generate` for one prompt, but yields the continuation piece by piece as it is written.

        A text that is made of another comes as one piece.
        """
        options = dict(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, min_p=min_p,
            repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram,
        )  # fmt: skip
        prompt, stop = given.text("prompt", prompt), _until(stop)
        self._check("generate", "prompt", [prompt])
        options = in_range(**options)
        max_new_tokens = options.pop("max_new_tokens")
        if not self.goes_on or min_new_tokens or target_prefix:  # the latter two are refused there where a prompt is continued
            besides = dict(min_new_tokens=min_new_tokens, target_prefix=target_prefix)
            yield self.generate(prompt, max_new_tokens, stop=stop, **options, **besides)
            return
        pieces = self._pieces(prompt, max_new_tokens, decoding.Sampling(**options))
        yield from pieces if stop is None else until(pieces, stop)

    def _pieces(self, prompt, max_new_tokens, sampling):
        ids = [*self._frame.before, *self._spelling.encode(prompt), *self._frame.after]
        yield from self._written(ids, ids, max_new_tokens, sampling, self._spelling, self._spelling.stop_ids)

    def _written(self, ids, shown_ids, max_new_tokens, sampling, spelling, stop_ids):
        """Yields what a model writes after some ids, piece by piece; `shown_ids`: those of them that its text goes on from."""
        longest = self.model.max_length
        if longest is not None:
            max_new_tokens = min(max_new_tokens, longest + 1 - len(ids))
        if self._next_logits is None:
            self._next_logits = tf.function(self.model.next_logits, reduce_retracing=True, autograph=False)
        written = decoding.stream(
            self._next_logits, self.model.init_state(1, len(ids) + max_new_tokens), tf.constant([ids]),
            max_new_tokens=max_new_tokens, stop_ids=stop_ids, sampling=sampling,
        )  # fmt: skip
        ids = list(shown_ids)
        shown = text = spelling.decode(ids)
        for (token_id,), _ in written:
            ids.append(int(token_id))
            text = spelling.decode(ids)
            # A character whose bytes have not all come yet is held back.
            if not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if text != shown:
            yield text[len(shown) :]

    def chat(self, messages, max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, seed=0, *, min_p=0.0):
        """The answer to a conversation, by the chat frame that came with the model's vocabulary.

            zoo.load("smollm2").chat([{"role": "user", "content": "Who are you?"}])

        Args:
            messages: list of dicts, each with `role` (`system`, `user` or `assistant`) and `content`, a string. What was
                answered before stands in it as the assistant's.
            max_new_tokens, temperature, top_k, top_p, seed, min_p: as in `generate`.

        Returns:
            The answer alone, a string.

        Raises:
            Refusal: the model came without a chat template, or with one of a kind that is not known; the frame has
                no place for the conversation, or it is too long.
        """
        return "".join(self.stream_chat(messages, max_new_tokens, temperature, top_k, top_p, seed, min_p=min_p))

    def stream_chat(self, messages, max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, seed=0, *, min_p=0.0):
        """As `chat`, but yields the answer piece by piece as it is written."""
        frame = self.tokenizer.chat_frame
        if self.model.kind != "language_model":
            raise Refusal(f"A {self.model.registered_name} for {self.task.registered_name} holds no conversations.")
        options = in_range(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, min_p=min_p
        )
        max_new_tokens = options.pop("max_new_tokens")
        ids, longest = frame.ids(self.tokenizer, messages), self.model.max_length
        if longest is not None and len(ids) > longest:
            raise Refusal(f"The conversation has {len(ids)} tokens; this model takes at most {longest}. Leave out what is old.")
        ends = (*self.tokenizer.stop_ids, *frame.end_ids(self.tokenizer))
        yield from self._written(ids, (), max_new_tokens, decoding.Sampling(**options), self.tokenizer, ends)

    def score(self, text):
        """How likely a text is.

        Args:
            text: string, or a list of strings.

        Returns:
            dict of `log_prob` (natural, of the whole text; that it ends there is not scored), `num_tokens` and
            `bits_per_byte`; a list of dicts for a list.
        """
        texts, one = given.texts("text", text)
        self._check("score", "text", texts)
        answer = _called(self.signatures["score"], text=tf.constant(texts, tf.string))
        columns = {name: value.numpy().tolist() for name, value in answer.items()}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(texts))]
        return rows[0] if one else rows

    def predict(self, signature="serving_default", **inputs):
        """The answer of one signature, as a server would give it: for every task that the model may have been trained on.

            zoo.load("runs/bert/latest").predict("fill_mask", text=["The [MASK] is empty."])["tokens"]

        Args:
            signature: its name; `signatures` has them all.
            **inputs: name -> list of values, one a row; one value alone is one row.

        Returns:
            Name -> array, rows first; strings are Python's.

        Raises:
            Refusal: no such signature or input, or a request that it refuses; the sentence says what would be right.
        """
        if not isinstance(signature, str):
            raise Refusal(f"predict takes the name of a signature first, and inputs by name; got {signature!r}.")
        if signature not in self.signatures:
            raise Refusal(f"The model has no signature {signature!r}; {nearest(signature, self.signatures)}")
        function = self.signatures[signature]
        parameters = inspect.signature(function.python_function).parameters
        specs = dict(zip(parameters, function.input_signature, strict=True))
        if unknown := sorted(inputs.keys() - specs.keys()):
            raise Refusal(f"{signature} has no input {unknown[0]!r}; {nearest(unknown[0], specs)}")
        for parameter in parameters.values():
            if parameter.default is parameter.empty and parameter.name not in inputs:
                raise Refusal(f"{signature} needs the input {parameter.name!r}.")
        answer = _called(function, **{name: given.tensor(name, value, specs[name]) for name, value in inputs.items()})
        return {name: _plain(value.numpy()) for name, value in answer.items()}

    def embed(self, text):
        """A text, or a list of texts, as vectors: float32 (D,) or (B, D), of length 1 unless the model's task says
        otherwise."""
        texts, one = given.texts("text", text)
        vectors = self.predict("embed", text=texts)["embedding"]
        return vectors[0] if one else vectors

    def nearest(self, word, k=10):
        """The words nearest to a word, of word vectors: list of (word, cosine), the nearest first; empty for an unknown word.

            zoo.load("runs/word2vec/latest").nearest("list", k=10)

        Several words in one string are taken for their mean.

        Raises:
            Refusal: the model has no such signature, or k is not from 1 to 1,000.
        """
        return self._found("nearest", k, word=word)

    def analogy(self, a, b, c, k=10):
        """The words that are to `c` as `b` is to `a` (3CosAdd, Mikolov et al. 2013), as `nearest` gives them.

        zoo.load("runs/word2vec/latest").analogy("file", "files", "object")
        """
        return self._found("analogy", k, a=a, b=b, c=c)

    def _found(self, signature, k, **words):
        answer = self.predict(signature, k=[k], **{name: [given.text(name, word)] for name, word in words.items()})
        return [(word, float(cosine)) for word, cosine in zip(answer["words"][0], answer["similarity"][0], strict=True) if word]

    def explain(self, text, method="integrated_gradients", target=None, contrast=None, word=None, predicate=None):
        """Which tokens of a text an answer comes from: an `Explanation` (`zoo/explanation.py`).

            zoo.load("runs/bert/latest").explain("A dull film.").scores                      of a classifier
            zoo.load("runs/gpt/latest").explain("The list", target=" is", contrast=" are")   why this and not that
            zoo.load("runs/bert/latest").explain("The [MASK] is empty.")                     of what fills a hole
            zoo.load("runs/transformer/latest").explain("June 3, 2021", "occlusion")         of what is written of a source
            zoo.load("runs/bilstm/latest").explain("Ann met Bob", target="B-PER", contrast="O", word=0)      of a word's tag

        Args:
            text: a string.
            method: `integrated_gradients`, `gradient_x_input` or `occlusion`.
            target: the class, what a language model goes on with, what is written of a source, the token in a hole, or the tag
                of a word; None for the likeliest, and for what the model writes.
            contrast: another one, against which the target is explained.
            word, predicate: of a tagger the number of the word whose tag is explained, from 0; of semantic roles also that of
                the predicate.

        Raises:
            Refusal: a model of another task, an unknown method or class, or a text that is empty or too long.
        """
        text, target, contrast = _asked(text, target=target, contrast=contrast)
        if target is None and self.task.registered_name in ("translation", "summarization"):
            target = self.generate(text)
        return explanation.explain(self.model, self.tokenizer, self.task, text, method, target, contrast, word, predicate)

    def lens(self, text, num_words=5):
        """What each layer would answer if it were the last, a `Lens` (`zoo/layerwise.py`): the logit lens.

            zoo.load("runs/gpt/latest").lens("The list is").words[-1][-1]     # what the last layer goes on with

        Args:
            text: a string; for a masked language model with its mask token in it.
            num_words: how many answers of each layer are told.

        Raises:
            Refusal: a model of another task or without Transformer blocks, a text that is empty or too long.
        """
        return layerwise.lens(self.model, self.tokenizer, self.task, *_asked(text), num_words)

    def attention(self, text, target=None):
        """Which token looks at which, the `AttentionMaps` (`zoo/layerwise.py`) of each layer and head.

            zoo.load("runs/bert/latest").attention("A dull film.").mean[-1]       # float32 (T, T), the last layer

        Args:
            text: a string; for a model that reads a source, the source.
            target: what is written of a source; None for what the model writes of it. Other models take none.

        Raises:
            Refusal: as `lens`.
        """
        text, target = _asked(text, target=target)
        if target is None and self.model.without_head().aligns:
            target = self.generate(text)
        return layerwise.attention(self.model, self.tokenizer, self.task, text, target)

    def _check(self, signature, kind, texts):
        """Raises Refusal if the model has no such signature, or cannot take a text whole."""
        if signature not in self.signatures:
            raise Refusal(
                f"A model for {self.task.registered_name} has no signature {signature!r}; it has "
                f"{', '.join(sorted(self.signatures))}."
            )
        self.require_room(texts, kind)

    def require_room(self, texts, kind="prompt"):
        """Raises Refusal if a text is longer than the model can take; it says which."""
        longest, special = self.task.limit(self.model), self._frame.num_special()
        for i, text in enumerate(texts):
            length = special + len(self.tokenizer.encode(text))
            if longest is not None and length > longest:
                which = f"The {kind}" if len(texts) == 1 else f"The {kind} number {i + 1}"
                raise Refusal(
                    f"{which} has {length} tokens, with the special ones around it; this model takes at most {longest}."
                )

    def export(self, directory, version=None, precision="float32", xla=False, draft="none"):
        """Writes a SavedModel to `directory/<version>/` and proves it in a clean process. Returns its path.

        Args:
            directory: the parent of all versions.
            version: above all that are there; None for the next one.
            precision: of the weights: float32, bfloat16 or int8.
            xla: whether it is for a server that was started with XLA; a stock server refuses it.
            draft: as in `generate`.
        """
        return export_saved_model(
            directory, self.model, self.tokenizer, self.task, version=version, provenance=self.bundle.provenance,
            precision=precision, xla=xla, draft=draft,
        )  # fmt: skip


def _asked(text, **beside):
    """A text, and the values of `beside` that may be None, as strings. Raises Refusal for what is not one."""
    given_ones = [value if value is None else _spelt(given.text(name, value)) for name, value in beside.items()]
    return [_spelt(given.text("text", text)), *given_ones]


def _until(stop):
    """The string before which a text ends, or None. Raises Refusal if it is empty or not a string."""
    if stop is None:
        return None
    stop = _spelt(given.text("stop", stop))
    if not stop:
        raise Refusal("stop is an empty string, before which every text ends; leave it out.")
    return stop


def _spelt(text):
    return text if isinstance(text, str) else text.decode("utf8", errors="replace")


def _called(function, **inputs):
    """The answer of a signature. Raises Refusal for a request that it refuses."""
    try:
        return function(**inputs)
    except tf.errors.InvalidArgumentError as error:
        raise Refusal(plainly(error.message)) from error


def _plain(values):
    """An array as it is, or with Python's strings where it holds bytes."""
    if values.dtype != object:
        return values
    return np.array([_spelt(value) for value in values.flat], object).reshape(values.shape)
