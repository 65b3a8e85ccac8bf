"""How many blanks of one word a model of blank infilling fills with that very word: python -m benchmarks.blanks --model_dir=RUN

Of a text with a line a document, or of the embedded text's test split, pieces of --words words lose one word each, drawn
evenly. `fill` writes it, greedily. Prints one JSON object: the share of blanks that hold the word again, that of those where it
stands first, and the share that the most frequent word would fill.
"""

import argparse
import collections
import json
import random
import re
import sys
from pathlib import Path

from zoo.config import Refusal

BLANK = "[MASK]"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blanks", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True, help="a run or a bundle")
    parser.add_argument("--data_path", help="a text; by default the test split of the embedded one")
    parser.add_argument("--count", type=int, default=300, help="blanks")
    parser.add_argument("--words", type=int, default=24, help="words of a piece, the blank among them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        print(json.dumps(measured(args)))
    except Refusal as error:
        sys.exit(str(error))


def measured(args):
    """Shares of blanks, and how many there were."""
    import zoo

    model = zoo.load(args.model_dir)
    texts = Path(args.data_path).read_text(encoding="utf8").splitlines() if args.data_path else _test_split()
    asked = blanks(texts, args.words, args.count, random.Random(args.seed))
    whole = first = 0
    for begin in range(0, len(asked), 20):
        part = asked[begin : begin + 20]
        written = model.predict("fill", text=[text for text, _ in part], max_new_tokens=[12] * len(part))["spans"]
        for (_, word), spans in zip(part, written, strict=True):
            answer = spans[0].split()
            whole += answer == [word]
            first += answer[:1] == [word]
    counts = collections.Counter(word for _, word in asked)
    return {
        "blanks": len(asked), "filled": whole / len(asked), "first_word": first / len(asked),
        "most_frequent": counts.most_common(1)[0][1] / len(asked),
    }  # fmt: skip


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


def _test_split():
    import tfds_configs

    return tfds_configs.get("python_docs").texts("test")


if __name__ == "__main__":
    main()
