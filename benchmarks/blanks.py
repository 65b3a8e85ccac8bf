"""How many blanks of one word a model of blank infilling fills with that very word: python -m benchmarks.blanks --model_dir=RUN

Of a text with a line a document, or of a split of the embedded text, by default test, pieces of --words words lose one word
each, drawn evenly; those that are too long for the model are left out. `fill` writes it, greedily. Prints one JSON object: the
share of blanks that hold the word again, that of those where it stands first, the share that the most frequent word would fill,
and, of embedded text that is held out, the share that counting fills: the word that stood most often between the same
neighbours in the train split (`counted`).

    python -m benchmarks.blanks --model_dir=RUN --beside=GPT_RUN

What a language model with the same vocabulary, which sees the text before a token alone, makes of the tokens that are taken out
of the same windows: bits per byte of both, by kind of mask. A model of blank infilling pays for the ends of blanks, too.
"""

import argparse
import collections
import json
import math
import random
import re
import sys
from pathlib import Path

from zoo.config import Refusal

BLANK, NEW_TOKENS = "[MASK]", 12


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blanks", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True, help="a run or a bundle")
    parser.add_argument("--data_path", help="a text; by default the embedded one")
    parser.add_argument("--split", default="test", help="of the embedded text: train, validation or test")
    parser.add_argument("--count", type=int, default=300, help="blanks")
    parser.add_argument("--words", type=int, default=24, help="words of a piece, the blank among them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", help="a run of a language model: losses of both on the same spans, and nothing else")
    args = parser.parse_args()
    try:
        print(json.dumps(beside(args) if args.beside else measured(args)))
    except Refusal as error:
        sys.exit(str(error))


def measured(args):
    """Shares of blanks, and how many there were."""
    import zoo

    model = zoo.load(args.model_dir)
    asked = blanks(_asked(args), args.words, args.count, random.Random(args.seed))
    lengths = [len(tokens) for tokens in model.tokenizer.encode_batch([text for text, _ in asked])]
    longest = model.task.facts.max_tokens - NEW_TOKENS
    asked = [pair for pair, length in zip(asked, lengths, strict=True) if length <= longest]
    whole = first = 0
    for begin in range(0, len(asked), 20):
        part = asked[begin : begin + 20]
        written = model.predict("fill", text=[text for text, _ in part], max_new_tokens=[NEW_TOKENS] * len(part))["spans"]
        for (_, word), spans in zip(part, written, strict=True):
            answer = spans[0].split()
            whole += answer == [word]
            first += answer[:1] == [word]
    counts = collections.Counter(word for _, word in asked)
    found = {
        "blanks": len(asked), "filled": whole / len(asked), "first_word": first / len(asked),
        "most_frequent": counts.most_common(1)[0][1] / len(asked),
    }  # fmt: skip
    if not args.data_path and args.split != "train":
        found["counted"] = sum(guess == word for guess, (_, word) in zip(counted(asked), asked, strict=True)) / len(asked)
    return found


def counted(asked):
    """For each blank the word of the largest sum, over neighbourhoods of the blank that the train split has, of weight times
    relative frequency: of two words at either side, of three of these four, of one at either side, and of one alone."""
    neighbourhoods = {(-2, -1, 1, 2): 8, (-2, -1, 1): 4, (-1, 1, 2): 4, (-1, 1): 3, (-1,): 1, (1,): 1}
    counts = collections.defaultdict(collections.Counter)
    for text in _texts("train"):
        words = ["", "", *text.split(), "", ""]
        for i in range(2, len(words) - 2):
            if words[i].isalpha():
                for places in neighbourhoods:
                    counts[places, tuple(words[i + place] for place in places)][words[i]] += 1
    for text, _ in asked:
        words = ["", "", *text.split(), "", ""]
        i, sums = words.index(BLANK), collections.Counter()
        for places, weight in neighbourhoods.items():
            seen = counts.get((places, tuple(words[i + place] for place in places)), {})
            total = sum(seen.values())
            for word, count in seen.items():
                sums[word] += weight * count / (total + 1)
        yield max(sums, key=sums.get, default=None)


def beside(args):
    """Bits per byte of what is taken out, by the mask that stands for it, of both models."""
    import numpy as np

    import zoo
    from zoo.data.batch import Layout

    model, other = zoo.load(args.model_dir), zoo.load(args.beside)
    tokenizer, ids = model.tokenizer, model.task.spelling(model.tokenizer).ids
    texts = _asked(args)
    encoded = tokenizer.encode_batch(texts)
    for mine, theirs in zip(encoded, other.tokenizer.encode_batch(texts), strict=True):
        if mine.tolist() != theirs.tolist():
            raise Refusal("The two models cut texts into different tokens: train them on one vocabulary.")
    stream = np.concatenate([np.append(text, tokenizer.eos_id) for text in encoded]).astype(np.int32)
    layout, first = Layout(model.task.facts.max_tokens, 16), len(model.task.frame("language_model", tokenizer).before)
    begins, totals = tokenizer.eos_id, collections.defaultdict(lambda: np.zeros(4))
    for batch in model.task.evaluation_batches(stream, model.model, tokenizer, layout):
        inputs = model.model.taken(batch)
        mine = np.asarray(model.model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)[0])
        windows = [spans_put_back(batch, row, first) for row in range(len(mine))]
        rows = np.full((len(mine), max(len(tokens) for tokens, _ in windows) + 1), tokenizer.pad_id, np.int32)
        for row, (tokens, _) in zip(rows, windows, strict=True):
            row[: len(tokens) + 1] = begins, *tokens
            begins = tokens[-1] if tokens else begins
        theirs = np.asarray(other.model.token_log_probs(rows[:, :-1], rows[:, 1:])[0])
        for row, (tokens, gone) in enumerate(windows):
            weights, labels = batch["loss_weights"][row] > 0, batch["labels"][row]
            if gone:
                mask = next(
                    name for name in ("mask", "sentence_mask", "suffix_mask") if getattr(ids, name) in batch["token_ids"][row]
                )
                num_bytes = len(tokenizer.decode([tokens[i] for i in gone]).encode())
                text = weights & (labels != ids.eop)
                totals[mask] += -mine[row][text].sum(), -mine[row][weights & ~text].sum(), -theirs[row][gone].sum(), num_bytes
    totals["all"] = sum(totals.values())
    return {
        mask: dict(zip(("text", "ends", "beside"), (total[:3] / total[3] / math.log(2)).round(4).tolist(), strict=True))
        for mask, total in totals.items()
    }  # fmt: skip


def spans_put_back(batch, row, first):
    """The tokens of a row's window, a list, and the places of those among them that had been taken out."""
    spans = collections.defaultdict(list)
    positions, labels, weights = (batch[name][row] for name in ("positions", "labels", "loss_weights"))
    prefix, tokens, gone = int(batch["prefix_lengths"][row]), [], []
    for t in range(prefix, len(labels)):
        if weights[t] and positions[t, 1] > 1:
            spans[int(positions[t, 0])].append(int(batch["token_ids"][row, t]))
    for t in range(first, prefix):
        span = spans.get(t)
        gone += range(len(tokens), len(tokens) + len(span or ()))
        tokens += span or [int(batch["token_ids"][row, t])]
    return tokens, gone


def blanks(texts, words, count, stream):
    """Pairs of a text with one blank and the word that stood there: words of letters, with white space around them."""
    pieces = []
    for text in texts:
        found = list(re.finditer(r"\S+", text))
        for i in range(0, len(found) - words + 1, words):
            pieces.append(text[found[i].start() : found[i + words - 1].end()])
    asked = []
    for piece in stream.sample(pieces, len(pieces)):
        places = [match for match in re.finditer(r"(?<=\s)[^\W\d_]+(?=\s)", piece)]
        if places and len(asked) < count:
            place = stream.choice(places)
            asked.append((piece[: place.start()] + BLANK + piece[place.end() :], place.group()))
    if not asked:
        raise Refusal(f"The text has no piece of {words} words with a word to leave out; take fewer --words.")
    return asked


def _asked(args):
    return Path(args.data_path).read_text(encoding="utf8").splitlines() if args.data_path else _texts(args.split)


def _texts(split):
    import tfds_configs

    return list(tfds_configs.get("python_docs").texts(split))


if __name__ == "__main__":
    main()
