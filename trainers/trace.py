"""Which training documents a text repeats: python -m trainers.trace --model_dir=runs/gpt/latest --text='The list is empty'"""

import json
import sys
import time
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


AROUND = 24  # tokens that are shown before and behind a passage
LEAST = 2  # tokens of a passage: one token alone is copied from nowhere
MOST_PLACES = 2**16  # of a passage, that are looked at to tell its documents


def main():
    directory = trainer_flags.model_dir()
    text = trainer_flags.given_text()
    if not text:
        raise Refusal("The text is empty; there is nothing to look for.")
    with program.quiet():
        import tensorflow  # noqa: F401

    from zoo.data.suffixes import open_or_build

    shards, tokenizer = training_tokens(directory)
    suffixes = open_or_build(shards, lambda sentence: print(sentence, file=sys.stderr, flush=True))
    start = time.perf_counter()
    answer = traced(text, suffixes, shards, tokenizer, FLAGS.passages, FLAGS.documents, FLAGS.order)
    answer["milliseconds"] = round(1_000 * (time.perf_counter() - start), 3)
    print(json.dumps(answer, ensure_ascii=False) if FLAGS.format == "json" else written(answer))


def training_tokens(directory):
    """`(shards, tokenizer)`: the tokens of the train split of the run that a bundle lies in, from the cache or made again.

    Raises:
        Refusal: the bundle stands alone, or its task reads examples.
    """
    from trainers import canaries
    from trainers.evaluate import run_of
    from trainers.prepare import prepare
    from trainers.progress import ProgressBar
    from zoo import bundle as bundles
    from zoo.registry import TASKS
    from zoo.tokenizers import base as tokenizers

    run = run_of(directory)
    if "dataset" not in run:
        raise Refusal("This bundle stands alone and does not tell its training text; give the run that it was made in.")
    task_class = TASKS.get(bundles.read_config(directory)["task"])
    if task_class.reads != "text":
        raise Refusal(f"A model for {task_class.registered_name} reads examples; trace is for models that are trained on text.")
    own = tokenizers.load(Path(directory) / "tokenizer")
    source = canaries.source_of(run)
    with ProgressBar("Preparing") as progress:

        def prepared(spec, vocab_size, options=None):
            tokenizer, data = prepare(
                source, spec, vocab_size, splits=["train"], options=options,
                progress=lambda split, done: progress.update(done, split=split),
            )  # fmt: skip
            return data["train"], tokenizer

        task = task_class(task_class.config_class.from_dict(bundles.read_config(directory).get("task_config", {})))
        try:
            shards, tokenizer = prepared(run["tokenizer"], run["vocab_size"], task.tokenizer_options(run["tokenizer"]))
        except FileNotFoundError:
            tokenizer = None
        if tokenizer is None or tokenizer.digest() != own.digest():
            return prepared(str(Path(directory) / "tokenizer"), None)
    return shards, tokenizer


def traced(text, suffixes, shards, tokenizer, num_passages, num_documents, order=None):
    """What a text repeats of the stream `shards`, as a dict of JSON values.

    Args:
        text: a string.
        suffixes: the `Suffixes` of `shards`.
        tokenizer: what made the tokens.
        num_passages: the most passages, longest first. A passage is as long as it can be: no longer one holds it.
        num_documents: the most documents told of each, with the first place in each.
        order: n, to count each n-gram of the text besides; or None.
    """
    import numpy as np

    ids = np.asarray(tokenizer.encode(text), np.int64)
    longest = suffixes.longest_matches(ids)
    rows = []
    for n in range(1, int(max(longest, default=0)) + 1):
        rows.append({"n": n, "ngrams": len(ids) - n + 1, "found": int((longest >= n).sum())})
    # One that starts a position earlier and ends no sooner holds it.
    before = np.append(0, longest[:-1])
    starts = [int(i) for i in np.flatnonzero((longest >= LEAST) & (longest >= before))]
    starts = sorted(starts, key=lambda i: (-longest[i], i))[:num_passages]
    passages = [ids[i : i + longest[i]] for i in starts]
    firsts, lasts = suffixes.ranges(passages)
    answer = {"num_tokens": len(ids), "training_tokens": len(shards), "counts": rows, "passages": []}
    for start, passage, first, last in zip(starts, passages, firsts, lasts, strict=True):
        positions = np.sort(suffixes.order[first : min(last, first + MOST_PLACES)])
        numbers, firsts_in = np.unique(np.searchsorted(suffixes.ends, positions), return_index=True)
        places = positions[firsts_in[:num_documents]].tolist()
        answer["passages"].append({
            "start": start, "length": len(passage), "text": tokenizer.decode(passage), "count": int(last - first),
            "num_documents": len(numbers) if last - first <= MOST_PLACES else None,
            "documents": [_place(suffixes, shards, tokenizer, position, len(passage)) for position in places],
        })  # fmt: skip
    if order is not None:
        ngrams = [ids[i : i + order] for i in range(len(ids) - order + 1)]
        found = suffixes.counts(ngrams).tolist()
        answer["ngrams"] = [{"text": tokenizer.decode(n), "count": count} for n, count in zip(ngrams, found, strict=True)]
    return answer


def _place(suffixes, shards, tokenizer, position, length):
    """A document that holds a passage: its number, where in it the passage stands, and what stands around."""
    number, first, last = suffixes.document(position)
    begin, end = max(first, position - AROUND), min(last, position + length + AROUND)
    before, behind = tokenizer.decode(shards[begin:position]), tokenizer.decode(shards[position + length : end])
    return {"document": number, "token": position - first, "before": before, "behind": behind}


def written(answer):
    """The answer for a reader at a terminal."""
    lines = [f"{answer['num_tokens']:,} tokens, looked for in {answer['training_tokens']:,} of the training text"]
    lines += [f"{row['found']:,} of {row['ngrams']:,} {row['n']}-grams are there" for row in answer["counts"]]
    for passage in answer["passages"]:
        documents = "" if passage["num_documents"] is None else f" in {passage['num_documents']:,} documents"
        lines += ["", f"{passage['length']} tokens, {passage['count']:,} times{documents}: {passage['text']!r}"]
        for place in passage["documents"]:
            around = f"...{place['before']}[{passage['text']}]{place['behind']}..."
            lines.append(f"  document {place['document']:,} at token {place['token']:,}: {around!r}")
    lines += [f"{ngram['count']:>12,}  {ngram['text']!r}" for ngram in answer.get("ngrams", ())]
    return "\n".join([*lines, f"{answer['milliseconds']:.1f} ms"])


def start():
    """The program, with its flags."""
    trainer_flags.define_trace()
    program.start(main)


if __name__ == "__main__":
    start()
