"""Lets a trained model write: python -m trainers.generate --model_dir=runs/gpt/latest --prompt='The '"""

import json
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS


def main():
    directory = trainer_flags.model_dir()
    prompts = _prompts_of_file(FLAGS.prompt_file) if FLAGS.prompt_file else None
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
