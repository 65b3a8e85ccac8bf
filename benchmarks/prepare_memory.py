"""How much memory and time it takes to prepare one large text: from a file to a tokenizer and token shards.

    python -m benchmarks.prepare_memory                                     300 MB in one file, bpe
    python -m benchmarks.prepare_memory --megabytes=3000 --tokenizers=bpe,word
    python -m benchmarks.prepare_memory --shapes=file,line,gzip,files       many lines, one line, compressed, small files
    python -m benchmarks.prepare_memory --tokenizers=word --then=windows,pairs        an epoch of word vectors' batches; GloVe's

The text is made of the source files of installed packages, again and again with a number in front of each. Every figure is a
process of its own: the most memory that it ever held, what it held before it began, its seconds by the clock and those of all
cores together. MB/s is by the clock and counts the text once, though it is read twice where a tokenizer is trained.

`--then` says what is made of the tokens in another process: every batch of windows of an epoch, or the co-occurrences of all
words (window 15). Words are those that stand five times. What the process's own memory grew by meanwhile is told too: pages of
the tokens' files, which the system takes back when it needs them, count in the peak.
"""

import argparse
import gzip
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

MEGABYTE = 1_000_000
SHAPES = ("file", "line", "gzip", "files")
SMALL_FILE_BYTES = 6_000


def main():
    args = _parser().parse_args()
    if args.worker:
        return WORKERS[args.then or "tokens"](args.worker, args.tokenizers)
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        for shape in args.shapes.split(","):
            path = make_text(Path(scratch), args.megabytes * MEGABYTE, shape)
            for tokenizer in args.tokenizers.split(","):
                found, *more = measure(path, tokenizer, *filter(None, args.then.split(",")))
                memory = f"peak {found['peak'] / MEGABYTE:6,.0f} MB, {found['before'] / MEGABYTE:4,.0f} before"
                seconds = f"{found['seconds']:6.1f} s, {found['core_seconds']:6.1f} core s"
                speed = f"{found['num_bytes'] / MEGABYTE / found['seconds']:6.2f} MB/s"
                title = f"{args.megabytes:,} MB, {shape:5} {tokenizer:9}"
                print(f"{title} {memory}; {seconds}, {speed}; {found['num_tokens']:,} tokens", flush=True)
                for each in more:
                    memory = f"peak {each['peak'] / MEGABYTE:6,.0f} MB, {each['before'] / MEGABYTE:4,.0f} before"
                    own = f"{each['own'] / MEGABYTE:5,.0f} MB of its own"
                    speeds = ", ".join(f"{speed / 1e3:,.0f}" for speed in each["words_per_core_second"])
                    print(f"  {each['title']} {memory}, {own}; thousand words a core second: {speeds}", flush=True)
            if shape == "files":
                shutil.rmtree(path.parents[1])
            else:
                path.unlink()


def make_text(directory, num_bytes, shape):
    """Writes about `num_bytes` of UTF-8 text in one of `SHAPES` into a directory and returns its path."""
    path = Path(directory) / f"{shape}.txt{'.gz' if shape == 'gzip' else ''}"
    if shape == "files":
        return _small_files(make_text(directory, num_bytes, "file"), Path(directory) / "small")
    files = [file for file in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")) if file.is_file()]
    written = 0
    with gzip.open(path, "wb", compresslevel=1) if shape == "gzip" else open(path, "wb") as out:
        for number, file in enumerate(itertools.cycle(files)):
            text = f"{number} {file.name}\n{file.read_text(encoding='utf8', errors='replace')}"
            data = (text.replace("\n", " ") if shape == "line" else text).encode()
            written += out.write(data)
            if written >= num_bytes:
                return path


def _small_files(path, directory):
    """Cuts a text into files of `SMALL_FILE_BYTES`, a thousand in a directory; returns the pattern that names them all."""
    with open(path, "rb") as file:
        for number in itertools.count():
            text = file.read(SMALL_FILE_BYTES).decode(errors="ignore")
            if not text:
                break
            place = directory / f"{number // 1000:04}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number % 1000:03}.txt").write_text(text, encoding="utf8")
    path.unlink()
    return directory / "**" / "*.txt"


def measure(path, tokenizer, *then):
    """What processes of their own found, a list of dicts of numbers, memory in bytes: one that prepared the file, and one for
    each of `then`."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ZOO_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
        for what in ("", *then):
            command = [sys.executable, "-m", "benchmarks.prepare_memory", f"--worker={path}", f"--tokenizers={tokenizer}"]
            done = subprocess.run([*command, f"--then={what}"], env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _prepare(path, tokenizer):
    import tfds_configs
    from trainers.prepare import prepare
    from zoo.registry import TOKENIZERS

    TOKENIZERS.get(tokenizer)
    before, began, used = _peak(), time.perf_counter(), time.process_time()
    _, streams = prepare(tfds_configs.get("local_text", path), tokenizer)
    splits = [streams["train"], streams["validation"]]
    print(
        json.dumps(
            {
                "before": before, "peak": _peak(), "seconds": time.perf_counter() - began,
                "core_seconds": time.process_time() - used, "num_bytes": sum(split.num_bytes for split in splits),
                "num_tokens": sum(split.num_tokens for split in splits),
            }
        )
    )  # fmt: skip


def _counted_words(path, tokenizer):
    """(stream, tokenizer, counts of its words), of tokens that were prepared before."""
    import tfds_configs
    from trainers.prepare import prepare
    from zoo.data.pairs import count_words

    tokenizer, streams = prepare(tfds_configs.get("local_text", path), tokenizer)
    stream = streams["train"]
    return stream, tokenizer, lambda: count_words(stream, tokenizer.vocab_size, min_count=5, special_ids=tokenizer.special_ids)


def _windows(path, tokenizer):
    from zoo.data.batch import Layout
    from zoo.data.pairs import WindowBatches, Windows

    stream, tokenizer, count = _counted_words(path, tokenizer)
    before, speeds = _peak(), []
    counts = count()
    batches = WindowBatches(stream, Layout(32, 128), counts, tokenizer.eos_id, Windows())
    tenths = [number * batches.steps_per_epoch // 10 for number in range(11)]
    with _Watch() as watch:
        for first, end in itertools.pairwise(tenths):
            used = time.process_time()
            for step in range(first, end):
                batches.batch(step)
            speeds.append(int(counts.sum()) / 10 / max(time.process_time() - used, 1e-9))
    _tell(f"windows of {counts.sum():,} words", before, watch.most - watch.first, speeds)


def _pairs(path, tokenizer):
    from zoo.data.cooccurrence import count_cooccurrences

    stream, tokenizer, count = _counted_words(path, tokenizer)
    before, used = _peak(), time.process_time()
    counts = count()
    with tempfile.TemporaryDirectory() as directory, _Watch() as watch:
        pairs = count_cooccurrences(stream, counts, tokenizer.eos_id, Path(directory) / "pairs")
        speed = int(counts.sum()) / (time.process_time() - used)
        _tell(f"{pairs.num_pairs:,} pairs of {counts.sum():,} words", before, watch.most - watch.first, [speed])


WORKERS = {"tokens": _prepare, "windows": _windows, "pairs": _pairs}


def _tell(title, before, own, speeds):
    told = {"title": title, "before": before, "peak": _peak(), "own": own, "words_per_core_second": speeds}
    print(json.dumps(told))


class _Watch:
    """Looks every tenth of a second how much memory is the process's own: the most in `most`."""

    def __enter__(self):
        self.first = self.most = _own()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while not self._ended.wait(0.1):
            self.most = max(self.most, _own())

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


def _own():
    """Memory of this process that is not pages of files, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf8").splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _peak():
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300, help="of text")
    parser.add_argument("--shapes", default="file", help=f"of {', '.join(SHAPES)}, with commas")
    parser.add_argument("--tokenizers", default="bpe", help="of those that are trained, with commas")
    parser.add_argument("--then", default="", help="windows or pairs, with commas: what is made of the tokens afterwards")
    parser.add_argument("--directory", help="where the text and the tokens are put for the time; by default the system's")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
