"""The n-gram model beside KenLM on the Brown corpus: time and memory of the fit, perplexity, sums, speed of scoring.

    python -m benchmarks.ngram --brown=PATH                  a text with a sentence a line; every tenth is held out
    python -m benchmarks.ngram --brown=PATH --large=PATH     fits another, larger text too
    python -m benchmarks.ngram --brown=PATH --kenlm --peer_python=PATH    KenLM's module is in another interpreter
    python -m benchmarks.ngram --megabytes=295 --memory=,1G          a text made here: in memory and on disk, in bins and not
    python -m benchmarks.ngram --megabytes=295 --lmplz=PATH          and KenLM's lmplz on the same words

The fit is measured twice, each time in a process of its own: the numpy part alone, without TensorFlow, and
`NGram.fit_closed_form` in a process that has TensorFlow. KenLM's lmplz is a program that no package index carries. It is built
from the `kenlm` source package with CMake and Boost. Without `--lmplz` the figures printed for it were measured once on two
cores, elsewhere. Its seconds cover reading text and writing ARPA; ours for these two are printed apart. KenLM's queries are
measured in this run through its Python module, sentence by sentence, on the ARPA file that we write; our side scores the same
text in one call of a TensorFlow graph, without XLA.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from benchmarks import prepare_memory, sides

LMPLZ = "lmplz, measured elsewhere: 2.3 s and 423 MB for Brown; 8.3 s and 870 MB for 5.3M tokens of text"
REFERENCE = {"perplexity": 309.386, "perplexity_without_oov": 254.446}
HISTORIES = 4_096
SCORED_TOKENS = 2**16


def main(argv=None):
    args = _parser().parse_args(argv)
    if args.worker:
        return WORKERS[args.worker](args)
    if args.megabytes:
        return _compare_memory(args)
    with tempfile.TemporaryDirectory() as directory:
        args.directory = directory
        prepared = _worker(args, "prepare")
        print(f"{prepared['tokens']:,} tokens, {prepared['vocab_size']:,} ids; text to ids {prepared['seconds']:.2f} s")
        _report_fit(args)
        quality = _worker(args, "judge")
        _report_quality(quality)
        _report_speed(args, quality)
        if args.large:
            args.brown, args.hold_out = args.large, 0
            prepared = _worker(args, "prepare")
            print(f"\n{args.large}: {prepared['tokens']:,} tokens, text to ids {prepared['seconds']:.2f} s")
            _report_fit(args)
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ngram", description=__doc__.splitlines()[0])
    parser.add_argument("--brown", help="the text, a sentence a line")
    parser.add_argument("--large", help="another text, for time and memory of the fit only")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--hold_out", type=int, default=10, help="every n-th line is held out; 0 holds out none")
    parser.add_argument("--kenlm", action="store_true", help="measure KenLM's queries as well")
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has kenlm")
    parser.add_argument("--rounds", type=int, default=7, help="how often the text is scored")
    parser.add_argument("--fits", type=int, default=3, help="how often each fit is measured")
    parser.add_argument("--megabytes", type=int, help="make a text of this size, and fit it with each of --memory")
    parser.add_argument("--memory", default=",1G", help="sizes as --set=memory= takes them; an empty one is all in memory")
    parser.add_argument("--lmplz", help="KenLM's program, for the text of --megabytes")
    parser.add_argument("--lmplz_memory", default="4G", help="what it may use, as its -S takes it")
    parser.add_argument("--bits", default="0", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser


def _command(args, worker, python=sys.executable):
    options = {name: getattr(args, name) for name in ("brown", "order", "hold_out", "directory", "memory", "bits")}
    options |= {"lmplz": args.lmplz, "lmplz_memory": args.lmplz_memory} if args.lmplz else {}
    return [python, "-m", "benchmarks.ngram", f"--worker={worker}", *(f"--{k}={v}" for k, v in options.items())]


def _worker(args, name):
    """Runs one stage in a process of its own; returns the JSON that it prints last."""
    done = subprocess.run(_command(args, name), cwd=sides.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The stage {name!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _lines(args):
    """(training lines, held-out lines) of the text."""
    lines = Path(args.brown).read_text(encoding="utf8").splitlines()
    if not args.hold_out:
        return lines, []
    held_out = lines[args.hold_out - 1 :: args.hold_out]
    del lines[args.hold_out - 1 :: args.hold_out]
    return lines, held_out


def _prepare(args):
    """Text to streams of ids, which the other stages read."""
    from zoo.tokenizers.word import WordTokenizer

    start, (train, held_out) = time.perf_counter(), _lines(args)
    tokenizer = WordTokenizer.train(["\n".join(train)])
    streams = {}
    for name, lines in {"train": train, "held_out": held_out}.items():
        ids = tokenizer.encode("\n".join(lines))
        streams[name] = np.array([tokenizer.eos_id, *ids, tokenizer.eos_id], np.int32)
        np.save(Path(args.directory) / f"{name}.npy", streams[name])
    seconds = time.perf_counter() - start
    sizes = dict(vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    words = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    (Path(args.directory) / "vocabulary.json").write_text(json.dumps([sizes, words]), encoding="utf8")
    print(json.dumps({"seconds": seconds, "tokens": len(streams["train"]) - 1, **sizes}))


def _read(args, name):
    """(ids, sizes of the vocabulary, words), as `_prepare` left them."""
    sizes, words = json.loads((Path(args.directory) / "vocabulary.json").read_text(encoding="utf8"))
    return np.load(Path(args.directory) / f"{name}.npy"), sizes, words


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _core_seconds():
    """Of this process and of the children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _estimate(args):
    """The numpy part of the fit, alone: this process never imports TensorFlow."""
    from zoo.layers import ngram_estimation

    ids, sizes, _ = _read(args, "train")
    before, start = _peak_mb(), time.perf_counter()
    tables = ngram_estimation.estimate(ids, args.order, sizes["vocab_size"], sizes["eos_id"])
    seconds = time.perf_counter() - start
    counts = [len(table.keys) for table in tables]
    print(json.dumps({"seconds": seconds, "before_mb": before, "peak_mb": _peak_mb(), "counts": counts}))


def _shards(args):
    """Text to token shards, as a run makes them."""
    import tfds_configs
    from trainers.prepare import prepare

    start = time.perf_counter()
    source = tfds_configs.get("local_text", args.brown)
    tokenizer, streams = prepare(source, "word", cache_dir=Path(args.directory) / "cache", splits=["train", "validation"])
    seconds, core_seconds = time.perf_counter() - start, _core_seconds()
    words = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    (Path(args.directory) / "words.json").write_text(json.dumps(words), encoding="utf8")
    made = {"seconds": seconds, "core_seconds": core_seconds, "tokens": len(streams["train"])}
    print(json.dumps({**made, "shards": str(streams["train"].directory)}))


def _lmplz(args):
    """KenLM's program on the words of the shards, a document a line: seconds from text to ARPA, and its peak memory."""
    from zoo.data.shards import TokenShards

    shards, folder = TokenShards.open(args.brown), Path(args.directory)
    words = np.array(json.loads((folder / "words.json").read_text(encoding="utf8")), object)
    # lmplz refuses words that it uses itself.
    words[[word in ("<unk>", "<s>", "</s>") for word in words]] = "<unknown>"
    words[shards.eos_id] = "\n"
    with open(folder / "words.txt", "w", encoding="utf8") as file:
        for start in range(0, len(shards), 2**20):
            file.write(" ".join(words[shards[start : start + 2**20]]) + " ")
    command = [args.lmplz, "-o", str(args.order), "-S", args.lmplz_memory, "-T", str(folder), "--discount_fallback"]
    start = time.perf_counter()
    with open(folder / "words.txt", "rb") as text, open(folder / "lmplz.arpa", "wb") as arpa:
        done = subprocess.run(command, stdin=text, stdout=arpa, stderr=subprocess.PIPE, text=True, check=False)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"lmplz failed: {done.stderr[-1000:]}")
    with open(folder / "lmplz.arpa", encoding="utf8", errors="replace") as file:
        heads = itertools.takewhile(lambda line: not line.startswith("\\1-grams"), file)
        counts = [int(line.partition("=")[2]) for line in heads if line.startswith("ngram ")]
    (folder / "lmplz.arpa").unlink()
    core_seconds = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "core_seconds": core_seconds, "peak_mb": used.ru_maxrss / 1024, "counts": counts}))


def _count(args):
    """The numpy part of the fit of shards, alone, and a checksum of its tables."""
    from zoo.data.shards import TokenShards
    from zoo.layers import ngram_estimation, ngram_external
    from zoo.registry import MODELS

    shards, memory = TokenShards.open(args.brown), MODELS.config("ngram")(memory=args.memory).memory_bytes()
    size = (args.order, shards.vocab_size, shards.eos_id)
    before, start, used = _peak_mb(), time.perf_counter(), time.process_time()
    external = ngram_external.estimate
    tables = external(shards, *size, memory=memory) if memory else ngram_estimation.estimate(shards[:], *size)
    found = {"seconds": time.perf_counter() - start, "core_seconds": time.process_time() - used}
    found |= {"before_mb": before, "peak_mb": _peak_mb()}
    checksum = 0
    for table in tables:
        for column in filter(lambda column: column is not None, (table.keys, table.log_probs, table.log_backoffs)):
            for rows in range(0, len(column), 2**20):
                checksum = zlib.crc32(column[rows : rows + 2**20].tobytes(), checksum)
    print(json.dumps({**found, "counts": [len(table.keys) for table in tables], "checksum": checksum}))


def _bins(args):
    """A model of shards in float32 and one in bins: bytes of the tables, loss on the validation text, and speed of scoring."""
    import tensorflow as tf

    from zoo.data.shards import TokenShards
    from zoo.models.ngram import NGram, NGramConfig

    shards = TokenShards.open(args.brown)
    held_out = TokenShards.open(Path(args.brown).with_name("validation"))
    size = dict(order=args.order, vocab_size=shards.vocab_size, eos_id=shards.eos_id)
    model = NGram(NGramConfig(**size, bits=int(args.bits), memory="512M"))
    model.fit_closed_form(shards)
    score = tf.function(lambda token_ids, labels: tf.reduce_sum(model.token_log_probs(token_ids, labels)[0]))
    total, seconds, num_tokens = 0.0, [], len(held_out) - 1
    size = min(SCORED_TOKENS, num_tokens // 3)
    for start in range(0, num_tokens - num_tokens % size, size):
        ids = tf.constant(held_out[start : start + size + 1])[None]
        began = time.perf_counter()
        total += float(score(ids[:, :-1], ids[:, 1:]))
        seconds.append(time.perf_counter() - began)
    num_scored = len(seconds) * size
    loss = -total / num_scored
    print(json.dumps({
        "bytes": sum(weight.numpy().nbytes for weight in model.weights), "ngrams": model.config.num_params(), "loss": loss,
        "bits_per_byte": loss * num_tokens / np.log(2) / held_out.num_bytes,
        "speed": size / statistics.median(seconds[1:]),
    }))  # fmt: skip


def _compare_memory(args):
    with tempfile.TemporaryDirectory() as directory:
        args.directory = directory
        args.brown = str(prepare_memory.make_text(directory, args.megabytes * prepare_memory.MEGABYTE, "file"))
        made = _worker(args, "shards")
        print(
            f"{args.megabytes} MB of text, {made['tokens']:,} tokens of its first nine tenths, ids in {made['seconds']:.1f} s "
            f"({made['core_seconds']:.1f} core s)"
        )
        args.brown = made["shards"]
        for memory in args.memory.split(","):
            args.memory = memory
            found = _worker(args, "count")
            title = f"memory={memory}" if memory else "all in memory"
            peak = f"peak {found['peak_mb']:,.0f} MB, {found['before_mb']:,.0f} before"
            seconds = f"{found['seconds']:6.1f} s, {found['core_seconds']:6.1f} core s"
            print(f"{title:15} {seconds}, {peak}; tables {found['checksum']:08x}", flush=True)
        print("n-grams: " + " / ".join(f"{count:,}" for count in found["counts"]))
        if args.lmplz:
            peer = _worker(args, "lmplz")
            seconds = f"{peer['seconds']:6.1f} s, {peer['core_seconds']:6.1f} core s"
            print(f"{'lmplz, to ARPA':15} {seconds}, peak {peer['peak_mb']:,.0f} MB of -S {args.lmplz_memory}")
            print("its n-grams: " + " / ".join(f"{count:,}" for count in peer["counts"]) + " (a <s> of its own)", flush=True)
        for bits in ("0", "8"):
            args.bits = bits
            found = _worker(args, "bins")
            size = f"{found['bytes'] / 1e6:7,.1f} MB, {found['bytes'] / found['ngrams']:5.2f} bytes an n-gram"
            loss = f"held out: loss {found['loss']:.4f}, bits per byte {found['bits_per_byte']:.4f}"
            print(f"bits={bits} {size}; {loss}; {found['speed'] / 1e6:.2f}M tokens/s", flush=True)
    return 0


def _fitted(args):
    from zoo.models.ngram import NGram, NGramConfig

    ids, sizes, words = _read(args, "train")
    model = NGram(NGramConfig(order=args.order, **sizes))
    before, start = _peak_mb(), time.perf_counter()
    model.fit_closed_form(ids)
    fit = {"seconds": time.perf_counter() - start, "before_mb": before, "peak_mb": _peak_mb()}
    return model, words, fit


def _fit(args):
    print(json.dumps(_fitted(args)[2]))


def _judge(args):
    """Perplexities, sums over V, and the ARPA file that KenLM will read."""
    from zoo.convert import arpa

    model, words, _ = _fitted(args)
    ids, sizes, _ = _read(args, "held_out")
    log_probs = model.token_log_probs(ids[None, :-1], ids[None, 1:])[0].numpy()[0].astype(np.float64)
    known = ids[1:] != sizes["unk_id"]
    histories = model.features(ids[None])[0].numpy()[0]
    rng = np.random.default_rng(0)
    histories = histories[rng.choice(len(histories), min(HISTORIES, len(histories)), replace=False)]
    deviation = 0.0
    for part in np.array_split(histories, 64):
        logits = model.project(part[None]).numpy()[0].astype(np.float64)
        deviation = max(deviation, abs(np.exp(logits).sum(-1) - 1).max())
    start = time.perf_counter()
    arpa.write(Path(args.directory) / "model.arpa", model, words)
    print(json.dumps({
        "counts": model.config.ngram_counts, "tokens": len(ids) - 1, "oov": int((~known).sum()),
        "perplexity": np.exp(-log_probs.mean()), "perplexity_without_oov": np.exp(-log_probs[known].mean()),
        "deviation": deviation, "histories": len(histories), "arpa_seconds": time.perf_counter() - start,
        "log10_sum": log_probs.sum() / np.log(10),
    }))  # fmt: skip


def _ours(args):
    """A side: scores the held-out text in graph, one call for all of it, without XLA."""
    import tensorflow as tf

    model, _, _ = _fitted(args)
    ids = tf.constant(_read(args, "held_out")[0])[None]
    score = tf.function(lambda token_ids, labels: tf.reduce_sum(model.token_log_probs(token_ids, labels)[0]))
    sides.serve(lambda: score(ids[:, :-1], ids[:, 1:]).numpy())


def _kenlm(args):
    """A side: KenLM scores the same text, sentence by sentence, as its Python module offers it."""
    import kenlm

    model = kenlm.Model(str(Path(args.directory) / "model.arpa"))
    sentences = _lines(args)[1]
    total = sum(map(model.score, sentences))
    (Path(args.directory) / "kenlm.json").write_text(json.dumps(total), encoding="utf8")
    sides.serve(lambda: sum(map(model.score, sentences)))


WORKERS = {
    "prepare": _prepare,
    "estimate": _estimate,
    "shards": _shards,
    "count": _count,
    "lmplz": _lmplz,
    "bins": _bins,
    "fit": _fit,
    "judge": _judge,
    "ours": _ours,
    "kenlm": _kenlm,
}


def _report_fit(args):
    for name, title in [("estimate", "fit, numpy alone"), ("fit", "fit, NGram.fit_closed_form")]:
        runs = [_worker(args, name) for _ in range(args.fits)]
        seconds = sorted(run["seconds"] for run in runs)
        peak, before = max(run["peak_mb"] for run in runs), max(run["before_mb"] for run in runs)
        print(
            f"{title}: median {statistics.median(seconds):.2f} s, best {seconds[0]:.2f}, worst {seconds[-1]:.2f}; "
            f"peak {peak:.0f} MB, {peak - before:.0f} more than before the fit"
        )
    print(f"({LMPLZ})")


def _report_quality(found):
    print("n-grams: " + " / ".join(f"{count:,}" for count in found["counts"]) + " (KenLM counts one unigram more, <s>)")
    print(f"held out: {found['tokens']:,} tokens with sentence ends, {found['oov']:,} unknown")
    for name, reference in REFERENCE.items():
        error = found[name] / reference - 1
        title = name.replace("_", " ")
        print(f"{title}: {found[name]:.3f} (KenLM on Brown, order 5: {reference}; off by {error:+.5%})")
    print(f"sum over V: at most {found['deviation']:.1e} from 1 in {found['histories']:,} histories")
    print(f"ARPA written in {found['arpa_seconds']:.1f} s")


def _report_speed(args, quality):
    commands = {"zoo, in graph": _command(args, "ours")}
    if args.kenlm and sides.has_module(args.peer_python, "kenlm"):
        commands["kenlm, Python module"] = _command(args, "kenlm", args.peer_python)
    elif args.kenlm:
        print(f"kenlm is not installed in {args.peer_python}: no figure and no ratio for it (pass --peer_python).")
    print("scoring the held-out text:")
    seconds = sides.measure(commands, args.rounds)
    sides.report(seconds, ["zoo, in graph"], ["kenlm, Python module"], quality["tokens"], "tokens")
    if len(commands) > 1:
        theirs = json.loads((Path(args.directory) / "kenlm.json").read_text(encoding="utf8"))
        print(f"log10 probability of the text: ours {quality['log10_sum']:.3f}, KenLM's {theirs:.3f}")


if __name__ == "__main__":
    sys.exit(main())
