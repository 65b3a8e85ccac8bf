"""Word vectors beside gensim's in one run: words a second, and how well each side's vectors agree with people.

    python -m benchmarks.word_vectors --text=brown.txt --peer_python=PATH                       skip-gram, words a second
    python -m benchmarks.word_vectors --text=brown.txt --peer_python=PATH --objective=cbow
    python -m benchmarks.word_vectors --text=brown.txt --peer_python=PATH --similarity=wordsim353.tsv,simlex999.txt \\
        --window=15 --sample=1e-4 --epochs=5 --seeds=1,2,3                                    quality, one training a seed
    python -m benchmarks.word_vectors --words=400000 --hidden_dim=300          nearest words served, milliseconds a request

Both sides read the same file: the text in lower case, without punctuation, a sentence a line. Ours is the trainer as it ships,
with the family's recipe. gensim has two workers and reads the file natively (`corpus_file`). Speed: the sides take turns, an
epoch each; words are all words of the text that are in the vocabulary, thinned out or not. Quality: Spearman's correlation over
the pairs whose two words both are known. Requests: of an exported table of random numbers, beside NumPy's product of the same
table with a vector; the two take turns.
"""

import argparse
import importlib.metadata
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks import sides

RATES = {"skip_gram": 0.025, "cbow": 0.05, "cbow_sum": 0.05}  # of the original program, and of gensim
MIN_COUNT, WORKERS = 5, 2


def main():
    args = _parser().parse_args()
    if args.worker:
        return SIDES[args.worker](args)
    if args.words:
        return _requests(args)
    if not args.text:
        raise SystemExit("Give a --text to train on, or --words to measure requests.")
    pythons = {"ours": sys.executable, "gensim": args.peer_python}
    pythons = {side: python for side, python in pythons.items() if side in args.sides.split(",")}
    if "gensim" in pythons and not sides.has_module(args.peer_python, "gensim"):
        print(f"gensim is not installed in {args.peer_python}: no figure and no ratio for it.")
        del pythons["gensim"]
    with tempfile.TemporaryDirectory() as directory:
        num_words = _write_text(args.text, Path(directory) / "text")
        print(
            f"{args.objective}, {num_words:,} words, D {args.hidden_dim}, window {args.window}, {args.negatives} negatives, "
            f"sample {args.sample}, min_count {MIN_COUNT}; {', '.join(map(_version, pythons.items()))}",
            flush=True,
        )
        commands = {
            side: [python, "-m", "benchmarks.word_vectors", *sys.argv[1:], f"--worker={side}", f"--directory={directory}"]
            for side, python in pythons.items()
        }
        if args.similarity:
            return _judge(args, commands, Path(directory))
        seconds = sides.measure(commands, args.rounds)
    return sides.report(seconds, ["ours"], ["gensim"], num_words, "words")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.word_vectors", description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a text file, a sentence a line")
    parser.add_argument("--words", type=int, default=0, help="measures requests to a table of so many words")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with gensim")
    parser.add_argument("--objective", choices=RATES, default="skip_gram")
    parser.add_argument("--hidden_dim", type=int, default=100)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--batch_size", type=int, help="rows of a batch of ours; the recipe's otherwise")
    parser.add_argument("--seq_length", type=int, help="centres of a row of ours; the recipe's otherwise")
    parser.add_argument("--learning_rate", type=float, help="of ours; the recipe's otherwise")
    parser.add_argument("--most_pairs", type=float, help="of ours; the task's otherwise")
    parser.add_argument("--shared_negatives", type=int, help="of ours; the task's otherwise")
    parser.add_argument("--buckets", type=int, default=0, help="rows for parts of words, beside gensim's FastText")
    parser.add_argument("--sides", default="ours,gensim", help="which to run, by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--similarity", default="", help="files of judged pairs, by commas: measures quality")
    parser.add_argument("--epochs", type=int, default=5, help="for quality")
    parser.add_argument("--seeds", default="1", help="for quality, by commas")
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser


def _version(side):
    name, python = side
    package = "tensorflow" if name == "ours" else name
    if python == sys.executable:
        return f"{package} {importlib.metadata.version(package)}"
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return f"{package} {subprocess.run([python, '-c', asked], capture_output=True, text=True, check=True).stdout.strip()}"


def _write_text(source, path):
    """Writes the words that both sides read. Returns how many are in the vocabulary."""
    from zoo.data.pairs import count_words
    from zoo.tokenizers.word import WordTokenizer, normalised

    (text,) = normalised([Path(source).read_text(encoding="utf8")], lowercase=True, punctuation=False)
    path.write_text("\n".join(" ".join(line.split()) for line in text.split("\n")) + "\n", encoding="utf8")
    tokenizer = WordTokenizer.train([text], min_count=MIN_COUNT)
    (ids,) = tokenizer.encode_batch([text])
    return int(count_words(ids, tokenizer.vocab_size, min_count=MIN_COUNT, special_ids=tokenizer.special_ids).sum())


# Sides


class _Ours:
    """The trainer as `trainers.run` makes it, on the whole text."""

    def __init__(self, args, epochs):
        from trainers.engine import loop, optimizers
        from zoo.data.batch import Layout
        from zoo.models.word2vec import Word2Vec, Word2VecConfig
        from zoo.tasks.word_vectors import WordVectors, WordVectorsConfig
        from zoo.tokenizers.word import WordTokenizer

        recipe = Word2VecConfig.recipe
        text = (Path(args.directory) / "text").read_text(encoding="utf8")
        self.tokenizer = WordTokenizer.train([text], min_count=MIN_COUNT)
        (ids,) = self.tokenizer.encode_batch([text])
        loop.set_seed(args.seed)
        given = {name: getattr(args, name) for name in ("most_pairs", "shared_negatives") if getattr(args, name)}
        task = WordVectors(
            WordVectorsConfig(
                objective=args.objective, window=args.window, negatives=args.negatives, sample=args.sample, min_count=MIN_COUNT,
                buckets=args.buckets, **given,
            )
        )  # fmt: skip
        fields = dict(eos_id=self.tokenizer.eos_id, unk_id=self.tokenizer.unk_id)
        config = Word2VecConfig(self.tokenizer.vocab_size, args.hidden_dim, **fields)
        self.model = task.assemble(Word2Vec(config)).build_from_ids()
        self.task = task
        layout = Layout(args.seq_length or recipe["seq_length"], args.batch_size or recipe["batch_size"], args.seed)
        self.batches = task.training_batches(ids, self.model, self.tokenizer, layout)
        names = ("optimizer", "schedule", "warmup_steps", "weight_decay", "clip_norm")
        rate = Word2VecConfig.recipe_for("default" if args.objective == "skip_gram" else "cbow")["learning_rate"]
        run = {name: recipe[name] for name in names} | {"learning_rate": args.learning_rate or rate}
        self.steps = epochs * self.batches.steps_per_epoch
        optimizer = optimizers.create(SimpleNamespace(steps=self.steps, **run), self.model.trainable_variables)
        self.trainer = loop.Trainer(
            self.model, task, optimizer, batch_size=layout.batch_size, seq_length=layout.seq_length, xla=True
        )

    def train(self, first, end):
        from trainers.engine.loop import Prefetcher

        prefetcher = Prefetcher(self.batches.batch, first, end)
        for step, batch, _ in prefetcher:
            told = self.trainer.step(batch, self.batches.starts_epoch(step))
            float(told.loss), float(told.gradient_norm)
        prefetcher.close()

    def vectors(self):
        if self.task.config.buckets:
            self.task.compose(self.model, self.tokenizer, np.asarray(self.model.head.counts))
        words = {word: i for i, word in enumerate(self.tokenizer.vocabulary)}
        return words, self.model.without_head().table().numpy()


def _ours(args):
    if args.similarity:
        side = _Ours(args, args.epochs)
        side.train(0, side.steps)
        return _save(args, "ours", *side.vectors())
    side = _Ours(args, 1 + args.rounds)
    epochs = iter(range(1 + args.rounds))

    def work():
        first = next(epochs) * side.batches.steps_per_epoch
        side.train(first, first + side.batches.steps_per_epoch)

    sides.serve(work)
    return None


def _gensim(args):
    from gensim.models import FastText, Word2Vec

    text = str(Path(args.directory) / "text")
    parts = {"bucket": args.buckets} if args.buckets else {}
    model = (FastText if parts else Word2Vec)(
        vector_size=args.hidden_dim, sg=int(args.objective == "skip_gram"), window=args.window, negative=args.negatives,
        sample=args.sample, min_count=MIN_COUNT, alpha=RATES[args.objective], workers=WORKERS, seed=args.seed,
        **parts,
    )  # fmt: skip
    model.build_vocab(corpus_file=text)
    known = dict(corpus_file=text, total_words=model.corpus_total_words, total_examples=model.corpus_count)
    if args.similarity:
        model.train(epochs=args.epochs, **known)
        return _save(args, "gensim", model.wv.key_to_index, model.wv.vectors)
    sides.serve(lambda: model.train(epochs=1, **known))
    return None


SIDES = {"ours": _ours, "gensim": _gensim}


# Quality


def _save(args, side, words, table):
    """Keeps the vectors of the words that are asked for."""
    asked = sorted({word for path in args.similarity.split(",") for pair in _pairs(path) for word in pair[:2]} & set(words))
    np.savez(Path(args.directory) / side, words=asked, table=np.stack([table[words[word]] for word in asked]))


def _pairs(path):
    """(word, word, judgement) of a file, in lower case: the peer's interpreter does not have the zoo's packages."""
    for line in Path(path).read_text(encoding="utf8").splitlines():
        first, second, *judgements = line.split("\t") if line.count("\t") >= 2 else ("#", "", "")
        if not first.startswith("#"):
            yield first.lower(), second.lower(), float(judgements[0])


def _judge(args, commands, directory):
    from zoo.metrics import spearman

    found = {}
    for seed in map(int, args.seeds.split(",")):
        for side, command in commands.items():
            subprocess.run([*command, f"--seed={seed}"], check=True, stderr=subprocess.DEVNULL)
            with np.load(directory / f"{side}.npz") as kept:
                vectors = dict(zip(kept["words"].tolist(), kept["table"], strict=True))
            for path in args.similarity.split(","):
                pairs = list(_pairs(path))
                known = [(vectors[a], vectors[b], judged) for a, b, judged in pairs if a in vectors and b in vectors]
                cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b, _ in known]
                score = spearman([judged for *_, judged in known], cosines)
                found.setdefault((side, Path(path).name), []).append(score)
                unknown = len(pairs) - len(known)
                print(
                    f"  {side:<8} seed {seed}  {Path(path).name}: {score:.4f}   ({unknown} of {len(pairs)} unknown)", flush=True
                )
    for (side, name), scores in found.items():
        print(f"  {side:<8} mean     {name}: {np.mean(scores):.4f}")
    return found


# Requests


def _requests(args):
    """Prints how long requests of one word take, and NumPy's product of the table with a vector. Returns name -> seconds."""
    import tensorflow as tf

    from zoo.export import export_saved_model
    from zoo.models.word2vec import Word2Vec, Word2VecConfig
    from zoo.tasks.word_vectors import WordVectors
    from zoo.tokenizers.word import WordTokenizer

    tokenizer, task = WordTokenizer([f"w{i}" for i in range(args.words)]), WordVectors()
    config = Word2VecConfig(tokenizer.vocab_size, args.hidden_dim, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    model = task.assemble(Word2Vec(config)).build_from_ids()
    table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, args.hidden_dim)).astype(np.float32)
    counts = np.arange(len(table), 0, -1, dtype=np.float32)
    counts[sorted(tokenizer.special_ids)] = 0
    model.without_head().embeddings.assign(table)
    model.head.counts.assign(counts)
    with tempfile.TemporaryDirectory() as directory:
        served = tf.saved_model.load(str(export_saved_model(directory, model, tokenizer, task))).signatures
        del model
        asked = {"nearest": {"word": ["w17"]}, "analogy": {"a": ["w1"], "b": ["w2"], "c": ["w3"]}}
        asked = {name: {key: tf.constant(each) for key, each in {**of, "k": [10]}.items()} for name, of in asked.items()}
        works = {name: lambda name=name: served[name](**asked[name])["words"].numpy() for name in asked}
        works["NumPy's product"] = lambda: table @ table[0]
        seconds = {name: [] for name in works}
        for turn in range(1 + args.rounds):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                seconds[name] += [time.perf_counter() - start] if turn else []
    print(f"{args.words:,} x {args.hidden_dim}, one word a request, {args.rounds} rounds")
    for name, times in seconds.items():
        ratio = statistics.median(numpy / ours for numpy, ours in zip(seconds["NumPy's product"], times, strict=True))
        middle, best = (1e3 * each for each in (statistics.median(times), min(times)))
        print(f"  {name:<16} {middle:6.1f} ms   (best {best:.1f}); NumPy's / this: {ratio:.2f}")
    return seconds


if __name__ == "__main__":
    main()
