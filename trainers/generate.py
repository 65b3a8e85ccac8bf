"""Lets a trained model write: python -m trainers.generate --model_dir=runs/gpt/latest --prompt='The'"""

import json
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


# Inputs of the signature `generate`; then what the graph behind it has besides, but no request; then what searching takes.
SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
PENALTIES = ("min_p", "repetition_penalty", "no_repeat_ngram")
SEARCH = ("num_beams", "length_penalty", "num_best")


def main():
    directory = None if FLAGS.export_dir else trainer_flags.model_dir()
    search, options = _options()
    prompts = _prompts_of_file(FLAGS.prompt_file) if FLAGS.prompt_file else None
    if FLAGS.export_dir:
        from trainers import served

        with program.quiet():
            loaded = served.Served(Path(FLAGS.export_dir))
    else:
        with program.quiet():
            import tensorflow  # noqa: F401

        import zoo

        loaded = zoo.load(directory)
        if not loaded.task.generates:
            task = loaded.task.registered_name
            raise Refusal(f"{directory} was made for {task} and writes no text; in Python, zoo.load(...).predict() asks it.")
    write = _search if search else _write
    if prompts is not None:
        _write_file(loaded, prompts, search, options)
    elif FLAGS.prompt is not None:
        write(loaded, FLAGS.prompt, options)
    else:
        _converse(loaded, write, options)


def _options():
    """Whether beams are searched, and the options of that or of sampling. Raises Refusal for flags that do not go
    together."""
    given = {name for name in (*SAMPLING, *PENALTIES, *SEARCH, "stop") if FLAGS[name].present}
    if FLAGS.stop == "":
        raise Refusal("--stop is empty; give the string before which a text is to end.")
    if FLAGS.num_beams:
        if unfit := sorted(given - {*SEARCH, "max_new_tokens"}):
            raise Refusal(f"--{unfit[0]} is for sampling, and --num_beams searches; leave one of them out.")
        if FLAGS.num_best > FLAGS.num_beams:
            raise Refusal(f"--num_best={FLAGS.num_best} is more than --num_beams={FLAGS.num_beams}.")
        return True, {name: FLAGS[name].value for name in ("max_new_tokens", "num_beams", "length_penalty")}
    if unfit := sorted(given & {*SEARCH}):
        raise Refusal(f"--{unfit[0]} is for a search, which --num_beams asks for.")
    if FLAGS.export_dir and (unfit := sorted(given & {*PENALTIES})):
        raise Refusal(f"--{unfit[0]} is no input of a SavedModel's signatures; use it with --model_dir.")
    asked = {name: FLAGS[name].value for name in (*PENALTIES, "stop") if name in given}
    return False, {**{name: FLAGS[name].value for name in SAMPLING}, **asked}


def _prompts_of_file(path):
    try:
        return Path(path).read_text(encoding="utf8").splitlines()
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8: byte {error.start} cannot be read; convert it first.") from error


def _write_file(loaded, prompts, search, options):
    """Prints a JSON object for each prompt, or for each of the best continuations of each."""
    if not search:
        for prompt, text in zip(prompts, loaded.generate(prompts, **options), strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), flush=True)
        return
    for prompt, found in zip(prompts, _best(loaded, prompts, options), strict=True):
        for text, score in found:
            print(json.dumps({"prompt": prompt, "text": text, "score": score}, ensure_ascii=False), flush=True)


def _converse(loaded, write, options):
    """Reads prompts from the terminal, one a line, until its end."""
    terminal = sys.stdin.isatty()
    while True:
        if terminal:
            print("prompt> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        try:
            write(loaded, line.rstrip("\n"), options)
        except ValueError as error:
            if not (terminal and program.is_refusal(error)):
                raise
            print(f"error: {program.sentence_of(error)}")  # and whoever sits there tries another


def _write(loaded, prompt, options):
    """Prints a prompt and, token by token, its continuation."""
    pieces = loaded.stream(prompt, **options)
    print(prompt, next(pieces, ""), sep="", end="", flush=True)  # not before it is known that the prompt is taken
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _search(loaded, prompt, options):
    """Prints the best continuation of a prompt; of several each on a line of its own, best first, with its score."""
    (found,) = _best(loaded, [prompt], options)
    for text, score in found:
        print(f"{score:.4f}  {text!r}" if FLAGS.num_best > 1 else text)


def _best(loaded, prompts, options):
    """The --num_best pairs (text, score) of each prompt that --num_beams find, or as many as there are."""
    answer = loaded.predict("beam_search", prompt=prompts, **{name: [value] for name, value in options.items()})
    rows = zip(answer["text"].tolist(), answer["score"].tolist(), strict=True)
    pairs = [zip(texts[: FLAGS.num_best], scores, strict=False) for texts, scores in rows]
    return [[(text, score) for text, score in found if score > -float("inf")] for found in pairs]


if __name__ == "__main__":
    trainer_flags.define_generation()
    program.start(main)
