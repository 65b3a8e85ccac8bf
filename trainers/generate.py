"""Lets a trained model write: python -m trainers.generate --model_dir=runs/gpt/latest --prompt='The '"""

import json
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS


def main():
    directory = None if FLAGS.export_dir else trainer_flags.model_dir()
    prompts = _prompts_of_file(FLAGS.prompt_file) if FLAGS.prompt_file else None
    if FLAGS.export_dir:
        with trainer_flags.quiet():
            loaded = Served(Path(FLAGS.export_dir))
    else:
        with trainer_flags.quiet():
            import tensorflow  # noqa: F401

        import zoo

        loaded = zoo.load(directory)
    options = {name: FLAGS[name].value for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")}
    if prompts is not None:
        for prompt, text in zip(prompts, loaded.generate(prompts, **options), strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), flush=True)
    elif FLAGS.prompt is not None:
        _write(loaded, FLAGS.prompt, options)
    else:
        _converse(loaded, options)


class Served:
    """The newest SavedModel in a directory of versions, or one version, as a server runs it: through the C API, without TensorFlow's
    Python or our model code. Raises ValueError if there is none, or if a request is refused."""

    def __init__(self, directory):
        from zoo.serving.c_api import SavedModel

        versions = [int(path.name) for path in directory.iterdir() if path.name.isdigit()] if directory.is_dir() else []
        path = directory / str(max(versions)) if versions else directory
        if not (path / "saved_model.pb").is_file():
            raise ValueError(f"{directory} holds no SavedModel; write one with python -m trainers.export.")
        self.model = SavedModel(path)
        if "generate" not in self.model.signatures:
            raise ValueError(f"{path} does not write text; it has {', '.join(sorted(self.model.signatures))}.")

    def __call__(self, signature, inputs):
        try:
            return self.model.run(signature, inputs)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())) from error

    @staticmethod
    def first(values):
        return values[0].decode("utf8", "replace") if isinstance(values[0], bytes) else values[0]

    def generate(self, prompts, **options):
        """As `zoo.api.Loaded.generate` for a list."""
        answer = self("generate", {"prompt": prompts, **{name: [value] for name, value in options.items()}})
        return [text.decode("utf8", "replace") for text in answer["text"]]

    def stream(self, prompt, **options):
        """As `zoo.api.Loaded.stream`."""
        from zoo.serving.stream_client import stream

        return stream(self, prompt, **options)


def _prompts_of_file(path):
    try:
        return Path(path).read_text(encoding="utf8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} cannot be read; convert it first.") from error


def _converse(loaded, options):
    """Reads prompts from the terminal, one a line, until its end."""
    terminal = sys.stdin.isatty()
    while True:
        if terminal:
            print("prompt> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        _write(loaded, line.rstrip("\n"), options)


def _write(loaded, prompt, options):
    """Prints a prompt and, token by token, its continuation."""
    print(prompt, end="", flush=True)
    for piece in loaded.stream(prompt, **options):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    trainer_flags.define_generation()
    trainer_flags.program(main)
