"""A SavedModel that writes text, for those who use a `zoo.api.Loaded`; neither TensorFlow's Python nor our model code is in
it."""

import numpy as np

from zoo.config import Refusal
from zoo.serving.c_api import SavedModel, plainly
from zoo.serving.stream_client import first_row, stream, until
from zoo.serving.versions import numbered


class Served:
    """The newest SavedModel in a directory of versions, or one version, as a server runs it: through the C API, without
    TensorFlow's Python or our model code. Raises Refusal if there is none, or if a request is refused."""

    def __init__(self, directory):
        versions = numbered(directory)
        path = versions[max(versions)] if versions else directory
        if not (path / "saved_model.pb").is_file():
            raise Refusal(f"{directory} holds no SavedModel; write one with python -m trainers.export.")
        try:
            self.model = SavedModel(path)
        except ValueError as error:
            raise Refusal(f"{path} cannot be loaded ({plainly(str(error))}); export it again.") from error
        if "generate" not in self.model.signatures:
            raise Refusal(f"{path} does not write text; it has {', '.join(sorted(self.model.signatures))}.")

    def __call__(self, signature, inputs):
        try:
            return self.model.run(signature, inputs)
        except ValueError as error:
            raise Refusal(plainly(str(error))) from error

    first = staticmethod(first_row)

    def predict(self, signature, **inputs):
        """As `zoo.api.Loaded.predict`."""
        answer = self(signature, inputs)
        spelt = np.vectorize(lambda text: text.decode("utf8", "replace"), otypes=[object])
        return {name: spelt(value) if value.dtype == object else value for name, value in answer.items()}

    def require_room(self, texts):
        """Nothing: of a text that is too long the SavedModel itself tells."""

    def generate(self, prompts, stop=None, **options):
        """As `zoo.api.Loaded.generate` for a list."""
        name = "prompt" if self.goes_on else "text"
        texts = self.predict("generate", **{name: prompts}, **{name: [value] for name, value in options.items()})["text"]
        if stop is None:
            return texts.tolist()
        kept = prompts if self.goes_on else [""] * len(prompts)
        return [begun + "".join(until([text[len(begun) :]], stop)) for begun, text in zip(kept, texts, strict=True)]

    @property
    def goes_on(self):
        """Whether `generate` goes on from a prompt; else it writes another text."""
        return "prompt" in self.model.signatures["generate"].inputs

    def stream(self, prompt, **options):
        """As `zoo.api.Loaded.stream`."""
        besides = {"target_prefix", "min_new_tokens", "no_repeat_ngram"} & options.keys()
        if "prefill" not in self.model.signatures or besides:  # an older export, or what no step takes
            return iter(self.generate([prompt], **options))
        return stream(self, prompt, another=not self.goes_on, **options)
