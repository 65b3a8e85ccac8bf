"""The Python API: `zoo.create`, `zoo.list_models`, `zoo.load`."""

import inspect

import numpy as np
import tensorflow as tf

from zoo import bundle as bundles
from zoo import decoding
from zoo.config import nearest
from zoo.export import export_saved_model
from zoo.registry import MODELS


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
        ValueError: unknown model, preset or field; the message names the nearest.
    """
    model_class = MODELS.get(model)
    config = model_class.config_class.preset(preset).replace(**fields)
    return model_class(config).build_from_ids()


def load(path):
    """A trained model with its tokenizer, from a bundle or from the directory of a run.

    Raises:
        ValueError: `path` holds neither, or it is damaged.
    """
    return Loaded(bundles.load(bundles.find(path)))


class Loaded:
    """A bundle ready for use. Its methods run the very functions that `export` writes as signatures.

    Args:
        bundle: a `zoo.bundle.Bundle`.
    """

    def __init__(self, bundle):
        self.bundle, self.model, self.tokenizer = bundle, bundle.model, bundle.tokenizer
        self.task = bundle.task
        self._signatures = self._next_logits = None

    @property
    def signatures(self):
        """Name -> tf.function, traced on first use."""
        if self._signatures is None:
            self._signatures = self.task.signatures(self.model, self.tokenizer)
        return self._signatures

    def generate(self, prompt, max_new_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=0):
        """Continues a prompt.

        Args:
            prompt: string, or a list of strings.
            max_new_tokens: most tokens to add.
            temperature: 0 takes the likeliest token each time; higher is more varied.
            top_k: sample among this many likeliest tokens; 0 for all.
            top_p: sample among the likeliest tokens that hold this much probability.
            seed: the same seed gives the same text, whatever else is in the list.

        Returns:
            The prompt with its continuation: a string, or a list of strings for a list.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts)
        self._check_lengths("prompt", prompts)
        answer = self.signatures["generate"](
            prompt=tf.constant(prompts, tf.string),
            max_new_tokens=tf.fill([count], max_new_tokens),
            temperature=tf.fill([count], float(temperature)),
            top_k=tf.fill([count], top_k),
            top_p=tf.fill([count], float(top_p)),
            seed=tf.fill([count], tf.constant(seed, tf.int64)),
        )
        texts = [text.decode("utf8", errors="replace") for text in answer["text"].numpy()]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt, max_new_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=0):
        """As `generate` for one prompt, but yields the continuation piece by piece as it is written."""
        self._check_lengths("prompt", [prompt])
        eos_id, longest = self.tokenizer.eos_id, self.model.max_length
        ids = [eos_id, *self.tokenizer.encode(prompt)]
        if longest is not None:
            max_new_tokens = min(max_new_tokens, longest + 1 - len(ids))
        if self._next_logits is None:
            self._next_logits = tf.function(self.model.next_logits, reduce_retracing=True, autograph=False)
        pieces = decoding.stream(
            self._next_logits, self.model.init_state(1, len(ids) + max_new_tokens), tf.constant([ids]),
            max_new_tokens=max_new_tokens, stop_ids=(eos_id,),
            sampling=decoding.Sampling(temperature=float(temperature), top_k=top_k, top_p=float(top_p), seed=seed),
        )  # fmt: skip
        shown = text = self.tokenizer.decode(ids)
        for (token_id,), _ in pieces:
            ids.append(int(token_id))
            text = self.tokenizer.decode(ids)
            # A character whose bytes have not all come yet is held back.
            if not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if text != shown:
            yield text[len(shown) :]

    def score(self, text):
        """How likely a text is.

        Args:
            text: string, or a list of strings.

        Returns:
            dict of `log_prob` (natural, of the whole text and its end), `num_tokens` and `bits_per_byte`; a list of
            dicts for a list.
        """
        texts = [text] if isinstance(text, str) else list(text)
        self._check_lengths("text", texts)
        answer = self.signatures["score"](text=tf.constant(texts, tf.string))
        columns = {name: value.numpy().tolist() for name, value in answer.items()}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(texts))]
        return rows[0] if isinstance(text, str) else rows

    def predict(self, signature="serving_default", **inputs):
        """The answer of one signature, as a server would give it: for every task that the model may have been trained on.

            zoo.load("runs/bert/latest").predict("fill_mask", text=["The [MASK] is empty."])["tokens"]

        Args:
            signature: its name; `signatures` has them all.
            **inputs: name -> list of values, one a row.

        Returns:
            Name -> array, rows first; strings are Python's.

        Raises:
            ValueError: no such signature or input, or a request that it refuses; the sentence says what would be right.
        """
        if signature not in self.signatures:
            raise ValueError(f"The model has no signature {signature!r}; {nearest(signature, self.signatures)}")
        function = self.signatures[signature]
        parameters = inspect.signature(function.python_function).parameters
        specs = dict(zip(parameters, function.input_signature, strict=True))
        if unknown := sorted(inputs.keys() - specs.keys()):
            raise ValueError(f"{signature} has no input {unknown[0]!r}; {nearest(unknown[0], specs)}")
        for parameter in parameters.values():
            if parameter.default is parameter.empty and parameter.name not in inputs:
                raise ValueError(f"{signature} needs the input {parameter.name!r}.")
        try:
            answer = function(**{name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(" ".join(error.message.split())) from error
        return {name: _plain(value.numpy()) for name, value in answer.items()}

    def embed(self, text):
        """A text, or a list of texts, as vectors: float32 (D,) or (B, D), of length 1 unless the model's task says otherwise."""
        vectors = self.predict("embed", text=[text] if isinstance(text, str) else list(text))["embedding"]
        return vectors[0] if isinstance(text, str) else vectors

    def _check_lengths(self, kind, texts):
        """Raises ValueError for a text that the model cannot take whole."""
        longest = self.model.max_length
        for i, text in enumerate(texts):
            length = 1 + len(self.tokenizer.encode(text))
            if longest is not None and length > longest:
                which = f"The {kind}" if len(texts) == 1 else f"The {kind} number {i + 1}"
                raise ValueError(
                    f"{which} has {length} tokens, with the one that begins it; this model takes at most {longest}."
                )

    def export(self, directory, version=None, precision="float32", xla=False):
        """Writes a SavedModel to `directory/<version>/` and proves it in a clean process. Returns its path.

        Args:
            directory: the parent of all versions.
            version: above all that are there; None for the next one.
            precision: of the weights: float32, bfloat16 or int8.
            xla: whether it is for a server that was started with XLA; a stock server refuses it.
        """
        return export_saved_model(
            directory, self.model, self.tokenizer, self.task, version=version, provenance=self.bundle.provenance,
            precision=precision, xla=xla,
        )  # fmt: skip


def _plain(values):
    """An array as it is, or with Python's strings where it holds bytes."""
    if values.dtype != object:
        return values
    spelt = [value.decode("utf8", errors="replace") for value in values.flat]
    return np.array(spelt, object).reshape(values.shape)
