"""Lets a trained model write: python -m trainers.generate --model_dir=runs/gpt/latest --prompt='The'"""

import contextlib
import json
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo import text_files
from zoo.config import Refusal

FLAGS = flags.FLAGS


# Inputs of the signature `generate`; then what the graph behind it has besides, but no request; then what searching takes.
SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
PENALTIES = ("min_p", "repetition_penalty", "no_repeat_ngram", "draft")
ANOTHER_TEXT = ("min_new_tokens", "no_repeat_ngram", "target_prefix", "coverage_penalty")  # of models that write one
SEARCH = ("num_beams", "length_penalty", "beam_rule", "num_best")
PASSAGES = 3  # that --trace tells of each text
ROWS = 32  # prompts of a file that are answered together


def main():
    if FLAGS.export_dir and FLAGS.model_dir:
        raise Refusal("--model_dir and --export_dir both name a model; give one of the two.")
    if FLAGS.prompt is not None and FLAGS.prompt_file:
        raise Refusal("--prompt and --prompt_file both say what to go on with; give one of the two.")
    directory = None if FLAGS.export_dir else trainer_flags.model_dir()
    search, options, given = _options()
    if FLAGS.trace and (FLAGS.export_dir or FLAGS.chat or not FLAGS.prompt_file):
        raise Refusal("--trace looks in the training text of a run: it takes --model_dir and --prompt_file, and no --chat.")
    prompts = [line for _, line in text_files.lines(FLAGS.prompt_file)] if FLAGS.prompt_file else None
    if FLAGS.export_dir:
        from trainers import served

        with program.quiet():
            loaded = served.Served(Path(FLAGS.export_dir))
    else:
        with program.quiet():
            import tensorflow  # noqa: F401

        import zoo

        loaded = zoo.load(directory)
        if "generate" not in loaded.signatures:
            task = loaded.task.registered_name
            raise Refusal(f"{directory} was made for {task} and writes no text; in Python, zoo.load(...).predict() asks it.")
    options = _fitted(loaded, search, options, given)
    write = _Conversation().answer if FLAGS.chat else _search if search else _write
    if FLAGS.chat and prompts is not None:
        _answer_file(loaded, prompts, options)
    elif prompts is not None:
        _write_file(loaded, prompts, search, options, _tracer(directory) if FLAGS.trace else None)
    elif FLAGS.prompt is not None:
        write(loaded, FLAGS.prompt, options)
    else:
        _converse(loaded, write, options)


def _options():
    """Whether beams are searched, the options of that or of sampling, and the names of those that were given. Raises Refusal
    for flags that do not go together."""
    given = {name for name in (*SAMPLING, *PENALTIES, *ANOTHER_TEXT, *SEARCH, "stop") if FLAGS[name].present}
    if FLAGS.stop == "":
        raise Refusal("--stop is empty; give the string before which a text is to end.")
    if FLAGS.chat:
        if FLAGS.export_dir:
            raise Refusal("--chat asks the model of a bundle, and no SavedModel; use it with --model_dir.")
        if unfit := sorted(given - {*SAMPLING, "min_p"}):
            raise Refusal(f"--{unfit[0]} is for texts that go on; leave it out with --chat.")
    if FLAGS.num_beams:
        if unfit := sorted(given - {*SEARCH, *ANOTHER_TEXT, "max_new_tokens"}):
            raise Refusal(f"--{unfit[0]} is for sampling, and --num_beams searches; leave one of them out.")
        if FLAGS.num_best > FLAGS.num_beams:
            raise Refusal(f"--num_best={FLAGS.num_best} is more than --num_beams={FLAGS.num_beams}.")
        asked = ["max_new_tokens", "num_beams", "length_penalty", *({"beam_rule"} & given)]
        return True, {name: FLAGS[name].value for name in asked}, given
    if unfit := sorted(given & {*SEARCH, "coverage_penalty"}):
        raise Refusal(f"--{unfit[0]} is for a search, which --num_beams asks for.")
    if FLAGS.export_dir and (unfit := sorted(given & {*PENALTIES} - {*ANOTHER_TEXT})):
        raise Refusal(f"--{unfit[0]} is not an input of a SavedModel's signatures; use it with --model_dir.")
    asked = {name: FLAGS[name].value for name in (*PENALTIES, "stop") if name in given}
    return False, {**{name: FLAGS[name].value for name in SAMPLING}, **asked}, given


def _fitted(loaded, search, options, given):
    """The options as a model takes them: one that writes another text has further ones, and does not sample unless asked to.

    Raises Refusal for those that it has not.
    """
    asked = given & {*ANOTHER_TEXT}
    if not loaded.goes_on:
        greedy = {} if search or "temperature" in given else {"temperature": 0.0}
        return {**options, **greedy, **{name: FLAGS[name].value for name in asked}}
    if unfit := sorted(asked - {"no_repeat_ngram"}):
        raise Refusal(f"--{unfit[0]} is for models that write another text, such as a translation; leave it out.")
    if asked and search:
        raise Refusal("--no_repeat_ngram is for sampling, and --num_beams searches; leave one of them out.")
    if asked and FLAGS.export_dir:
        raise Refusal("--no_repeat_ngram is not an input of a SavedModel's signatures; use it with --model_dir.")
    return options


def _tracer(directory):
    """text -> the longest passages of it that the training text of its run holds, as `trainers.trace` tells them."""
    from trainers import trace
    from zoo.data.suffixes import open_or_build

    shards, tokenizer = trace.training_tokens(directory)
    suffixes = open_or_build(shards, lambda sentence: print(sentence, file=sys.stderr, flush=True))

    def passages(text):
        found = trace.traced(text, suffixes, shards, tokenizer, PASSAGES, 0)["passages"]
        return [{name: each[name] for name in ("length", "count", "num_documents", "text")} for each in found]

    return passages


def _write_file(loaded, prompts, search, options, tracer=None):
    """Prints a JSON object for each prompt, or for each of the best continuations of each, in the order of the file.

    Prompts of like length are answered together, `ROWS` at a time: padding costs as much as text.
    """
    loaded.require_room(prompts)
    written = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        some = [prompts[i] for i in rows]
        if search:
            answers = [[{"text": text, "score": score} for text, score in found] for found in _best(loaded, some, options)]
        else:
            answers = [[{"text": text}] for text in loaded.generate(some, **options)]
        for i, answer in zip(rows, answers, strict=True):
            written[i] = answer
    for prompt, answers in zip(prompts, written, strict=True):
        for answer in answers:
            copied = {} if tracer is None else {"copied": tracer(answer["text"])}
            print(json.dumps({"prompt": prompt, **answer, **copied}, ensure_ascii=False), flush=True)


def _converse(loaded, write, options):
    """Reads prompts from the terminal, one a line, until its end."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` arrow keys and a history

        print("Type a text and Enter. Ctrl-C stops a text that is being written; Ctrl-D ends.", flush=True)
    piped = None if terminal else (line for _, line in text_files.lines_of(sys.stdin.buffer, "The standard input"))
    while True:
        try:
            line = input("prompt> ") if terminal else next(piped, None)
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line is None:
            return
        try:
            write(loaded, line, options)
        except KeyboardInterrupt:
            if not terminal:
                raise
            print()  # this text ends here, and the next one may be asked for
        except ValueError as error:
            if not (terminal and program.is_refusal(error)):
                raise
            print(f"error: {program.sentence_of(error)}")  # and whoever sits there tries another


class _Conversation:
    """What has been said so far, so that each answer goes on from it."""

    def __init__(self):
        self._messages = []

    def answer(self, loaded, prompt, options):
        """Prints the answer to what the user says next, token by token."""
        messages, pieces = [*self._messages, {"role": "user", "content": prompt}], []
        for piece in loaded.stream_chat(messages, **options):
            pieces.append(piece)
            print(piece, end="", flush=True)
        print()
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


def _answer_file(loaded, prompts, options):
    """Prints a JSON object for each prompt, each the only message of a conversation of its own."""
    for prompt in prompts:
        answer = loaded.chat([{"role": "user", "content": prompt}], **options)
        print(json.dumps({"prompt": prompt, "text": answer}, ensure_ascii=False), flush=True)


def _write(loaded, prompt, options):
    """Prints a prompt and, token by token, its continuation; or another text alone."""
    if options.get("draft", "none") != "none":
        print(loaded.generate(prompt, **options), flush=True)  # several tokens at a time come as one text
        return
    pieces = loaded.stream(prompt, **{name: value for name, value in options.items() if name != "draft"})
    kept = prompt if loaded.goes_on else ""
    print(kept, next(pieces, ""), sep="", end="", flush=True)  # not before it is known that the prompt is taken
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
    inputs = {"prompt" if loaded.goes_on else "text": prompts, **{name: [value] for name, value in options.items()}}
    answer = loaded.predict("beam_search", **inputs)
    rows = zip(answer["text"].tolist(), answer["score"].tolist(), strict=True)
    pairs = [zip(texts[: FLAGS.num_best], scores, strict=False) for texts, scores in rows]
    return [[(text, score) for text, score in found if score > -float("inf")] for found in pairs]


def start():
    """The program, with its flags."""
    trainer_flags.define_generation()
    program.start(main)


if __name__ == "__main__":
    start()
